// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module and the unit: what is left when probes are let go, and when the module goes.

use std::process::Command;
use std::time::Duration;

use live::exporter::{Exporter, unit_becomes, unit_lets_go, unit_state, until};
use live::exposition::Exposition;
use live::wireguard::{Tunnel, peers};
use live::{bpf_programs, sh, wait_until};

use super::{ATTEMPTS, BYTES, SUCCESS, start};

#[live::test(kprobes, module("wireguard"), tool("wg"), own_machine)]
fn netlink_alone_needs_no_program_and_probes_can_be_let_go() {
    Exporter::end_shared();
    let exporter = start("netlink");
    let tunnel = Tunnel::new("");
    tunnel.exchange("left", "right", "10.98.0.2", 3);
    let ours = || bpf_programs().iter().filter(|name| name.starts_with("initiated")).count();
    assert_eq!(ours(), 0);
    let text = exporter.scrape();
    let right = peers("right").remove(0);
    let bytes = |direction| text.get(BYTES, &[("netns", "right"), ("direction", direction)]);
    assert_eq!((bytes("rx"), bytes("tx")), (Some(right.rx), Some(right.tx)));
    assert!(text.get("ebpf_wireguard_handshake_age_seconds", &[("netns", "right")]).is_some());
    assert!(text.labels(ATTEMPTS).is_empty(), "{text:?}");
    drop(exporter);

    let exporter = start("session");
    // Several copies if the kernel preempts tasks in programs.
    assert_ne!(ours(), 0);
    tunnel.exchange("left", "right", "10.98.0.2", 1);
    assert!(!exporter.scrape().labels(ATTEMPTS).is_empty());
    sh(&format!("kill -USR1 {}", exporter.pid()));
    wait_until("its programs are gone", Duration::from_secs(30), || ours() == 0);
    let text = exporter.scrape();
    assert!(text.labels(ATTEMPTS).is_empty(), "{text:?}");
    assert_eq!(text.get("ebpf_exporter_mode", &[("mode", "fallback")]), Some(1.0));
    assert!(text.get(BYTES, &[("netns", "right"), ("direction", "rx")]).is_some());
    drop(tunnel);
    // Nothing uses the module any more, but the last reference may be dropped a moment later.
    wait_until("the module can be unloaded", Duration::from_secs(60), || {
        Command::new("modprobe").args(["-r", "wireguard"]).status().unwrap().success()
    });
}

#[live::test(kprobes, module("wireguard"), tool("wg"), own_machine, last)]
fn the_unit_comes_and_goes_with_the_module() {
    Exporter::end_shared();
    sh("modprobe -r wireguard; systemctl enable --now ebpf-wireguard-exporter 2> /dev/null");
    let output = Command::new("ebpf-wireguard-exporter").arg("--check").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("module wireguard is not loaded"));
    let unit = "ebpf-wireguard-exporter";
    assert_eq!(unit_state(unit), "inactive");
    let tunnel = Tunnel::new("");
    unit_becomes(unit, "active");
    // The unit, with its privileges, sees namespaces that were created after it started.
    tunnel.exchange("left", "right", "10.98.0.2", 3);
    until(9115, "it counts", |text| text.count(SUCCESS, &[("netns", "right")]) >= 1.0);
    let pid = sh("systemctl show -P MainPID ebpf-wireguard-exporter");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    // CAP_NET_ADMIN is 12, CAP_SYS_ADMIN 21, CAP_BPF 39.
    let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
    assert_eq!(capabilities & !(1 << 12 | 1 << 21 | 1 << 39), 0, "{status}");
    let memory: u64 = field("VmRSS:").parse().unwrap();
    assert!(memory <= 4096, "{memory} kB resident");
    // A folder that only root may read, as Docker's, is reported, unless the unit may read it.
    let left_out = |text: &Exposition| text.get("ebpf_wireguard_namespaces_left_out", &[]);
    let here = |text: &Exposition| {
        text.get("ebpf_wireguard_peer_info", &[("netns", "right")]).is_some() && left_out(text) == Some(0.0)
    };
    until(9115, "all namespaces are seen", here);
    sh("chmod 700 /run/netns");
    until(9115, "no namespace is seen", |text| !here(text) && left_out(text) == Some(1.0));
    let said = sh("journalctl -u ebpf-wireguard-exporter -o cat");
    assert!(said.contains("skipping network namespaces in /run/netns: Permission denied"), "{said}");
    sh("mkdir -p /run/systemd/system/ebpf-wireguard-exporter.service.d
        printf '[Service]\\nCapabilityBoundingSet=CAP_DAC_READ_SEARCH\\nAmbientCapabilities=CAP_DAC_READ_SEARCH\\n' \
            > /run/systemd/system/ebpf-wireguard-exporter.service.d/docker.conf
        systemctl daemon-reload; systemctl restart ebpf-wireguard-exporter");
    until(9115, "namespaces are seen", here);
    sh("chmod 755 /run/netns; rm -r /run/systemd/system/ebpf-wireguard-exporter.service.d
        systemctl daemon-reload; systemctl restart ebpf-wireguard-exporter");
    drop(tunnel);
    sh("systemctl kill -s USR1 ebpf-wireguard-exporter");
    wait_until("the module can be unloaded", Duration::from_secs(180), || {
        Command::new("modprobe").args(["-r", "wireguard"]).status().unwrap().success()
    });
    unit_lets_go(unit, 9115);
    sh("systemctl disable --now ebpf-wireguard-exporter");
}
