// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tasks that exec, exit while the iterator visits them, exit before a scrape, or are hidden.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::Delta;
use live::needs::has_own_machine;
use live::work::Stop;
use live::{Folder, sh, wait_until};

use crate::{Counted, OPS, measure};

#[live::test]
fn writes_of_a_thread_that_becomes_the_process_are_counted_once() {
    let exporter = Exporter::shared("fileops", &[]);
    let first = exporter.scrape();
    let writes = |delta: &Delta, name| delta.of(OPS, &[("process", name), ("operation", "write")]);
    let work = || {
        let mut nothing = OpenOptions::new().write(true).open("/dev/null").unwrap();
        (0..307).for_each(|_| nothing.write_all(b"x").unwrap());
    };
    live::threads::second_that_execs(c"second", work, || {
        wait_until("they were counted", Duration::from_secs(60), || {
            writes(&Delta(first.clone(), exporter.scrape()), "second") == 307.0
        });
    });
    let delta = Delta(first, exporter.scrape());
    delta.assert_whole();
    assert_eq!((writes(&delta, "second"), writes(&delta, "true")), (307.0, 0.0));
}

/// How many times threads end at once: fewer in a guest, which may be emulated.
fn endings() -> u32 {
    if has_own_machine() { 200 } else { 1000 }
}

/// Starts 48 threads that each write three times and end together, [`endings`] times.
fn threads_that_end_at_once() {
    for _ in 0..endings() {
        let barrier = Barrier::new(48);
        std::thread::scope(|scope| {
            for _ in 0..48 {
                scope.spawn(|| {
                    let mut nothing = OpenOptions::new().write(true).open("/dev/null").unwrap();
                    (0..3).for_each(|_| nothing.write_all(b"x").unwrap());
                    barrier.wait();
                });
            }
        });
    }
}

#[live::test(once)]
fn threads_that_end_while_they_are_looked_at_are_counted_once_and_forgotten() {
    let exporter = Exporter::start("fileops", &["--fileops.latency", "off"]);
    let writes = || exporter.scrape().count(OPS, &[("process", "end-at-once"), ("operation", "write")]);
    let work = || live::threads::process_that_does(c"end-at-once", threads_that_end_at_once);
    let first = exporter.scrape();
    work();
    let alone = writes();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ended = Stop(&ended);
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                exporter.scrape();
            }
        });
        work();
    });
    let delta = Delta(first, exporter.scrape());
    delta.assert_whole();
    // One more write: with it, the child process reports that it executes no program.
    let exact = f64::from(endings() * 48 * 3 + 1);
    assert_eq!((alone, writes() - alone), (exact, exact));
    let entries = || exporter.scrape().count("ebpf_exporter_map_entries", &[("map", "accounts")]);
    // No other event shows that the threads have ended.
    wait_until("no more entries than threads", Duration::from_secs(10), || {
        entries() <= sh("cut -d/ -f2 /proc/loadavg | cut -d' ' -f1").parse().unwrap()
    });
}

#[live::test]
fn processes_that_live_shorter_than_a_scrape_are_not_lost() {
    let folder = Folder::new();
    let short = folder.path("short");
    let run = |count: u32| {
        let line = format!(
            "head -c 3000 /dev/zero > {short}
             for n in $(seq 37); do dd if={short} of=/dev/null bs=100 count={count} status=none; done"
        );
        measure(&[], || drop(sh(&line)))
    };
    let dd = |counted: &Counted, name: &str, labels: &[(&str, &str)]| {
        counted.delta.of(name, &[&[("process", "dd")], labels].concat())
    };
    // dd reads the same amount of its libraries each time.
    let (nothing, all) = (run(0), run(1000));
    let grown = |name: &str, labels: &[(&str, &str)]| dd(&all, name, labels) - dd(&nothing, name, labels);
    // 30 pieces, and one read at the end of the file.
    assert_eq!(grown(OPS, &[("operation", "read")]), 37.0 * 31.0);
    assert_eq!(grown(OPS, &[("operation", "write")]), 37.0 * 30.0);
    assert_eq!(grown("ebpf_file_write_bytes_total", &[]), 37.0 * 3000.0);
    assert_eq!(grown("ebpf_file_read_bytes_total", &[]), 37.0 * 3000.0);
    assert!(dd(&all, OPS, &[("operation", "open")]) >= 37.0 * 2.0);
}

#[live::test]
fn in_a_pid_namespace_numbers_of_all_tasks_are_absent() {
    let inside = |flags: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "ebpf-fileops-exporter"])
            .args(flags);
        command
    };
    let (log, exporter) = Exporter::spawn_and_read(&mut inside(&[]));
    assert!(log.contains("PID namespace"), "{log}");
    let text = exporter.scrape();
    for family in ["ebpf_file_read_bytes_total", "ebpf_file_write_bytes_total"] {
        assert!(text.labels(family).is_empty(), "{family}: {text:?}");
    }
    assert!(text.get("ebpf_exporter_scrapes_total", &[]).is_some());
    assert_eq!(text.get("ebpf_exporter_ebpf_program_attached", &[("program", "tasks")]), Some(0.0));
    let check = inside(&["--check"]).output().unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && said.contains("tasks: unsupported"), "{said}");
}
