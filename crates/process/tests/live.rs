// SPDX-License-Identifier: MIT OR Apache-2.0
//! A known number of processes, compared with /proc/stat, getrusage and VmRSS.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::ffi::CString;
use std::fs::File;
use std::process::Command;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use live::cgroup::Group;
use live::exporter::Exporter;
use live::exposition::Delta;
use live::truth::{agrees, between, children_cpu_seconds, stat};
use live::work::{Running, hogs, processes};
use live::{Folder, assert_nearly, sh, wait_until};
use rustix::process::Signal;

const STARTS: &str = "ebpf_process_starts_by_name_total";
const CPU: &str = "ebpf_process_cpu_seconds_total";
const MEMORY: &str = "ebpf_process_memory_bytes";

fn measure(flags: &[&str], work: impl FnOnce()) -> Delta {
    let exporter = Exporter::start("process", flags);
    let (delta, [kernel]) = between(&exporter, || [stat("processes")], work);
    let ours = delta.of("ebpf_process_forks_total", &[]) + delta.of("ebpf_process_threads_total", &[]);
    assert!(agrees(ours, &kernel, 0.0), "{ours} forks and threads, /proc/stat {kernel:?}");
    delta.assert_whole();
    delta
}

/// The number that the test caused, plus at most what other processes may do meanwhile.
#[track_caller]
fn nearly(ours: f64, exact: f64) {
    assert_nearly("processes", ours, exact, 6.0);
}

/// Exactly the number that the test caused, unless processes of others have the same name.
#[track_caller]
fn exactly(ours: f64, exact: f64) {
    assert_nearly("of that name", ours, exact, 0.0);
}

/// CPU time equals `used` within a tolerance. Processes of others may have the same name.
#[track_caller]
fn is_used(ours: f64, used: f64, tolerance: f64) {
    println!("{ours} s, getrusage {used} s");
    assert_nearly("CPU time", ours, used * (1.0 - tolerance), 2.0 * tolerance * used);
}

#[live::test]
fn starts_and_exits_are_counted_by_name_and_reason() {
    let delta = measure(&[], || {
        processes(101);
        sh("for n in $(seq 23); do sh -c 'kill -KILL $$' || :; done");
    });
    exactly(delta.of(STARTS, &[("process", "true")]), 101.0);
    // One shell, and the 23 shells that it kills.
    nearly(delta.of(STARTS, &[("process", "sh")]), 24.0);
    nearly(delta.of("ebpf_process_execs_total", &[]), 125.0);
    nearly(delta.of("ebpf_process_exits_total", &[("reason", "signal")]), 23.0);
    nearly(delta.of("ebpf_process_exits_total", &[("reason", "exit")]), 102.0);
    nearly(delta.of("ebpf_process_lifetime_seconds_count", &[]), 125.0);
    assert_eq!(delta.of(STARTS, &[]), delta.of("ebpf_process_execs_total", &[]));
}

#[live::test(once)]
fn names_cut_inside_a_character_are_no_errors() {
    // The kernel cuts the name to 15 bytes, after the first of the three bytes of a character.
    let folder = Folder::new();
    let run = |name: &str, times: usize| {
        let program = folder.path(name);
        sh(&format!("cp $(readlink -f /bin/true) {program}; for n in $(seq {times}); do {program}; done"));
    };
    let exporter = Exporter::start("process", &[]);
    let before = exporter.scrape();
    run("batch-jobs-日本語", 3);
    run("batch-jobs-日語本", 4);
    for _ in 0..3 {
        exporter.scrape();
    }
    let delta = Delta(before, exporter.scrape());
    exactly(delta.of(STARTS, &[("process", "batch-jobs-日\u{fffd}")]), 7.0);
    let series = |text: &&str| text.starts_with(STARTS) && text.contains("batch-jobs-日");
    let (_, text) = live::exporter::get(exporter.port(), "/metrics");
    assert_eq!(text.lines().filter(series).count(), 1, "one series of one label");
    assert_eq!(delta.1.count("ebpf_exporter_decoder_errors_total", &[]), 0.0);
}

#[live::test]
fn threads_are_no_processes() {
    let delta = measure(&[], || {
        for _ in 0..53 {
            std::thread::spawn(|| ()).join().unwrap();
        }
    });
    nearly(delta.of("ebpf_process_threads_total", &[]), 53.0);
    nearly(delta.of("ebpf_process_forks_total", &[]), 0.0);
    nearly(delta.of("ebpf_process_exits_total", &[]), 0.0);
}

#[live::test]
fn threads_that_the_kernel_makes_for_a_process_are_threads() {
    // No more than workers for what ends in bounded time (io_uring/io-wq.c): four for each of two CPUs.
    const OPENS: usize = 7;
    let folder = Folder::new();
    let path = CString::new(folder.path("fifo")).unwrap();
    sh(&format!("mkfifo {}", folder.path("fifo")));
    let delta = measure(&[], || {
        let mut ring = IoUring::new(OPENS as u32).unwrap();
        for _ in 0..OPENS {
            let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
            // Each waits for a writer, in a worker of its own.
            // SAFETY: the path outlives the ring.
            unsafe { ring.submission().push(&open.flags(squeue::Flags::ASYNC)).unwrap() };
        }
        ring.submit().unwrap();
        wait_until("each open has a worker", Duration::from_secs(60), || {
            let names = sh(&format!("cat /proc/{}/task/*/comm", std::process::id()));
            names.lines().filter(|name| name.starts_with("iou-wrk")).count() >= OPENS
        });
        let _writer = File::options().write(true).open(folder.path("fifo")).unwrap();
        ring.submit_and_wait(OPENS).unwrap();
    });
    nearly(delta.of("ebpf_process_threads_total", &[]), OPENS as f64);
}

#[live::test]
fn a_process_whose_threads_die_at_once_exits_once() {
    // An exporter has several threads. Both CPUs kill them at the same time.
    let delta = measure(&[], || {
        for _ in 0..7 {
            let exporters: Vec<Exporter> = (0..3).map(|_| Exporter::start("syscall", &[])).collect();
            for exporter in exporters {
                assert_eq!(exporter.end(Signal::KILL), None);
            }
        }
    });
    nearly(delta.of("ebpf_process_exits_total", &[("reason", "signal")]), 21.0);
    exactly(delta.of(STARTS, &[("process", "ebpf-syscall-ex")]), 21.0);
}

#[live::test(functions)]
fn failed_execs_are_counted_by_error() {
    let delta = measure(&[], || {
        for _ in 0..17 {
            Command::new("/nowhere/at/all").status().unwrap_err();
        }
        for _ in 0..13 {
            Command::new("/etc/hosts").status().unwrap_err();
        }
    });
    let failures = |errno: &str| delta.of("ebpf_process_exec_failures_total", &[("errno", errno)]);
    assert_eq!((failures("ENOENT"), failures("EACCES")), (17.0, 13.0));
    nearly(delta.of("ebpf_process_execs_total", &[]), 0.0);
}

#[live::test]
fn cpu_time_of_processes_that_live_shorter_than_a_scrape_is_counted() {
    let mut used = 0.0;
    let delta = measure(&[], || {
        let before = children_cpu_seconds();
        hogs(2, Duration::from_secs(3));
        used = children_cpu_seconds() - before;
    });
    let ours = delta.of(CPU, &[("process", "sh")]) + delta.of(CPU, &[("process", "timeout")]);
    assert!(used > 1.0, "{used} s");
    is_used(ours, used, 0.05);
}

#[live::test]
fn cpu_time_of_those_that_live_for_a_millisecond_is_counted() {
    let exporter = Exporter::start("process", &[]);
    let (first, before) = (exporter.scrape(), children_cpu_seconds());
    processes(300);
    let used = children_cpu_seconds() - before;
    // The last task is released a moment after its parent has waited for it.
    let mut ours = 0.0;
    wait_until("all of it is counted", Duration::from_secs(30), || {
        ours = Delta(first.clone(), exporter.scrape()).of(CPU, &[("process", "true")]);
        ours > 0.97 * used
    });
    is_used(ours, used, 0.03);
}

#[live::test]
fn cpu_time_of_those_that_run_on_is_counted_once() {
    // The name is unique.
    let folder = Folder::new();
    let program = folder.path("runs-on");
    sh(&format!("cp $(readlink -f /bin/sh) {program}"));
    let hog = Running::start(Command::new(&program).args(["-c", "while :; do :; done"]));
    let own = [("process", "runs-on")];
    let exporter = Exporter::start("process", &[]);
    // It ran before the exporter started, which must not count that time.
    let first = exporter.scrape();
    wait_until("a second of CPU time", Duration::from_secs(60), || {
        exporter.scrape().count(CPU, &own) - first.count(CPU, &own) > 1.0
    });
    let schedstat =
        || sh(&format!("cut -d' ' -f1 /proc/{}/schedstat", hog.0.id())).parse::<f64>().unwrap() / 1e9;
    let (delta, [kernel]) = between(&exporter, || [schedstat()], || processes(50));
    let ours = delta.of(CPU, &own);
    assert!(agrees(ours, &kernel, 0.02), "{ours} s, the kernel {kernel:?}");
}

#[live::test]
fn cpu_time_of_a_thread_that_becomes_the_process_is_counted_once() {
    let exporter = Exporter::start("process", &[]);
    let (first, before) = (exporter.scrape(), children_cpu_seconds());
    let under =
        |names: &[&str], delta: &Delta| names.iter().map(|name| delta.of(CPU, &[("process", name)])).sum();
    let busy = || {
        while live::truth::thread_cpu_seconds() < 0.5 {
            std::hint::spin_loop();
        }
    };
    live::threads::second_that_execs(c"second", busy, || {
        wait_until("it was counted as what it is", Duration::from_secs(60), || {
            let ours: f64 = under(&["second"], &Delta(first.clone(), exporter.scrape()));
            ours >= 0.5
        });
    });
    let used = children_cpu_seconds() - before;
    let ours: f64 = under(&["second", "true"], &Delta(first, exporter.scrape()));
    is_used(ours, used, 0.1);
}

#[live::test(file("/proc/self/smaps_rollup"))]
fn memory_is_the_resident_set() {
    // The name is unique. They run on all CPUs, each of which holds a part of the counters.
    let folder = Folder::new();
    let program = folder.path("sleeps-on");
    sh(&format!("cp $(readlink -f /bin/sleep) {program}"));
    let sleepers: Vec<Running> =
        (0..200).map(|_| Running::start(Command::new(&program).arg("1000"))).collect();
    let exporter = Exporter::start("process", &[]);
    // From page tables: before 6.16, VmRSS lacks what threads or CPUs have not yet added.
    let resident = || {
        let all = sleepers.iter().map(|sleeper| format!("/proc/{}/smaps_rollup", sleeper.0.id()));
        let all: Vec<String> = all.collect();
        sh(&format!("awk '/^Rss/ {{ sum += $2 }} END {{ print sum }}' {}", all.join(" ")))
            .parse::<f64>()
            .unwrap()
            * 1024.0
    };
    let asleep = |sleeper: &Running| {
        std::fs::read_to_string(format!("/proc/{}/syscall", sleeper.0.id())).unwrap().trim() != "running"
    };
    wait_until("all sleep", Duration::from_secs(60), || sleepers.iter().all(asleep));
    let before = resident();
    let ours = exporter.scrape().get(MEMORY, &[("process", "sleeps-on")]).unwrap();
    let after = resident();
    println!("{ours} bytes, by page tables {before} to {after}");
    assert_nearly("resident bytes", ours, before, after - before);
}

#[live::test(file("/proc/self/smaps_rollup"))]
fn memory_of_a_process_whose_first_thread_has_ended_counts_once() {
    const BYTES: usize = 20 << 20;
    let exporter = Exporter::start("process", &[]);
    live::threads::process_without_its_first(
        c"goes-on",
        || vec![1_u8; BYTES],
        |id| {
            let first = format!("/proc/{id}/task/{id}/status");
            wait_until("its first thread has ended", Duration::from_secs(20), || {
                std::fs::read_to_string(&first).unwrap().contains("State:\tZ")
            });
            // Of one of the others. From page tables, as above.
            let rollup =
                format!("cat $(ls -d /proc/{id}/task/* | grep -v '/{id}$' | head -n 1)/smaps_rollup");
            let resident =
                sh(&format!("{rollup} | awk '/^Rss/ {{ print $2 }}'")).parse::<f64>().unwrap() * 1024.0;
            let ours = exporter.scrape().count(MEMORY, &[("process", "goes-on")]);
            println!("{ours} bytes, by page tables {resident}");
            assert!(resident >= 3.0 * BYTES as f64, "{resident}");
            // Before 6.2, each thread keeps back the last 64 pages that it counted.
            let kept_back = 4.0 * 64.0 * 4096.0;
            assert!((ours - resident).abs() <= kept_back, "{ours} bytes, by page tables {resident}");
        },
    );
}

#[live::test]
fn names_beyond_the_limit_are_folded_and_counted() {
    let folder = Folder::new();
    let delta = measure(&["--max-series", "16", "--process.top", "3"], || {
        sh(&format!("for n in $(seq 40); do cp /bin/true {0}$n; {0}$n; done", folder.path("name")));
    });
    let (other, execs) =
        (delta.of(STARTS, &[("process", "other")]), delta.of("ebpf_process_execs_total", &[]));
    assert!(other >= 24.0, "{other} under other");
    assert!(delta.of("ebpf_exporter_folded_events_total", &[]) >= other);
    assert_eq!(delta.of(STARTS, &[]), execs, "none is lost");
    assert!(delta.1.labels(STARTS).len() <= 16);
    assert!(delta.1.labels(CPU).len() <= 2 * 3 + 1, "{:?}", delta.1.labels(CPU));
}

#[live::test(cgroup2)]
fn control_groups_are_a_flag() {
    let group = Group::new("worker");
    // In microseconds: cpu.stat of the group.
    let used = || {
        sh(&format!("awk '/^usage_usec/ {{ print $2 }}' {}/cpu.stat", group.path())).parse::<f64>().unwrap()
            / 1e6
    };
    let exporter = Exporter::start("process", &["--process.cgroup", "--process.top", "1000"]);
    let (delta, [kernel]) = between(
        &exporter,
        || [used()],
        || {
            let line = "for n in $(seq 23); do /bin/true; done; timeout 1 sh -c 'while :; do :; done' || :";
            assert!(group.shell(line).env_remove("LD_LIBRARY_PATH").status().unwrap().success());
        },
    );
    let of =
        |metric: &str, process: &str| delta.of(metric, &[("process", process), ("cgroup", group.name())]);
    assert_eq!((of(STARTS, "true"), of(STARTS, "timeout")), (23.0, 1.0));
    let ours = delta.of(CPU, &[("cgroup", group.name())]);
    assert!(agrees(ours, &kernel, 0.05), "{ours} s, cpu.stat {kernel:?}");
    delta.assert_whole();
}

#[live::test(cgroup2, file("/proc/self/smaps_rollup"))]
fn memory_is_that_of_a_control_group() {
    let groups = [Group::new("one"), Group::new("two")];
    let sleepers = groups
        .each_ref()
        .map(|group| Running::start(group.shell("exec sleep 1000").env_remove("LD_LIBRARY_PATH")));
    let exporter = Exporter::start("process", &["--process.cgroup", "--process.top", "1000"]);
    for (group, sleeper) in groups.iter().zip(&sleepers) {
        let proc = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", sleeper.0.id())).unwrap();
        wait_until("it sleeps", Duration::from_secs(60), || {
            proc("comm").trim() == "sleep" && proc("syscall").trim() != "running"
        });
        let labels = [("process", "sleep"), ("cgroup", group.name())];
        let ours = exporter.scrape().get(MEMORY, &labels).unwrap();
        let resident = sh(&format!("awk '/^Rss/ {{ print $2 }}' /proc/{}/smaps_rollup", sleeper.0.id()));
        // Before 6.2, its thread keeps back the last 64 pages that it counted.
        let kept_back = 64.0 * 4096.0;
        let resident = resident.parse::<f64>().unwrap() * 1024.0;
        assert!((ours - resident).abs() <= kept_back, "{ours} bytes, by page tables {resident}");
    }
}

#[live::test(cgroup2)]
fn control_groups_that_are_gone_give_back_their_room() {
    let exporter =
        Exporter::start("process", &["--process.cgroup", "--max-series", "256", "--process.top", "2"]);
    let starts = |group: &Group| {
        assert!(group.shell(":").status().unwrap().success());
        exporter.scrape().get(STARTS, &[("process", "sh"), ("cgroup", group.name())])
    };
    let first = Group::new("first");
    assert!(starts(&first).is_some());
    let mut before = exporter.scrape();
    let [mut by_name, mut execs] = [0.0; 2];
    for n in 0..300 {
        assert!(Group::new("short").shell(":").status().unwrap().success());
        if n % 30 == 0 {
            let delta = Delta(before, exporter.scrape());
            by_name += delta.increase(STARTS);
            execs += delta.of("ebpf_process_execs_total", &[]);
            let others = delta.of(CPU, &[("process", "other"), ("cgroup", "other")]);
            assert!(others >= 0.0, "CPU time of others went down by {others}");
            before = delta.1;
        }
    }
    // Others may exec while a scrape reads one number and then the other.
    assert!((by_name - execs).abs() <= 2.0, "{by_name} starts by name, {execs} execs");
    let group = Group::new("new");
    wait_until("the new group has a series", Duration::from_secs(10), || starts(&group).is_some());
    assert!(starts(&first).is_some(), "a group that is there keeps its series");
}

#[live::test]
fn a_program_that_is_called_other_is_not_what_found_no_room() {
    let folder = Folder::new();
    let delta = measure(&["--max-series", "16"], || {
        // This one first, while there is room.
        sh(&format!("cp /bin/true {0}; for n in $(seq 23); do {0}; done", folder.path("other")));
        sh(&format!("for n in $(seq 40); do cp /bin/true {0}$n; {0}$n; done", folder.path("name")));
    });
    assert_eq!(delta.of(STARTS, &[("process", "\\other")]), 23.0);
    let folded = delta.of(STARTS, &[("process", "other")]);
    assert!(folded >= 24.0, "{folded} found no room");
}

#[live::test]
fn a_changing_top_never_takes_a_counter_down() {
    let exporter = Exporter::start("process", &["--process.top", "2"]);
    let (folder, mut before) = (Folder::new(), exporter.scrape());
    for n in 0..12 {
        let top = folder.path(&format!("top{n}"));
        sh(&format!("cp $(readlink -f /bin/sh) {top}; timeout 0.3 {top} -c 'while :; do :; done' || :"));
        let after = exporter.scrape();
        let delta = Delta(before, after);
        delta.assert_nothing_down();
        before = delta.1;
    }
    assert!(before.labels(CPU).len() > 4, "{:?}", before.labels(CPU));
}

#[live::test]
fn in_a_pid_namespace_numbers_of_all_tasks_are_absent() {
    let inside = |flags: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "ebpf-process-exporter"])
            .args(flags);
        command
    };
    let (log, exporter) = Exporter::spawn_and_read(&mut inside(&[]));
    assert!(log.contains("PID namespace"), "{log}");
    let text = exporter.scrape();
    for family in [CPU, "ebpf_process_memory_bytes"] {
        assert!(text.labels(family).is_empty(), "{family}: {text:?}");
    }
    assert!(text.get("ebpf_process_forks_total", &[]).is_some());
    assert_eq!(text.get("ebpf_exporter_ebpf_program_attached", &[("program", "tasks")]), Some(0.0));
    let check = inside(&["--check"]).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && said.contains("tasks: unsupported"), "{said}");
}

live::main!();
