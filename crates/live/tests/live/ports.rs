// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports that are in use, and the setting that moves the ports of all exporters.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use live::exporter::until;
use live::work::Running;

use crate::refusals::fails;

const BASE: &str = "EBPF_EXPORTERS_PORT_BASE";

fn diskio() -> Command {
    Command::new("ebpf-diskio-exporter")
}

#[live::test(once, tool("setpriv"))]
fn one_setting_moves_every_port_and_an_address_wins() {
    let daemon = Running::start(diskio().env(BASE, "19300").stderr(Stdio::null()));
    until(19301, "it listens", |text| text.get("ebpf_exporter_scrapes_total", &[]).is_some());

    // The error names the process that has the port, and the settings that change the port.
    let (code, said) = fails(diskio().env(BASE, "19300"));
    let holder = format!("taken by ebpf-diskio-exporter (pid {})", daemon.0.id());
    assert_eq!(code, Some(1), "{said}");
    for word in [&holder, ":19301", "--web.listen-address", BASE] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // A process of another user may be hidden. The error says so, and not that there is none.
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "ebpf-diskio-exporter"]);
    let (code, said) = fails(other.env(BASE, "19300"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("a process of user 0 that this process may not inspect"), "{said}");
    assert!(said.contains("ss -ltnp"), "{said}");

    let address = "--web.listen-address=127.0.0.1:19399";
    let second = Running::start(diskio().env(BASE, "none").arg(address).stderr(Stdio::null()));
    until(19399, "it listens", |text| text.get("ebpf_exporter_scrapes_total", &[]).is_some());
    drop((daemon, second));

    // An empty value counts as absent.
    let (code, said) = fails(diskio().env(BASE, "").args(["--ebpf=off", "--web.config.file=/nonexistent"]));
    assert!(!said.contains(BASE), "{code:?} {said}");
}

#[live::test(once)]
fn what_is_no_base_is_refused_in_a_sentence() {
    for wrong in ["none", "0", "-1", "65535", "70000", " 19100", "19100,", "0x4a9c"] {
        let (code, said) = fails(diskio().env(BASE, wrong).arg("--check"));
        assert_eq!(code, Some(2), "{wrong}: {said}");
        assert!(said.contains(&format!("{BASE}={wrong}: ")) && said.contains("such as 19100"), "{said}");
    }
}

#[live::test(once)]
fn a_port_that_another_program_has_is_named_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for listen in [format!(":{}", address.port()), address.to_string()] {
        let (code, said) = fails(diskio().args(["--web.listen-address", &listen]));
        assert_eq!(code, Some(1), "{said}");
        let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
        let holder = format!("taken by {}", comm.trim_end());
        let pid = format!("(pid {})", std::process::id());
        assert!(said.contains(&holder) && said.contains(&pid), "{holder} {pid}: {said}");
    }
    drop(listener);
    let (code, said) = fails(
        diskio().args(["--web.listen-address=127.0.0.1:19398", "--web.listen-address=127.0.0.1:19398"]),
    );
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("taken by this process, for another address"), "{said}");
}
