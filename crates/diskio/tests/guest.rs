// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exact block I/O in a guest, compared with what was done and with `/proc/diskstats`.
//! Run by `make test-vm`; one at a time, as devices are the machine's.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use guest::block::{self, Device, Diskstats};
use guest::exporter::{Exporter, get};
use guest::exposition::{self, Exposition};
use guest::{WithoutUdev, bpf_programs, install_package, sh, wait_until};
use rustix::process::Signal;

const LATENCY: &str = "ebpf_disk_io_latency_microseconds";

/// Programs of ours, as the kernel truncates their names.
fn our_programs() -> usize {
    bpf_programs().iter().filter(|name| name.starts_with("rq_") || name.starts_with("bio_")).count()
}

fn start() -> Exporter {
    install_package();
    Exporter::start("diskio", &[])
}

/// What the exporter counted between two scrapes.
struct Delta(exposition::Delta);

impl Delta {
    fn of(&self, name: &str, device: &str, operation: &str) -> f64 {
        self.0.of(name, &[("device", device), ("operation", operation)])
    }

    fn ios(&self, device: &str, operation: &str) -> f64 {
        self.of(&format!("{LATENCY}_count"), device, operation)
    }

    fn bytes(&self, device: &str, operation: &str) -> f64 {
        self.of("ebpf_disk_io_bytes_total", device, operation)
    }

    fn up_to(&self, le: &str, device: &str, operation: &str) -> f64 {
        let labels = [("device", device), ("operation", operation), ("le", le)];
        self.0.of(&format!("{LATENCY}_bucket"), &labels)
    }
}

/// Runs `work` on `device`: what we counted, and what the kernel did.
fn measure(exporter: &Exporter, device: &Device, work: impl FnOnce()) -> (Delta, Diskstats) {
    let _alone = WithoutUdev::now();
    let (before, disk_before) = (exporter.scrape(), Diskstats::of(&device.name));
    work();
    let (after, disk_after) = (exporter.scrape(), Diskstats::of(&device.name));
    let delta = Delta(exposition::Delta(before, after));
    assert_eq!(delta.0.lost(), 0.0, "{:?}", delta.0);
    assert_eq!(delta.0.1.get("ebpf_disk_io_inflight", &[("device", &device.name)]), Some(0.0));
    (delta, disk_after.since(disk_before))
}

#[test]
fn a_device_of_known_latency() {
    // Above 16384 us, so that not one sample may be in that bucket.
    let device = block::null_blk(19_000_000, "none");
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        assert_eq!(block::direct_reads(&device, 107, 4096), 0);
        block::direct_writes(&device, 61, 16384);
    });
    let name = device.name.as_str();
    assert_eq!((delta.ios(name, "read"), delta.ios(name, "write")), (107.0, 61.0));
    assert_eq!((disk.reads, disk.writes), (107, 61));
    assert_eq!((delta.bytes(name, "read"), delta.bytes(name, "write")), (107.0 * 4096.0, 61.0 * 16384.0));
    assert_eq!((disk.read_sectors, disk.write_sectors), (107 * 8, 61 * 32));
    for (operation, count, disk_ms) in [("read", 107.0, disk.read_ms), ("write", 61.0, disk.write_ms)] {
        assert_eq!(delta.up_to("16384", name, operation), 0.0, "none can be faster than the device");
        let right = delta.up_to("32768", name, operation);
        assert!(right >= 0.95 * count, "{right} of {count} {operation}s in the right bucket");
        assert_eq!(delta.up_to("+Inf", name, operation), count);
        let mean = delta.of(&format!("{LATENCY}_sum"), name, operation) / count;
        assert!((19000.0..19000.0 * 1.15).contains(&mean), "mean {operation} latency {mean} us");
        let ours = mean * count / 1000.0;
        assert!((ours / disk_ms as f64 - 1.0).abs() < 0.05, "{operation}: {ours} ms, diskstats {disk_ms} ms");
    }
    for operation in ["flush", "discard", "other"] {
        assert_eq!(delta.ios(name, operation), 0.0, "{operation}");
    }
}

#[test]
fn a_scheduler_splits_latency_into_queue_and_service() {
    let device = block::null_blk(1_000_000, "mq-deadline");
    sh(&format!("echo 2 > /sys/block/{}/queue/nomerges", device.name));
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(block::direct_reads(&device, 101, 4096), 0));
            }
        });
    });
    let name = device.name.as_str();
    assert_eq!((delta.ios(name, "read"), disk.reads), (404.0, 404));
    let sum = |metric: &str| delta.of(metric, name, "read");
    let (queue, service) = (sum("ebpf_disk_io_queue_seconds_sum"), sum("ebpf_disk_io_service_seconds_sum"));
    let latency = sum(&format!("{LATENCY}_sum")) / 1e6;
    assert!((queue + service - latency).abs() < 1e-8, "{queue} + {service} = {latency}");
    assert!(queue > 0.0 && service >= 0.404, "{queue} {service}");
    assert_eq!(sum("ebpf_disk_io_queue_seconds_count"), 404.0);
    assert_eq!(sum("ebpf_disk_io_service_seconds_count"), 404.0);
}

#[test]
fn large_requests_are_split_as_the_kernel_splits_them() {
    let device = block::null_blk(10_000, "none");
    sh(&format!("echo 64 > /sys/block/{}/queue/max_sectors_kb", device.name));
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        assert_eq!(block::direct_reads(&device, 17, 1 << 20), 0);
    });
    assert_eq!(delta.ios(&device.name, "read"), 17.0 * 16.0);
    assert_eq!(disk.reads, 17 * 16);
    assert_eq!(delta.bytes(&device.name, "read"), 17.0 * 1_048_576.0);
}

/// The guest's own spare disk, behind a volatile write cache.
fn spare() -> Device {
    let node = sh("basename $(readlink -f /dev/disk/by-id/virtio-spare-a)");
    sh(&format!("echo 'write back' > /sys/block/{node}/queue/write_cache"));
    Device::existing(&node)
}

#[test]
fn flushes_are_counted_once_and_apart() {
    let device = spare();
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || block::writes_with_flush(&device, 53));
    let name = device.name.as_str();
    assert_eq!((delta.ios(name, "write"), delta.ios(name, "flush")), (53.0, 53.0));
    assert_eq!(delta.bytes(name, "write"), 53.0 * 4096.0);
    assert_eq!(disk.flushes, 53);
    // diskstats counts the empty write that asks for the flush among the writes.
    assert_eq!(disk.writes, 53 + 53);
}

#[test]
fn a_write_through_the_cache_is_one_write() {
    let device = spare();
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || block::synchronous_writes(&device, 53, 8192));
    let name = device.name.as_str();
    assert_eq!(delta.ios(name, "write"), 53.0);
    assert_eq!(delta.bytes(name, "write"), 53.0 * 8192.0);
    // The disk cannot force one write to the medium: a flush stands for that, and
    // another one is the end of O_DSYNC, which diskstats counts among the writes.
    assert_eq!(delta.ios(name, "flush"), disk.flushes as f64);
    assert_eq!(disk.writes, 53 + 53);
}

#[test]
fn discards_are_an_operation_of_their_own() {
    let device = block::scsi_debug("lbpu=1 lbpws=1 delay=0");
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        for n in 0..31 {
            sh(&format!("blkdiscard -o {} -l 65536 /dev/{}", n * 65536, device.name));
        }
    });
    assert_eq!((delta.ios(&device.name, "discard"), disk.discards), (31.0, 31));
    assert_eq!(delta.bytes(&device.name, "discard"), 31.0 * 65536.0);
    assert_eq!(disk.discard_sectors, 31 * 128);
}

#[test]
fn a_short_transfer_is_completed_in_parts_and_counted_once() {
    let device = block::scsi_debug("ndelay=100000 every_nth=10 opts=0x100");
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        assert_eq!(block::direct_reads(&device, 100, 65536), 0);
    });
    assert_eq!((delta.ios(&device.name, "read"), disk.reads), (100.0, 100));
    assert_eq!(delta.bytes(&device.name, "read"), disk.read_sectors as f64 * 512.0);
}

#[test]
fn a_busy_host_requeues_and_a_request_is_counted_once() {
    let device = block::scsi_debug("ndelay=100000 every_nth=10 opts=0x8000");
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        assert_eq!(block::direct_reads(&device, 100, 65536), 0);
    });
    assert_eq!((delta.ios(&device.name, "read"), disk.reads), (100.0, 100));
}

#[test]
fn a_medium_error_is_one_failed_read() {
    // opts 2: sectors 0x1234 to 0x123d cannot be read.
    let device = block::scsi_debug("delay=0 opts=2");
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        let bad = 0x1234 * 512 / 4096;
        let read = format!("dd if=/dev/{} of=/dev/null iflag=direct bs=4096 skip={bad} count=1", device.name);
        for _ in 0..7 {
            sh(&format!("! {read} 2> /dev/null"));
        }
        assert_eq!(block::direct_reads(&device, 11, 4096), 0);
    });
    assert_eq!(delta.of("ebpf_disk_io_errors_total", &device.name, "read"), 7.0);
    assert_eq!((delta.ios(&device.name, "read"), disk.reads), (18.0, 18));
}

#[test]
fn device_mapper_is_seen_with_its_name_and_its_delay() {
    let below = block::null_blk(10_000, "none");
    let table = format!("delay {0} 0 10 {0} 0 30", below.number());
    let device = block::device_mapper("slow-volume", &table);
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        assert_eq!(block::direct_reads(&device, 41, 4096), 0);
        block::direct_writes(&device, 23, 8192);
    });
    let name = device.name.as_str();
    assert!(name.starts_with("dm-"), "{name}");
    assert_eq!((delta.ios(name, "read"), delta.ios(name, "write")), (41.0, 23.0));
    assert_eq!((disk.reads, disk.writes), (41, 23));
    assert_eq!(delta.bytes(name, "write"), 23.0 * 8192.0);
    // The layer below is seen as well.
    assert_eq!((delta.ios(&below.name, "read"), delta.ios(&below.name, "write")), (41.0, 23.0));
    for (operation, count, least, disk_ms) in
        [("read", 41.0, 10.0, disk.read_ms), ("write", 23.0, 30.0, disk.write_ms)]
    {
        let mean = delta.of(&format!("{LATENCY}_sum"), name, operation) / count / 1000.0;
        // The delay is counted in ticks of 4 ms, and a tick may be nearly over.
        assert!((least - 4.0..least + 15.0).contains(&mean), "mean {operation} latency {mean} ms");
        let ours = mean * count;
        assert!((ours / disk_ms as f64 - 1.0).abs() < 0.05, "{operation}: {ours} ms, diskstats {disk_ms} ms");
    }
    // No queue, no service time: absent, not zero.
    assert_eq!(delta.0.1.get("ebpf_disk_io_queue_seconds_count", &[("device", name)]), None);
    let info = [("device", name), ("dm_name", "slow-volume")];
    assert_eq!(delta.0.1.get("ebpf_disk_device_info", &info), Some(1.0));
}

#[test]
fn errors_of_a_bio_driver_are_counted() {
    let device = block::device_mapper("broken-volume", "error");
    let exporter = start();
    let (delta, _) = measure(&exporter, &device, || assert_eq!(block::direct_reads(&device, 13, 4096), 13));
    assert_eq!(delta.of("ebpf_disk_io_errors_total", &device.name, "read"), 13.0);
    assert_eq!(delta.ios(&device.name, "read"), 13.0);
}

#[test]
fn a_number_that_is_used_again_is_another_device() {
    let exporter = start();
    let first = block::null_blk(10_000, "none");
    let (name, number) = (first.name.clone(), first.number());
    let (delta, _) = measure(&exporter, &first, || assert_eq!(block::direct_reads(&first, 19, 4096), 0));
    assert_eq!(delta.ios(&name, "read"), 19.0);
    let total = delta.0.1.count(&format!("{LATENCY}_count"), &[("device", &name), ("operation", "read")]);
    drop(first);

    // The same name again: one series that goes on.
    let again = block::null_blk(10_000, "none");
    assert_eq!((&again.name, &again.number()), (&name, &number));
    let (delta, _) = measure(&exporter, &again, || assert_eq!(block::direct_reads(&again, 17, 4096), 0));
    assert_eq!(delta.ios(&name, "read"), 17.0);
    assert!(
        delta.0.0.count(&format!("{LATENCY}_count"), &[("device", &name), ("operation", "read")]) >= total
    );
    drop(again);

    // Another driver takes the free major: the same number, another name.
    sh("rmmod null_blk; modprobe zram num_devices=1; echo 16M > /sys/block/zram0/disksize; udevadm settle");
    let other = Device::existing("zram0");
    assert_eq!(other.number(), number, "the test needs a driver that takes this major");
    let (delta, disk) = measure(&exporter, &other, || assert_eq!(block::direct_reads(&other, 29, 4096), 0));
    assert_eq!((delta.ios("zram0", "read"), disk.reads), (29.0, 29));
    assert_eq!(delta.ios(&name, "read"), 0.0, "nothing goes to the device of the past");
    let info = [("device", "zram0"), ("number", number.as_str())];
    assert_eq!(delta.0.1.get("ebpf_disk_device_info", &info), Some(1.0));
    assert_eq!(delta.0.1.get("ebpf_disk_device_info", &[("device", &name)]), None);
    wait_until("zram gone", Duration::from_secs(30), || {
        sh("udevadm settle; rmmod zram && echo gone || true") == "gone"
    });
}

#[test]
fn what_does_not_fit_is_counted_under_other() {
    install_package();
    // 16 entries: ten are for "other" and the present disks take more.
    let exporter = Exporter::start("diskio", &["--max-series", "16"]);
    let devices: Vec<Device> = (0..6).map(|_| block::null_blk(10_000, "none")).collect();
    sh("udevadm settle");
    let before = exporter.scrape();
    for device in &devices {
        assert_eq!(block::direct_reads(device, 10, 4096), 0);
        block::direct_writes(device, 10, 4096);
    }
    let delta = Delta(exposition::Delta(before, exporter.scrape()));
    let own: f64 = devices.iter().map(|d| delta.ios(&d.name, "read") + delta.ios(&d.name, "write")).sum();
    let other = delta.ios("other", "read") + delta.ios("other", "write");
    assert_eq!(own + other, 120.0, "nothing is lost");
    assert!(other > 0.0);
    assert!(delta.0.of("ebpf_exporter_folded_events_total", &[]) >= other);
    assert_eq!(delta.0.lost(), 0.0);
    let entries = delta.0.1.count("ebpf_exporter_map_entries", &[("map", "rq_stats")]);
    assert_eq!(
        (entries, delta.0.1.count("ebpf_exporter_map_capacity", &[("map", "rq_stats")])),
        (16.0, 16.0)
    );
}

#[test]
fn more_requests_in_flight_than_entries_stay_are_not_lost() {
    let device = block::null_blk(100_000, "none");
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(block::direct_reads(&device, 500, 4096), 0));
            }
        });
    });
    assert_eq!((delta.ios(&device.name, "read"), disk.reads), (4000.0, 4000));
}

#[test]
fn in_flight_is_what_sysfs_says() {
    let device = block::null_blk(3_000_000_000, "none");
    let exporter = start();
    let (delta, _) = measure(&exporter, &device, || {
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| assert_eq!(block::direct_reads(&device, 1, 4096), 0));
            }
            let reads = || sh(&format!("awk '{{ print $1 }}' /sys/block/{}/inflight", device.name));
            wait_until("five reads in flight", Duration::from_secs(30), || reads() == "5");
            let labels = [("device", device.name.as_str()), ("operation", "read")];
            assert_eq!(exporter.scrape().get("ebpf_disk_io_inflight", &labels), Some(5.0));
        });
    });
    assert_eq!(delta.ios(&device.name, "read"), 5.0);
}

#[test]
fn bare_tracepoints_count_the_same_where_the_kernel_has_no_btf() {
    install_package();
    let device = block::null_blk(10_000, "none");
    // A private mount hides the kernel's BTF; the file stands for one made elsewhere.
    sh("cp /sys/kernel/btf/vmlinux /tmp/vmlinux.btf");
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    let shell = ["-m", "sh", "-c", hide, "sh", "ebpf-diskio-exporter", "--btf.path", "/tmp/vmlinux.btf"];
    let check = Command::new("unshare").args(shell).arg("--check").output().unwrap();
    let lines = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success(), "{lines}{}", String::from_utf8_lossy(&check.stderr));
    assert_eq!(lines.lines().filter(|line| line.contains(": fallback: raw_tp (")).count(), 6, "{lines}");
    let exporter = Exporter::spawn(Command::new("unshare").args(shell));
    let (delta, disk) = measure(&exporter, &device, || {
        assert_eq!(block::direct_reads(&device, 71, 4096), 0);
        block::direct_writes(&device, 37, 8192);
    });
    let name = device.name.as_str();
    assert_eq!((delta.ios(name, "read"), delta.ios(name, "write")), (71.0, 37.0));
    assert_eq!((disk.reads, disk.writes), (71, 37));
    assert_eq!(delta.bytes(name, "write"), 37.0 * 8192.0);
}

#[test]
fn nothing_stays_in_the_kernel() {
    assert_eq!(our_programs(), 0);
    for (signal, code) in [(Signal::TERM, Some(0)), (Signal::INT, Some(0)), (Signal::KILL, None)] {
        let exporter = start();
        assert_eq!(our_programs(), 6);
        assert_eq!(exporter.end(signal), code);
        // The kernel frees programs after a grace period.
        wait_until("programs gone", Duration::from_secs(30), || our_programs() == 0);
    }
}

#[test]
fn check_once_and_textfile_do_what_they_say() {
    install_package();
    let check = sh("ebpf-diskio-exporter --check");
    assert_eq!(check.lines().count(), 6, "{check}");
    assert!(check.lines().all(|line| line.contains(": ok")), "{check}");

    let device = block::null_blk(10_000, "none");
    sh("udevadm settle");
    let mut once = Command::new("ebpf-diskio-exporter");
    let once = once.arg("--once").stdout(std::process::Stdio::piped()).spawn().unwrap();
    // Once this thread is there everything is attached.
    wait_until("it waits for signals", Duration::from_secs(30), || {
        sh(&format!("cat /proc/{}/task/*/comm || :", once.id())).contains("signals")
    });
    block::direct_writes(&device, 5, 4096);
    sh(&format!("kill -INT {}", once.id()));
    let output = once.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let write = [("device", device.name.as_str()), ("operation", "write")];
    assert_eq!(Exposition::parse(&text).get(&format!("{LATENCY}_count"), &write), Some(5.0), "{text}");

    sh("mkdir -p /tmp/textfile");
    let mut daemon = Command::new("ebpf-diskio-exporter")
        .args(["--textfile.path", "/tmp/textfile/diskio.prom", "--textfile.interval", "100ms"])
        .spawn()
        .unwrap();
    let scrapes = || {
        let text = std::fs::read_to_string("/tmp/textfile/diskio.prom").unwrap_or_default();
        Exposition::parse(&text).count("ebpf_exporter_scrapes_total", &[])
    };
    wait_until("the file is rewritten", Duration::from_secs(30), || scrapes() >= 3.0);
    sh(&format!("kill -TERM {}", daemon.id()));
    assert!(daemon.wait().unwrap().success());
    assert_eq!(sh("ls -A /tmp/textfile"), "diskio.prom");
}

/// Exit code and standard error.
fn fails(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_cannot_work_says_why_and_leaves_nothing_behind() {
    let exporter = start();
    let port = exporter.port().to_string();
    let mut command = Command::new("ebpf-diskio-exporter");
    let (code, said) = fails(command.args(["--web.listen-address", &format!("127.0.0.1:{port}")]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&port) && said.contains("--web.listen-address"), "{said}");
    drop(exporter);

    let (code, said) = fails(Command::new("ebpf-diskio-exporter").arg("--check").uid(65534).gid(65534));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("CAP_BPF"), "{said}");

    for (path, why) in [("/nonexistent", "/nonexistent"), ("/etc/passwd", "/etc/passwd")] {
        let (code, said) = fails(Command::new("ebpf-diskio-exporter").args(["--check", "--btf.path", path]));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "one line: {said}");
    }

    let hide = "mount -t tmpfs none /sys/kernel/btf && exec ebpf-diskio-exporter --check";
    let (code, said) = fails(Command::new("unshare").args(["-m", "sh", "-c", hide]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--btf.path"), "{said}");

    let (code, said) = fails(Command::new("ebpf-diskio-exporter").arg("--no-such-flag"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--no-such-flag"), "{said}");

    let (code, said) =
        fails(Command::new("ebpf-diskio-exporter").args(["--textfile.path", "/nonexistent/x.prom"]));
    assert_eq!(code, Some(1), "{said}");
    wait_until("programs gone", Duration::from_secs(30), || our_programs() == 0);
}

#[test]
fn the_units_run_unprivileged_and_prometheus_scrapes_them() {
    install_package();
    sh("systemctl enable --now ebpf-exporters.target");
    // The target does not wait for what it wants; this does.
    sh("systemctl start ebpf-diskio-exporter.service || { journalctl -u ebpf-diskio-exporter; exit 1; }");
    let pid = sh("systemctl show -P MainPID ebpf-diskio-exporter.service");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_ne!(field("Uid:"), "0");
    // CAP_PERFMON is 38, CAP_BPF 39; nothing but reading is left to do.
    let bits = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
    assert_eq!(bits("CapBnd:") & !(1 << 38 | 1 << 39), 0, "{status}");
    assert_eq!(bits("CapEff:") & !(1 << 39), 0, "{status}");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let rss: u64 = field("VmRSS:").parse().unwrap();
    assert!(rss <= 4096, "{rss} kB resident");

    let (code, text) = get(9101, "/metrics");
    assert_eq!(code, 200);
    assert_eq!(Exposition::parse(&text).get("ebpf_exporter_mode", &[("mode", "ebpf")]), Some(1.0));
    std::fs::write("/tmp/metrics.prom", &text).unwrap();
    let lint =
        Command::new("sh").args(["-c", "promtool check metrics < /tmp/metrics.prom"]).output().unwrap();
    let said = String::from_utf8_lossy(&lint.stderr).into_owned() + &String::from_utf8_lossy(&lint.stdout);
    let others: Vec<&str> = said.lines().filter(|line| !line.contains("use base unit \"seconds\"")).collect();
    assert!(others.is_empty(), "{others:?}");

    let device = block::null_blk(2_100_000, "none");
    let config = "/usr/share/ebpf-exporters/prometheus/prometheus.yml";
    sh(&format!("promtool check config {config}"));
    let mut prometheus = Command::new("prometheus")
        .args(["--config.file", config, "--storage.tsdb.path=/tmp/tsdb"])
        .args(["--web.listen-address=127.0.0.1:9090"])
        .stderr(std::fs::File::create("/tmp/prometheus.log").unwrap())
        .spawn()
        .unwrap();
    let query = |query: &str| {
        let line = format!("curl -sG 127.0.0.1:9090/api/v1/query --data-urlencode 'query={query}' || true");
        sh(&line)
    };
    // Shown when the test fails.
    println!("{}", std::fs::read_to_string("/tmp/prometheus.log").unwrap());
    wait_until("the target is up", Duration::from_secs(120), || {
        query("up{job=\"ebpf-diskio\"} == 1").contains("\"value\"")
    });
    let quantile = format!(
        "histogram_quantile(0.5, rate({LATENCY}_bucket{{device=\"{}\",operation=\"read\"}}[2m]))",
        device.name
    );
    let mut answer = String::new();
    wait_until("a quantile", Duration::from_secs(180), || {
        assert_eq!(block::direct_reads(&device, 50, 4096), 0);
        answer = query(&quantile);
        answer.contains("\"value\"") && !answer.contains("NaN")
    });
    let median: f64 = answer.rsplit('"').nth(1).unwrap().parse().unwrap();
    assert!((2048.0..4096.0).contains(&median), "median {median} us from {answer}");
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();

    sh("systemctl stop ebpf-exporters.target");
    // The target does not wait for what it stops.
    wait_until("the unit is stopped", Duration::from_secs(60), || {
        sh("systemctl is-active ebpf-diskio-exporter.service || true") == "inactive"
    });
    wait_until("programs gone", Duration::from_secs(30), || our_programs() == 0);
}

/// Named `last_` for the runner, as lockdown cannot be taken back.
#[test]
fn last_lockdown_is_named_where_it_matters() {
    install_package();
    sh("cp /sys/kernel/btf/vmlinux /tmp/vmlinux.btf
        mountpoint -q /sys/kernel/security || mount -t securityfs none /sys/kernel/security
        echo confidentiality > /sys/kernel/security/lockdown");
    // What the verifier knows the type of is read without the helper that lockdown forbids.
    let check = sh("ebpf-diskio-exporter --check");
    assert!(check.lines().all(|line| line.contains(": ok")), "{check}");
    // The bare twins need that helper.
    let hide = "mount -t tmpfs none /sys/kernel/btf && \
                exec ebpf-diskio-exporter --check --btf.path /tmp/vmlinux.btf";
    let (code, said) = fails(Command::new("unshare").args(["-m", "sh", "-c", hide]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("lockdown"), "{said}");
    wait_until("programs gone", Duration::from_secs(30), || our_programs() == 0);
}
