// SPDX-License-Identifier: MIT OR Apache-2.0
//! What systemd is told, which `systemctl status` shows.

use std::process::Command;
use std::time::Duration;

use live::exporter::Exporter;
use live::notify::Listener;
use rustix::process::Signal;

/// Time limit for a step of the start, on an emulated, busy machine.
const LIMIT: Duration = Duration::from_secs(60);

#[live::test(once)]
fn systemd_is_told_how_the_start_goes_and_what_came_of_it() {
    let listener = Listener::new(LIMIT);
    let exporter = Exporter::spawn(listener.hear(&mut Command::new("ebpf-syscall-exporter")));
    let heard = listener.until("READY=1");
    let [first, second, .., last] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!(first, "STATUS=choosing probes...");
    assert_eq!(second, "STATUS=loading and attaching probes...");
    assert_eq!(last, "READY=1 STATUS=ready with 1 of 1 probe attached");
    exporter.end(Signal::TERM);
    assert_eq!(listener.until("STOPPING=1"), ["STOPPING=1 STATUS=detaching probes"]);
}

#[live::test(once)]
fn systemd_is_told_what_goes_on_without_probes() {
    let listener = Listener::new(LIMIT);
    let mut without = Command::new("ebpf-diskio-exporter");
    let exporter = Exporter::spawn(listener.hear(without.args(["--ebpf", "off"])));
    assert_eq!(listener.until("READY=1"), ["READY=1 STATUS=ready with no programs"]);
    exporter.end(Signal::TERM);
    let exporter = Exporter::spawn(listener.hear(&mut Command::new("ebpf-diskio-exporter")));
    listener.until("READY=1");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(exporter.pid() as i32).unwrap(),
        Signal::USR1,
    )
    .unwrap();
    let heard = listener.hears().unwrap();
    assert!(heard[0].starts_with("STATUS=detached all probes"), "{heard:?}");
}

#[live::test(once)]
fn systemd_is_told_in_one_line_why_an_exporter_ends() {
    let listener = Listener::new(LIMIT);
    let mut command = Command::new("ebpf-schedlat-exporter");
    let output = listener.hear(command.args(["--ebpf", "off"])).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let heard = listener.hears().unwrap();
    assert_eq!(heard, ["STATUS=cannot run without eBPF: schedlat has no other source for its metrics"]);
}
