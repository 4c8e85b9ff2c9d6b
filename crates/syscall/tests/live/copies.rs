// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that are attached several times, as where the kernel preempts them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};

use libbpf_rs::query::ProgInfoIter;
use live::exporter::Exporter;
use live::exposition::Delta;
use live::seccomp;
use live::threads::with_ids_apart;
use live::work::system_call;

use crate::{RARE, calls};

#[live::test(copies)]
fn programs_attached_several_times_count_each_call_once() {
    const CALLS: u32 = 20_000;
    // Each thread makes its own call, which other programs rarely make.
    const OWN: [(&str, i64); 4] = [
        ("tee", libc::SYS_tee),
        ("vmsplice", libc::SYS_vmsplice),
        ("timerfd_gettime", libc::SYS_timerfd_gettime),
        ("inotify_rm_watch", libc::SYS_inotify_rm_watch),
    ];
    let flags = ["--ebpf.preempts", "true", "--syscall.latency", "--syscall.errors"];
    let exporter = Exporter::start("syscall", &flags);
    let before = exporter.scrape();
    with_ids_apart(OWN.len() as u32, 8192, |number| {
        let (_, call) = OWN[number as usize];
        assert_eq!(system_call(call, [-1; 3], CALLS), -1);
    });
    let delta = Delta(before, exporter.scrape());
    // A task may be preempted inside of all copies. Under emulation this is not rare.
    let lost = delta.of("ebpf_exporter_lost_events_total", &[("reason", "recursion")]);
    let without_start = delta.of("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
    println!("{lost} lost of {} calls, {without_start} without a start", OWN.len() as u32 * CALLS);
    assert!(lost <= 0.05 * f64::from(OWN.len() as u32 * CALLS), "{lost} lost");
    assert!(without_start <= lost, "{without_start} without a start, {lost} lost");
    for (call, _) in OWN {
        let exact = f64::from(CALLS);
        for (what, counted) in [
            ("calls", calls(&delta, call, "native")),
            ("latencies", delta.of("ebpf_syscall_latency_microseconds_count", &[("syscall", call)])),
            ("errors", delta.of("ebpf_syscall_errors_total", &[("syscall", call)])),
        ] {
            assert!(
                counted <= exact && counted + lost >= exact,
                "{call}: {counted} {what}, {lost} lost of {exact}"
            );
        }
    }
}

/// Whether the kernel refuses a program of this name and number of instructions.
type Refuses = Box<dyn Fn(&str, u32) -> bool + Send>;

/// How many programs of this name a process has. Others on this machine may have such programs too.
fn programs_of(process: u32, name: &str) -> usize {
    let files = fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let ids = texts
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok()));
    let ids: BTreeSet<u32> = ids.collect();
    ProgInfoIter::default().filter(|info| ids.contains(&info.id) && info.name == name).count()
}

#[live::test(copies)]
fn where_the_kernel_refuses_only_copies_each_program_runs_once() {
    let start = |preempts: &str, refuses: Refuses| {
        let mut command = Command::new("ebpf-syscall-exporter");
        command.args(["--ebpf.preempts", preempts]);
        seccomp::decide_about_programs(&mut command, refuses);
        Exporter::spawn_and_read(&mut command)
    };
    // Programs are longer with what makes them copies.
    let lengths = Arc::new(Mutex::new(BTreeMap::new()));
    let known = Arc::clone(&lengths);
    drop(start(
        "false",
        Box::new(move |name, length| {
            // Programs without a name are those by which libbpf finds out what the kernel has.
            if !name.is_empty() {
                known.lock().unwrap().insert(name.to_owned(), length);
            }
            false
        }),
    ));
    let lengths = lengths.lock().unwrap().clone();
    assert!(lengths.contains_key("enter_btf"), "{lengths:?}");
    let refuses = move |name: &str, length| lengths.get(name).is_some_and(|known| length > *known);
    let (log, exporter) = start("true", Box::new(refuses));
    assert!(log.contains("attached only once"), "{log}");
    assert_eq!(programs_of(exporter.pid(), "enter_btf"), 1);
    let before = exporter.scrape();
    system_call(RARE.1, [0; 3], 2003);
    assert_eq!(calls(&Delta(before, exporter.scrape()), RARE.0, "native"), 2003.0);
}
