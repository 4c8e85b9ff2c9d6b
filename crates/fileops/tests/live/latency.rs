// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which operations have a latency, and calls whose return the kernel does not trace.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::{Delta, Exposition};
use live::{Folder, sh, wait_until};

use crate::{file, measure, read_every_way, write_every_way};

#[live::test(fentry)]
fn every_kind_of_read_and_write_of_a_file_has_a_latency() {
    let file = file();
    let counted = measure(&[], || {
        read_every_way(&file);
        write_every_way(&file);
    });
    let latencies = (counted.latencies("read"), counted.latencies("write"));
    assert!(latencies.0 >= 405.0 && latencies.1 >= 412.0, "{latencies:?}");
}

#[live::test(fentry)]
fn pipes_and_sockets_have_no_latency() {
    let counted = measure(&[], || {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        for _ in 0..2003 {
            writer.write_all(b"x").unwrap();
            reader.read_exact(&mut [0]).unwrap();
        }
    });
    assert!(counted.ops("read") >= 2003.0 && counted.ops("write") >= 2003.0);
    assert!(counted.latencies("read") < 500.0 && counted.latencies("write") < 500.0, "{:?}", counted.delta);
}

#[live::test(functions)]
fn latency_is_a_flag() {
    let counted = measure(&["--fileops.latency", "on"], || ());
    assert!(counted.latencies("read") > 0.0);
}

/// Does `work` while `threads` threads are blocked in a read of a pipe.
fn while_reads_wait(threads: usize, work: impl FnOnce()) {
    let (reader, writer) = std::io::pipe().unwrap();
    let call = format!("{} {:#x} ", libc::SYS_read, reader.as_raw_fd());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| assert_eq!((&reader).read(&mut [0]).unwrap(), 0));
        }
        wait_until("all wait", Duration::from_secs(60), || {
            let calls = sh(&format!("cat /proc/{}/task/*/syscall", std::process::id()));
            calls.lines().filter(|line| line.starts_with(&call)).count() == threads
        });
        work();
        drop(writer);
    });
}

/// An operation takes less, and the time between two that the tests compare is longer.
const LONGEST: (&str, Duration) = ("1048576", Duration::from_micros(1_100_000));

/// Reads or writes of files that took longer.
fn long(delta: &Delta, operation: &str) -> f64 {
    let name = format!("ebpf_file_{operation}_latency_microseconds");
    delta.of(&format!("{name}_count"), &[]) - delta.of(&format!("{name}_bucket"), &[("le", LONGEST.0)])
}

#[live::test(reattach)]
fn a_read_whose_end_is_lost_leaves_no_start_to_the_next() {
    let (file, (reader, mut writer)) = (file(), std::io::pipe().unwrap());
    writer.write_all(b"xy").unwrap();
    // A read of the file again, one of a pipe, which has no latency, and a write to it.
    let next: [&(dyn Fn() + Sync); 3] = [
        &|| assert_eq!(file.read_at(&mut [0; 16], 0).unwrap(), 16),
        &|| (&reader).read_exact(&mut [0]).unwrap(),
        &|| (&writer).write_all(b"z").unwrap(),
    ];
    for next in next {
        let exporter = Exporter::start("fileops", &["--ebpf.preempts", "false"]);
        let end = exporter.deafen("read_fexit");
        let before = exporter.scrape();
        assert_eq!(file.read_at(&mut [0; 16], 0).unwrap(), 16);
        let _end = end.attach();
        // The time that a wrong latency would contain, not a wait for an event.
        std::thread::sleep(LONGEST.1);
        next();
        let delta = Delta(before, exporter.scrape());
        assert_eq!([long(&delta, "read"), long(&delta, "write")], [0.0; 2]);
        let lost = delta.of("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
        assert!(lost >= 1.0, "{lost} lost");
    }
}

#[live::test(fentry)]
fn a_read_whose_start_is_lost_has_no_latency() {
    let exporter = Exporter::start("fileops", &["--ebpf.preempts", "false"]);
    let file = file();
    let reads = || (0..103).for_each(|_| assert_eq!(file.read_at(&mut [0; 16], 0).unwrap(), 16));
    reads();
    let _deaf = exporter.deafen("read_fentry");
    // As above.
    std::thread::sleep(LONGEST.1);
    let count = |text: &Exposition| text.count("ebpf_file_read_latency_microseconds_count", &[]);
    let before = exporter.scrape();
    reads();
    // What other processes are still reading began before.
    let counted = count(&exporter.scrape()) - count(&before);
    assert!(counted < 50.0, "{counted}");
}

/// Hides BTF, so that there is no fentry, and the kernel's symbols, as systemd does.
const HIDE: &str = "mount -t tmpfs none /sys/kernel/btf; mount --bind /dev/null /proc/kallsyms; exec \"$@\"";

#[live::test(kprobes)]
fn calls_whose_return_the_kernel_passes_over_are_lost_not_forgotten() {
    let folder = Folder::new();
    let btf = folder.path("vmlinux.btf");
    sh(&format!("cp /sys/kernel/btf/vmlinux {btf}"));
    let mut without_fentry = Command::new("unshare");
    without_fentry.args(["-m", "sh", "-ec", HIDE, "sh"]).args([
        "ebpf-fileops-exporter",
        "--fileops.latency",
        "on",
        "--btf.path",
        &btf,
    ]);
    let exporter = Exporter::spawn(&mut without_fentry);
    let lost = |text: &Exposition, reason| text.get("ebpf_exporter_lost_events_total", &[("reason", reason)]);
    let counted = |text: &Exposition| text.count("ebpf_file_read_latency_microseconds_count", &[]);
    let file = file();
    let reads = |count: u32| (0..count).for_each(|_| assert_eq!(file.read_at(&mut [0; 16], 0).unwrap(), 16));
    let mut between = [const { None }; 2];
    // More than a kretprobe's instances (maxactive).
    let waiting = 2 * std::thread::available_parallelism().unwrap().get() + 30;
    while_reads_wait(waiting, || {
        between[0] = Some(exporter.scrape());
        reads(97);
        between[1] = Some(exporter.scrape());
    });
    let [before, after] = between.map(Option::unwrap);
    // A moment after the last of these threads has ended, all instances are free again.
    let idle = exporter.scrape();
    reads(61);
    let end = exporter.scrape();
    let grown = |[from, to]: [&Exposition; 2], reason| Some(lost(to, reason)? - lost(from, reason)?);
    assert!(counted(&end) - counted(&idle) >= 61.0, "all are seen again");
    // A call without a traced return still looks unfinished when its thread makes the next call.
    let unfinished = grown([&before, &after], "no_start").unwrap();
    assert!(unfinished >= 96.0, "{unfinished}");
    // 3acf8ace6823 ("bpf: Add missed value to kprobe perf link info"), 6.7, and back-ported to 6.6.
    let release = sh("uname -r | tr . ' ' | (read major minor rest; echo $((major * 1000 + minor)))");
    if release.parse::<u32>().unwrap() < 6006 {
        assert_eq!(lost(&end, "probe_missed"), None, "what is not known is absent");
        return;
    }
    let missed = grown([&before, &after], "probe_missed").unwrap();
    let seen = counted(&after) - counted(&before);
    println!("{missed} passed over, {seen} counted, {unfinished} not ended");
    // The test itself and other processes also read meanwhile, for instance for scrapes.
    live::assert_nearly("reads passed over or counted", missed + seen, 97.0, 60.0);
    assert!(missed >= 97.0, "{missed}: no instance was left");
    assert_eq!(grown([&idle, &end], "probe_missed"), Some(0.0));
}
