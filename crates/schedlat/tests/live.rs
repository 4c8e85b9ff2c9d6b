// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for a CPU, compared with the scheduler's own sums: of all tasks in /proc/schedstat,
//! and of one task in /proc/PID/schedstat.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use live::cgroup::Group;
use live::exporter::Exporter;
use live::exposition::Delta;
use live::truth::{agrees, between, schedstat};
use live::work::{Running, hogs, ping_pong, processes};
use live::{sh, wait_until};
use rustix::process::{Pid, Signal, kill_process};

const NAME: &str = "ebpf_sched_runqueue_latency_microseconds";
const BY_CGROUP: &str = "ebpf_sched_cgroup_runqueue_latency_microseconds";

fn start(flags: &[&str]) -> Exporter {
    Exporter::start("schedlat", flags)
}

/// How often to compare sums. The processors of an emulated machine pause in turn. A wait across the
/// start or end of a measurement may then be one percent of it.
const ATTEMPTS: usize = 4;

/// Sum and count agree with the kernel's: the count always, the sum in one of the attempts.
fn agrees_with_schedstat(what: &str, work: impl Fn()) -> Delta {
    let exporter = start(&[]);
    // Of a thread's first wait, the part before a move to another CPU is not seen. Let the machine's
    // own threads run once before the measurement.
    processes(50);
    ping_pong(4, 100);
    let mut apart = Vec::new();
    for _ in 0..ATTEMPTS {
        let (delta, [sum, count]) = between(&exporter, schedstat, &work);
        delta.assert_whole();
        let ours = (delta.of(&format!("{NAME}_sum"), &[]) * 1e3, delta.of(&format!("{NAME}_count"), &[]));
        let said = format!("{what}: {ours:?} ns and waits, schedstat {sum:?} and {count:?}");
        println!("{said}");
        assert!(agrees(ours.1, &count, 0.0), "{said}");
        if agrees(ours.0, &sum, 0.005) {
            return delta;
        }
        apart.push(said);
    }
    panic!("{apart:#?}");
}

#[live::test(file("/proc/schedstat"))]
fn preempted_tasks_wait_too() {
    let delta = agrees_with_schedstat("5 hogs", || hogs(5, Duration::from_secs(4)));
    // Five tasks share two CPUs: three wait at any time.
    let seconds = delta.of(&format!("{NAME}_sum"), &[]) / 1e6;
    assert!(seconds > 6.0, "{seconds} s");
}

#[live::test(file("/proc/schedstat"))]
fn woken_tasks_wait() {
    agrees_with_schedstat("8 pairs", || ping_pong(8, 2003));
}

#[live::test(file("/proc/schedstat"))]
fn new_tasks_wait() {
    agrees_with_schedstat("200 processes", || processes(200));
}

#[live::test(cgroup2)]
fn control_groups_add_up_to_all() {
    let exporter = start(&["--schedlat.cgroup"]);
    let before = exporter.scrape();
    let group = Group::new("hogs");
    let line = "for n in 1 2 3; do timeout 2 sh -c 'while :; do :; done' & done; wait";
    assert!(group.shell(line).status().unwrap().success());
    let delta = Delta(before, exporter.scrape());
    let hogs = delta.of(&format!("{BY_CGROUP}_sum"), &[("cgroup", group.name())]);
    assert!(hogs / 1e6 > 0.5, "{hogs} us: {delta:?}");
    let (groups, all) =
        (delta.of(&format!("{BY_CGROUP}_count"), &[]), delta.of(&format!("{NAME}_count"), &[]));
    // The maps are read one after the other, and more waits are counted in between.
    assert!((groups - all).abs() <= all * 0.02 + 50.0, "{groups} in groups, {all} in all");
    // The cgroup of this program.
    let own = sh("sed -n 's/^0:://p' /proc/$PPID/cgroup");
    assert!(delta.1.get(&format!("{BY_CGROUP}_count"), &[("cgroup", &own)]).is_some(), "{own}");
}

/// How many times the current threads of process 1 have left a CPU.
fn switches_of_init() -> f64 {
    let text = sh("cat /proc/1/task/*/status");
    let switches = text.lines().filter_map(|line| line.split_once("_ctxt_switches:"));
    switches.map(|(_, number)| number.trim().parse::<f64>().unwrap()).sum()
}

#[live::test(cgroup2, file("/proc/self/schedstat"))]
fn waits_of_a_control_group_are_those_of_its_tasks() {
    let exporter = start(&["--schedlat.cgroup"]);
    let group = Group::new("hogs");
    let mut hogs = [0; 3].map(|_| {
        let mut shell = group.shell("read -r _; while :; do :; done");
        Running::start(shell.stdin(Stdio::piped()))
    });
    wait_until("all are in the group", Duration::from_secs(30), || group.processes().len() == hogs.len());
    // The sums of /proc/PID/schedstat: nanoseconds waited for a CPU, and times that a task got one.
    // And how many times a thread of process 1 left its CPU.
    let truth = || {
        let mut sums = [0.0, 0.0, switches_of_init()];
        for pid in group.processes() {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
            let fields: Vec<f64> = text.split_whitespace().map(|field| field.parse().unwrap()).collect();
            sums[0] += fields[1];
            sums[1] += fields[2];
        }
        sums
    };
    let (delta, [sum, count, of_init]) = between(&exporter, truth, || {
        for hog in &mut hogs {
            hog.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        }
        // They wait for each other if they are more than the CPUs, or else for other tasks.
        wait_until("they have waited", Duration::from_secs(60), || truth()[0] > 1e9 || truth()[1] > 5000.0);
        for hog in &hogs {
            kill_process(Pid::from_child(&hog.0), Signal::STOP).unwrap();
        }
        // The kernel's sum may already have a part of a wait in progress.
        wait_until("all have stopped", Duration::from_secs(60), || {
            hogs.iter().all(|hog| sh(&format!("cat /proc/{}/stat", hog.0.id())).contains(") T "))
        });
    });
    let of = |end: &str| delta.of(&format!("{BY_CGROUP}_{end}"), &[("cgroup", group.name())]);
    let (ours, waits) = (of("sum") * 1e3, of("count"));
    println!("{ours} ns of {waits} waits, the kernel {sum:?} of {count:?}");
    delta.assert_whole();
    assert!(agrees(ours, &sum, 0.005), "{ours} ns, the kernel {sum:?}");
    // A kernel 6.18 without CONFIG_SCHEDSTATS runs no program at a switch away from a thread of
    // process 1, and does not count this as missed. The wait that ends at such a switch is added to
    // the task's next wait. On other kernels the counts are equal.
    let more = if fs::exists("/proc/schedstat").unwrap() { 0.0 } else { *of_init.end() };
    let least = count.start() - more;
    assert!(
        (least..=*count.end()).contains(&waits),
        "{waits} waits, the kernel {count:?}, {of_init:?} switches of process 1"
    );
}

#[live::test(cgroup2)]
fn more_control_groups_than_fit_are_folded() {
    let exporter = start(&["--schedlat.cgroup", "--max-series", "16"]);
    let before = exporter.scrape();
    let groups: Vec<Group> = (0..40).map(|n| Group::new(&format!("many{n}"))).collect();
    for group in &groups {
        assert!(group.shell("sleep 0.01; sleep 0.01").status().unwrap().success());
    }
    let delta = Delta(before, exporter.scrape());
    let groups = delta.1.labels(&format!("{BY_CGROUP}_count")).len();
    assert!(groups <= 16, "{groups} groups");
    let folded = delta.of("ebpf_exporter_folded_events_total", &[]);
    let other = delta.of(&format!("{BY_CGROUP}_count"), &[("cgroup", "other")]);
    assert!(folded > 24.0 && (other - folded).abs() < 50.0, "{folded} folded, {other} under other");
    assert_eq!(delta.of("ebpf_exporter_lost_events_total", &[]), 0.0);
}

#[live::test(cgroup2)]
fn control_groups_that_are_gone_give_back_their_room() {
    const ROOM: usize = 256;
    let exporter = start(&["--schedlat.cgroup", "--max-series", &ROOM.to_string()]);
    for _ in 0..10 * ROOM {
        drop(Group::new("short"));
    }
    let group = Group::new("new");
    // Per-CPU memory may be short for a moment after so many new groups.
    wait_until("the new group has a series", Duration::from_secs(10), || {
        assert!(group.shell("sleep 0.01; sleep 0.01").status().unwrap().success());
        let count = exporter.scrape().get(&format!("{BY_CGROUP}_count"), &[("cgroup", group.name())]);
        count.is_some_and(|count| count > 0.0)
    });
    let entries = || exporter.scrape().get("ebpf_exporter_map_entries", &[("map", "cgroups")]).unwrap();
    let before = entries();
    drop(group);
    assert_eq!(entries(), before - 1.0);
}

live::main!();
