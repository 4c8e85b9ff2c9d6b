// SPDX-License-Identifier: MIT OR Apache-2.0
//! A known number of file operations of each kind, compared with the exporter and
//! with /proc/PID/io.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

#[path = "live/latency.rs"]
mod latency;
#[path = "live/tasks.rs"]
mod tasks;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use live::cgroup::Group;
use live::exporter::Exporter;
use live::exposition::Delta;
use live::truth::own_io;
use live::{Folder, sh, wait_until};

const OPS: &str = "ebpf_file_ops_total";

/// This program's name, as the kernel truncates it.
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

/// What the exporter counts for `work` of this process. This includes what the test reads
/// and writes for the scrapes. [`of_asking`] measures that without work.
fn measure(flags: &[&str], work: impl FnOnce()) -> Counted {
    // The one without flags is kept for the tests after this.
    let exporter = match flags {
        [] => Exporter::shared("fileops", &[]),
        flags => Arc::new(Exporter::start("fileops", flags)),
    };
    let before = exporter.scrape();
    work();
    let delta = Delta(before, exporter.scrape());
    delta.assert_whole();
    Counted { delta, name: own_name() }
}

/// Reads and writes of this process for one measurement without work.
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
    // A read of nothing at the end of the file counts too.
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
    // The kernel cuts the name to 15 bytes, after the first of the three bytes of a character.
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
    // The exporter also counts two reads of /proc/self/io and one scrape of this test.
    let on_top = [20.0, 4.0, 200_000.0, 1_000.0];
    for ((ours, kernel), on_top) in ours.iter().zip(kernel).zip(on_top) {
        assert!((kernel..=kernel + on_top).contains(ours), "{ours}, /proc/self/io {kernel}");
    }
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
        // A sysctl may forbid io_uring; the guests do not set it.
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
    // A kernel worker may do it. Before 5.12, it has its own name.
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

#[live::test(functions, kernel_with("io_read_mshot"))]
fn each_read_of_a_multishot_request_is_a_read() {
    const GROUP: u16 = 7;
    let mut ring = IoUring::new(8).expect("io_uring");
    let (reads, writes) = of_asking();
    let (from, mut to) = std::io::pipe().unwrap();
    let mut buffers = [[0u8; 16]; 64];
    let counted = measure(&[], || {
        let entries = [
            opcode::ProvideBuffers::new(buffers.as_mut_ptr().cast(), 16, 64, GROUP, 0).build(),
            opcode::ReadMulti::new(types::Fd(from.as_raw_fd()), 0, GROUP).build(),
        ];
        // SAFETY: buffers and pipe outlive the ring's use of them: nothing is written after these bytes.
        unsafe { ring.submission().push_multiple(&entries).unwrap() };
        ring.submit_and_wait(1).unwrap();
        assert_eq!(ring.completion().next().unwrap().result(), 0, "buffers are provided");
        for _ in 0..53 {
            to.write_all(b"x").unwrap();
            ring.submit_and_wait(1).unwrap();
            assert_eq!(ring.completion().next().unwrap().result(), 1);
        }
    });
    assert_eq!(counted.ops("read") - reads, 53.0);
    assert_eq!(counted.ops("write") - writes, 53.0);
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

#[live::test(cgroup2)]
fn control_groups_are_a_flag() {
    let group = Group::new("copier");
    let counted = measure(&["--fileops.latency", "off", "--fileops.cgroup"], || {
        // Without LD_LIBRARY_PATH of cargo, whose folders the loader would search for libraries.
        let dd = "exec dd if=/dev/zero of=/dev/null bs=1 count=211 status=none";
        assert!(group.shell(dd).env_remove("LD_LIBRARY_PATH").status().unwrap().success());
        let opens = "for n in $(seq 211); do : < /dev/null; done";
        assert!(group.shell(opens).env_remove("LD_LIBRARY_PATH").status().unwrap().success());
    });
    assert_eq!(counted.delta.1.get("ebpf_file_read_latency_microseconds_count", &[]), None);
    let labels = [("process", "dd"), ("cgroup", group.name()), ("operation", "write")];
    let writes = counted.delta.of(OPS, &labels);
    // The shell writes a little before it executes dd. These writes count under the name dd.
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
    // Folded operations show that the group needs an entry.
    let group = Group::new("new");
    wait_until("the new group has a series", Duration::from_secs(10), || opens(&group).is_some());
    assert!(opens(&first).is_some(), "a group that is there keeps its series");
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

live::main!();
