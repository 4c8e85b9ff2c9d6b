// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a package does to a machine: one target for all exporters, modules that are loaded later, an
//! upgrade, and a removal that leaves nothing behind.

use live::exporter::{unit_becomes, unit_state};
use live::{PAYLOAD, bpf_programs, sh};

use crate::{exporters, folder_of_users};

/// Two that need no kernel module and two that do; `they_run_together_on_a_busy_machine` starts
/// them all, which takes a minute.
const SOME: &[&str] = &["diskio", "schedlat", "wireguard", "zfs-txg"];

fn unit(name: &str) -> String {
    format!("ebpf-{name}-exporter")
}

/// Number of programs in the kernel, without those that systemd loads for its own units.
fn programs() -> usize {
    bpf_programs().iter().filter(|name| !name.starts_with("sd_")).count()
}

#[live::test(module("zfs"), module("wireguard"), own_machine, once)]
fn it_starts_everything_upgrades_in_place_and_leaves_nothing() {
    let others: Vec<String> =
        exporters().into_keys().filter(|name| !SOME.contains(&&**name)).map(|name| unit(&name)).collect();
    let others = others.join(" ");
    sh(&format!("systemctl mask --runtime {others} 2> /dev/null"));
    // Debian's udev rule loads ZFS when a disk with a pool's label is closed after writing.
    sh("mkdir -p /run/udev/rules.d; ln -sf /dev/null /run/udev/rules.d/90-zfs.rules; udevadm control --reload
        systemctl stop zfs-zed 2> /dev/null || :
        zpool export -a; modprobe -r zfs; modprobe -r wireguard || :; udevadm settle");
    let before = programs();
    sh("systemctl enable --now ebpf-exporters.target");
    let of_module = |name: &str| match name {
        "wireguard" => Some("wireguard"),
        name => name.starts_with("zfs-").then_some("zfs"),
    };
    for name in SOME {
        let Some(module) = of_module(name) else {
            unit_becomes(&unit(name), "active");
            continue;
        };
        assert_eq!(unit_state(&unit(name)), "inactive", "{name}");
        let said = sh(&format!("systemctl status --no-pager {} || :", unit(name)));
        assert!(said.contains(&format!("/sys/module/{module} was not met")), "{said}");
    }

    // The unit for programs of users is skipped, not failed: there are none.
    let folder = folder_of_users("custom").unwrap();
    assert_eq!(sh(&format!("ls -A {folder}")), "");
    assert_eq!(unit_state(&unit("custom")), "inactive");
    let said = sh(&format!("systemctl status --no-pager {} || :", unit("custom")));
    assert!(said.contains(&format!("{folder} was not met")), "{said}");
    assert_eq!(sh("pgrep -l ebpf-custom || :"), "");

    sh("modprobe zfs; modprobe wireguard");
    SOME.iter().for_each(|name| unit_becomes(&unit(name), "active"));

    // Settings from files: flags for all exporters without flags of their own, and one base for all
    // ports. Then the same package again, as an upgrade, which restarts all exporters.
    sh("echo 'ARGS=--web.telemetry-path=/shared' > /etc/default/ebpf-exporters
        echo EBPF_EXPORTERS_PORT_BASE=19100 >> /etc/default/ebpf-exporters
        echo 'ARGS=--web.listen-address=127.0.0.1:9201' > /etc/default/ebpf-diskio-exporter");
    let pids = || SOME.iter().map(|name| sh(&format!("systemctl show -P MainPID {}", unit(name)))).collect();
    let old: Vec<String> = pids();
    sh(&format!("dpkg -i {PAYLOAD}/*.deb"));
    SOME.iter().for_each(|name| unit_becomes(&unit(name), "active"));
    let new: Vec<String> = pids();
    assert!(new.iter().zip(&old).all(|(new, old)| new != old && new != "0"), "{old:?} {new:?}");
    sh("curl -sf http://127.0.0.1:9201/metrics > /dev/null; curl -sf http://127.0.0.1:19107/shared > /dev/null
        if curl -s http://127.0.0.1:9107/; then exit 1; fi
        rm /etc/default/ebpf-exporters /etc/default/ebpf-diskio-exporter");
    let limits = sh(&format!("cat /proc/{}/limits", new[0]));
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(
        core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(),
        ["0", "0"],
        "no memory of it is left"
    );

    let files = sh("dpkg -L ebpf-exporters");
    sh(&format!(
        "systemctl unmask --runtime {others} 2> /dev/null
         systemctl enable ebpf-textfile@diskio.timer 2> /dev/null; dpkg -r ebpf-exporters"
    ));
    let left: Vec<&str> = files
        .lines()
        .filter(|path| path.contains("ebpf") && std::fs::symlink_metadata(path).is_ok())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(sh("find /etc /run/systemd /var/lib -name '*ebpf-*' -not -path '*/dpkg/*'"), "");
    assert_eq!(sh("systemctl list-units --all --no-legend 'ebpf-*'"), "");
    assert_eq!(sh("pgrep -l ebpf- || :"), "");
    live::wait_until("programs gone", std::time::Duration::from_secs(30), || programs() == before);

    // Restore the package for the tests after this one.
    sh(&format!("dpkg -i {PAYLOAD}/*.deb; rm /run/udev/rules.d/90-zfs.rules"));
}
