// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for a CPU in a guest, compared with the scheduler's own sums in /proc/schedstat.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::time::Duration;

use guest::exporter::Exporter;
use guest::exposition::Delta;
use guest::truth::{agrees, between, schedstat};
use guest::work::{hogs, ping_pong, processes};
use guest::{install_package, sh};

const NAME: &str = "ebpf_sched_runqueue_latency_microseconds";
const BY_CGROUP: &str = "ebpf_sched_cgroup_runqueue_latency_microseconds";

fn start(flags: &[&str]) -> Exporter {
    install_package();
    Exporter::start("schedlat", flags)
}

/// Sum and count are those of the kernel.
fn agrees_with_schedstat(what: &str, work: impl FnOnce()) -> Delta {
    let exporter = start(&[]);
    let (delta, [sum, count]) = between(&exporter, schedstat, work);
    let ours = (delta.of(&format!("{NAME}_sum"), &[]) * 1e3, delta.of(&format!("{NAME}_count"), &[]));
    println!("{what}: {ours:?} ns and waits, schedstat {sum:?} and {count:?}");
    assert!(agrees(ours.1, &count, 0.0), "{what}: {} waits, the kernel {count:?}", ours.1);
    assert!(agrees(ours.0, &sum, 0.005), "{what}: {} ns, the kernel {sum:?}", ours.0);
    delta.assert_whole();
    delta
}

#[test]
fn preempted_tasks_wait_too() {
    let delta = agrees_with_schedstat("5 hogs", || hogs(5, Duration::from_secs(4)));
    // Five tasks share two CPUs: three wait at any time.
    let seconds = delta.of(&format!("{NAME}_sum"), &[]) / 1e6;
    assert!(seconds > 6.0, "{seconds} s");
}

#[test]
fn woken_tasks_wait() {
    agrees_with_schedstat("8 pairs", || ping_pong(8, 2003));
}

#[test]
fn new_tasks_wait() {
    agrees_with_schedstat("200 processes", || processes(200));
}

#[test]
fn control_groups_add_up_to_all() {
    let exporter = start(&["--schedlat.cgroup"]);
    let before = exporter.scrape();
    sh(
        "systemd-run --quiet --wait --unit=hogs sh -c 'for n in 1 2 3; do timeout 2 sh -c \"while :; do :; done\" & done; wait'",
    );
    let delta = Delta(before, exporter.scrape());
    let hogs = delta.of(&format!("{BY_CGROUP}_sum"), &[("cgroup", "/system.slice/hogs.service")]);
    // Nobody asked while the group was there: its time is under "gone", and not lost.
    let gone = delta.of(&format!("{BY_CGROUP}_sum"), &[("cgroup", "gone")]);
    assert!((hogs + gone) / 1e6 > 0.5, "{hogs} us, gone {gone} us");
    let (groups, all) =
        (delta.of(&format!("{BY_CGROUP}_count"), &[]), delta.of(&format!("{NAME}_count"), &[]));
    // Maps are read one after the other, and the machine goes on meanwhile.
    assert!((groups - all).abs() <= all * 0.02 + 50.0, "{groups} in groups, {all} in all");
    assert!(
        delta
            .1
            .get(&format!("{BY_CGROUP}_count"), &[("cgroup", "/system.slice/guest-run.service")])
            .is_some()
    );
}

#[test]
fn more_control_groups_than_fit_are_folded() {
    let exporter = start(&["--schedlat.cgroup", "--max-series", "16"]);
    let before = exporter.scrape();
    sh("for n in $(seq 40); do
            mkdir /sys/fs/cgroup/many$n
            sh -c \"echo \\$\\$ > /sys/fs/cgroup/many$n/cgroup.procs; sleep 0.01; sleep 0.01\"
        done");
    let delta = Delta(before, exporter.scrape());
    sh("rmdir /sys/fs/cgroup/many*");
    let groups = delta.1.labels(&format!("{BY_CGROUP}_count")).len();
    assert!(groups <= 16, "{groups} groups");
    let folded = delta.of("ebpf_exporter_folded_events_total", &[]);
    let other = delta.of(&format!("{BY_CGROUP}_count"), &[("cgroup", "other")]);
    assert!(folded > 24.0 && (other - folded).abs() < 50.0, "{folded} folded, {other} under other");
    assert_eq!(delta.of("ebpf_exporter_lost_events_total", &[]), 0.0);
}
