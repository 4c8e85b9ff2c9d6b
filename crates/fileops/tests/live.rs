// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exactly so many file operations of each kind, compared with what was done
//! and with /proc/PID/io.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use live::cgroup::Group;
use live::exporter::Exporter;
use live::exposition::{Delta, Exposition};
use live::needs::has_own_machine;
use live::truth::own_io;
use live::{Folder, sh, wait_until};

const OPS: &str = "ebpf_file_ops_total";

/// This program's name, as the kernel cuts it.
fn own_name() -> String {
    sh(&format!("cat /proc/{}/comm", std::process::id()))
}

struct Counted {
    delta: Delta,
    name: String,
}

impl Counted {
    fn ops(&self, operation: &str) -> f64 {
        self.delta.of(OPS, &[("process", &self.name), ("operation", operation)])
    }

    fn errors(&self, operation: &str, errno: &str) -> f64 {
        self.delta.of("ebpf_file_errors_total", &[("operation", operation), ("errno", errno)])
    }

    fn latencies(&self, operation: &str) -> f64 {
        self.delta.of(&format!("ebpf_file_{operation}_latency_microseconds_count"), &[])
    }
}

/// What this process's `work` was counted as. What the test itself reads and writes
/// meanwhile, to ask the exporter, is taken off by doing the same without work.
fn measure(flags: &[&str], work: impl FnOnce()) -> Counted {
    let own;
    let exporter = if flags.is_empty() {
        Exporter::shared("fileops")
    } else {
        own = Exporter::start("fileops", flags);
        &own
    };
    let before = exporter.scrape();
    work();
    let delta = Delta(before, exporter.scrape());
    delta.assert_whole();
    Counted { delta, name: own_name() }
}

/// Reads and writes of this process to ask the exporter once.
fn of_asking() -> (f64, f64) {
    let idle = measure(&[], || ());
    (idle.ops("read"), idle.ops("write"))
}

fn file() -> File {
    let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
    file.write_all(&[7; 8192]).unwrap();
    file.rewind().unwrap();
    file
}

/// 405 reads, of every kind.
fn read_every_way(file: &File) {
    let (mut file, mut bytes) = (file, [0; 16]);
    for _ in 0..101 {
        file.read_exact(&mut bytes).unwrap();
        file.read_exact_at(&mut bytes, 0).unwrap();
        let mut slices = [IoSliceMut::new(&mut bytes)];
        assert_eq!(file.read_vectored(&mut slices).unwrap(), 16);
        let vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 16 };
        // SAFETY: one buffer of 16 bytes, which outlives the call.
        assert_eq!(unsafe { libc::preadv2(file.as_raw_fd(), &raw const vector, 1, 0, 0) }, 16);
    }
    // At the end of the file: a read of nothing is one too.
    assert_eq!(file.read_at(&mut bytes, 1 << 20).unwrap(), 0);
}

/// 412 writes, of every kind.
fn write_every_way(file: &File) {
    let (mut file, bytes) = (file, [0u8; 16]);
    for _ in 0..103 {
        file.write_all(&bytes).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        assert_eq!(file.write_vectored(&[IoSlice::new(&bytes)]).unwrap(), 16);
        let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: 16 };
        // SAFETY: one buffer of 16 bytes, which outlives the call.
        assert_eq!(unsafe { libc::pwritev2(file.as_raw_fd(), &raw const vector, 1, 0, 0) }, 16);
    }
}

#[live::test]
fn every_kind_of_read_is_counted_once() {
    let (reads, _) = of_asking();
    let file = file();
    let counted = measure(&[], || read_every_way(&file));
    assert_eq!(counted.ops("read") - reads, 405.0);
}

#[live::test(once)]
fn names_cut_inside_a_character_are_no_errors() {
    // 15 bytes end behind the first byte of the second character, of which there are two.
    let folder = Folder::new();
    let run = |name: &str, times: u32| {
        let program = folder.path(name);
        sh(&format!(
            "cp $(readlink -f /bin/cat) {program}; for n in $(seq {times}); do {program} /etc/hosts; done"
        ));
    };
    let exporter = Exporter::start("fileops", &[]);
    let before = exporter.scrape();
    run("batch-jobs-ascii", 7);
    run("batch-jobs-日本語", 3);
    run("batch-jobs-日語本", 4);
    for _ in 0..3 {
        exporter.scrape();
    }
    let delta = Delta(before, exporter.scrape());
    let reads = |process| delta.of(OPS, &[("process", process), ("operation", "read")]);
    assert!(reads("batch-jobs-asci") >= 14.0, "the loader and the program read");
    assert_eq!(reads("batch-jobs-日\u{fffd}"), reads("batch-jobs-asci"));
    assert_eq!(delta.1.count("ebpf_exporter_decoder_errors_total", &[]), 0.0);
}

#[live::test]
fn every_kind_of_write_is_counted_once() {
    let (_, writes) = of_asking();
    let file = file();
    let counted = measure(&[], || write_every_way(&file));
    assert_eq!(counted.ops("write") - writes, 412.0);
}

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

#[live::test]
fn numbers_and_bytes_are_those_of_proc_pid_io() {
    let mut kernel = [0.0; 4];
    let file = file();
    let names = ["syscr", "syscw", "rchar", "wchar"];
    let counted = measure(&[], || {
        let before = names.map(own_io);
        for n in 0..503u64 {
            let mut bytes = vec![0; 1 + n as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
        }
        let after = names.map(own_io);
        kernel = std::array::from_fn(|n| after[n] - before[n]);
    });
    let bytes = |name: &str| counted.delta.of(name, &[("process", &counted.name)]);
    let ours = [
        counted.ops("read"),
        counted.ops("write"),
        bytes("ebpf_file_read_bytes_total"),
        bytes("ebpf_file_write_bytes_total"),
    ];
    println!("{ours:?}, /proc/self/io {kernel:?}");
    // The two readings of /proc/self/io and the scrape's request and answer come on top.
    let on_top = [20.0, 4.0, 200_000.0, 1_000.0];
    for ((ours, kernel), on_top) in ours.iter().zip(kernel).zip(on_top) {
        assert!((kernel..=kernel + on_top).contains(ours), "{ours}, /proc/self/io {kernel}");
    }
}

#[live::test]
fn writes_of_a_thread_that_becomes_the_process_are_counted_once() {
    let exporter = Exporter::shared("fileops");
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

/// 1000 times 48 threads that end at once, each after three writes.
/// How often so many threads end at once: fewer times where processors are emulated.
fn endings() -> u32 {
    if has_own_machine() { 200 } else { 1000 }
}

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
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                exporter.scrape();
            }
        });
        work();
        ended.store(true, Ordering::Relaxed);
    });
    let delta = Delta(first, exporter.scrape());
    delta.assert_whole();
    // The process tells in one write more that it starts no program.
    let exact = f64::from(endings() * 48 * 3 + 1);
    assert_eq!((alone, writes() - alone), (exact, exact));
    let entries = || exporter.scrape().count("ebpf_exporter_map_entries", &[("map", "accounts")]);
    // Nothing else tells when threads that were asked to end have ended.
    wait_until("no more entries than threads", Duration::from_secs(10), || {
        entries() <= sh("cut -d/ -f2 /proc/loadavg | cut -d' ' -f1").parse().unwrap()
    });
}

#[live::test(functions)]
fn copies_inside_the_kernel_are_a_read_and_a_write() {
    let (reads, writes) = of_asking();
    let mut from = file();
    let counted = measure(&[], || {
        let mut to = tempfile::tempfile_in("/var/tmp").unwrap();
        for _ in 0..31 {
            from.rewind().unwrap();
            assert_eq!(live::work::send_file(&mut from, &mut to, 8192), 8192);
        }
        let (mut reader, writer) = std::io::pipe().unwrap();
        for n in 0..17 {
            let mut offset = 0i64;
            // SAFETY: the offset outlives the call.
            let moved = unsafe {
                libc::splice(
                    from.as_raw_fd(),
                    &raw mut offset,
                    writer.as_raw_fd(),
                    std::ptr::null_mut(),
                    4096,
                    0,
                )
            };
            assert_eq!(moved, 4096, "splice {n}");
            let mut bytes = [0; 4096];
            reader.read_exact(&mut bytes).unwrap();
        }
    });
    assert_eq!(counted.ops("read") - reads, 31.0 + 17.0 + 17.0);
    assert_eq!(counted.ops("write") - writes, 31.0 + 17.0);
}

#[live::test(functions)]
fn operations_of_aio_are_counted_although_the_kernels_numbers_lack_them() {
    let (reads, writes) = of_asking();
    let file = file();
    let counted = measure(&[], || live::work::aio(&file, 61, 59));
    assert_eq!(counted.ops("read") - reads, 61.0);
    assert_eq!(counted.ops("write") - writes, 59.0);
}

#[live::test(functions)]
fn operations_of_io_uring_are_counted_once_also_when_they_are_tried_again() {
    let Ok(mut ring) = IoUring::new(8) else {
        // Debian 11's kernel and later may forbid it by sysctl; these guests' do not.
        panic!("no io_uring");
    };
    let (reads, writes) = of_asking();
    let file = file();
    let mut bytes = [0u8; 512];
    let counted = measure(&[], || {
        for n in 0..(67 + 71) {
            let fd = types::Fd(file.as_raw_fd());
            let entry = match n {
                0..67 => opcode::Read::new(fd, bytes.as_mut_ptr(), 512).build(),
                _ => opcode::Write::new(fd, bytes.as_ptr(), 512).build(),
            };
            // SAFETY: buffer and file outlive the operation, which is waited for.
            unsafe { ring.submission().push(&entry).unwrap() };
            ring.submit_and_wait(1).unwrap();
            assert_eq!(ring.completion().next().unwrap().result(), 512);
        }
    });
    // A worker of the kernel may do it, under a name of its own before 5.12.
    let total = |operation: &str| counted.delta.of(OPS, &[("operation", operation)]);
    let by_name = (counted.ops("read") - reads, counted.ops("write") - writes);
    let workers = |operation: &str| -> f64 {
        let names = counted.delta.1.labels(OPS);
        let workers =
            names.iter().filter(|l| l["process"].starts_with("io_w") && l["operation"] == operation);
        workers.map(|l| counted.delta.of(OPS, &[("process", &l["process"]), ("operation", operation)])).sum()
    };
    println!("{by_name:?} by name, {} and {} in all", total("read"), total("write"));
    assert_eq!(by_name.0 + workers("read"), 67.0);
    assert_eq!(by_name.1 + workers("write"), 71.0);
}

#[live::test]
fn opens_are_counted_with_those_that_fail() {
    let counted = measure(&[], || {
        for _ in 0..43 {
            File::open("/etc/hosts").unwrap();
            File::open("/nowhere/at/all").unwrap_err();
            File::create("/etc").unwrap_err();
        }
    });
    assert_eq!(counted.ops("open"), 3.0 * 43.0);
    assert!(counted.errors("open", "ENOENT") >= 43.0);
    assert!(counted.errors("open", "EISDIR") >= 43.0, "{:?}", counted.delta);
}

#[live::test(fentry)]
fn reads_that_fail_have_an_errno() {
    let folder = File::open("/etc").unwrap();
    let counted = measure(&[], || {
        for _ in 0..19 {
            (&folder).read_exact(&mut [0; 8]).unwrap_err();
        }
    });
    assert_eq!(counted.errors("read", "EISDIR"), 19.0);
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
    // What dd reads of its libraries is the same each time.
    let (nothing, all) = (run(0), run(1000));
    let grown = |name: &str, labels: &[(&str, &str)]| dd(&all, name, labels) - dd(&nothing, name, labels);
    // 30 pieces, and one read at the end of the file.
    assert_eq!(grown(OPS, &[("operation", "read")]), 37.0 * 31.0);
    assert_eq!(grown(OPS, &[("operation", "write")]), 37.0 * 30.0);
    assert_eq!(grown("ebpf_file_write_bytes_total", &[]), 37.0 * 3000.0);
    assert_eq!(grown("ebpf_file_read_bytes_total", &[]), 37.0 * 3000.0);
    assert!(dd(&all, OPS, &[("operation", "open")]) >= 37.0 * 2.0);
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

#[live::test(cgroup2)]
fn control_groups_are_a_flag() {
    let group = Group::new("copier");
    let counted = measure(&["--fileops.latency", "off", "--fileops.cgroup"], || {
        // Without cargo's folders, in all of which a shell would look for what it is linked with.
        let dd = "exec dd if=/dev/zero of=/dev/null bs=1 count=211 status=none";
        assert!(group.shell(dd).env_remove("LD_LIBRARY_PATH").status().unwrap().success());
        let opens = "for n in $(seq 211); do : < /dev/null; done";
        assert!(group.shell(opens).env_remove("LD_LIBRARY_PATH").status().unwrap().success());
    });
    assert_eq!(counted.delta.1.get("ebpf_file_read_latency_microseconds_count", &[]), None);
    let labels = [("process", "dd"), ("cgroup", group.name()), ("operation", "write")];
    let writes = counted.delta.of(OPS, &labels);
    // The shell writes a little before it becomes dd, and has its name in the end.
    assert!((211.0..=216.0).contains(&writes), "{writes}");
    let sh = [("process", "sh"), ("cgroup", group.name()), ("operation", "open")];
    let opens = counted.delta.of(OPS, &sh);
    assert!((211.0..=221.0).contains(&opens), "{opens}");
}

#[live::test(cgroup2)]
fn control_groups_that_are_gone_give_back_their_room() {
    let flags = ["--fileops.latency", "off", "--fileops.cgroup", "--max-series", "256"];
    let exporter = Exporter::start("fileops", &flags);
    let opens = |group: &Group| {
        assert!(group.shell(": < /dev/null").status().unwrap().success());
        let labels = [("process", "sh"), ("cgroup", group.name()), ("operation", "open")];
        exporter.scrape().get(OPS, &labels)
    };
    let first = Group::new("first");
    assert!(opens(&first).is_some());
    for _ in 0..300 {
        assert!(Group::new("short").shell(":").status().unwrap().success());
    }
    // What is folded tells of the need.
    let group = Group::new("new");
    wait_until("the new group has a series", Duration::from_secs(10), || opens(&group).is_some());
    assert!(opens(&first).is_some(), "a group that is there keeps its series");
}

#[live::test(functions)]
fn latency_is_a_flag() {
    let counted = measure(&["--fileops.latency", "on"], || ());
    assert!(counted.latencies("read") > 0.0);
}

/// Does `work` while so many threads wait inside a read of a pipe.
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

/// BTF, without which there is no fentry, and symbols, as systemd does.
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
    // More than a kretprobe has instances.
    let waiting = 2 * std::thread::available_parallelism().unwrap().get() + 30;
    while_reads_wait(waiting, || {
        between[0] = Some(exporter.scrape());
        reads(97);
        between[1] = Some(exporter.scrape());
    });
    let [before, after] = between.map(Option::unwrap);
    // Those threads have left their instances a moment after the last of them has ended.
    let idle = exporter.scrape();
    reads(61);
    let end = exporter.scrape();
    let grown = |[from, to]: [&Exposition; 2], reason| Some(lost(to, reason)? - lost(from, reason)?);
    assert!(counted(&end) - counted(&idle) >= 61.0, "all are seen again");
    // What a call that was passed over has begun is still there when the thread begins the next one.
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
    // The test itself and others read meanwhile, to ask the exporter for instance.
    live::assert_nearly("reads passed over or counted", missed + seen, 97.0, 60.0);
    assert!(missed >= 97.0, "{missed}: no instance was left");
    assert_eq!(grown([&idle, &end], "probe_missed"), Some(0.0));
}

#[live::test]
fn processes_beyond_the_limit_are_folded_and_counted() {
    let folder = Folder::new();
    let counted = measure(&["--max-series", "16"], || {
        let cat = folder.path("cat");
        sh(&format!("for n in $(seq 40); do cp /bin/cat {cat}$n; {cat}$n /etc/hosts > /dev/null; done"));
    });
    let other = counted.delta.of(OPS, &[("process", "other"), ("operation", "open")]);
    assert!(other >= 24.0 * 2.0, "{other} under other");
    assert!(counted.delta.of("ebpf_exporter_folded_events_total", &[]) >= other);
    let opens = counted.delta.1.labels(OPS).iter().filter(|l| l["operation"] == "open").count();
    assert!(opens <= 16, "{opens} names");
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

live::main!();
