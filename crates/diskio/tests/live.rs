// SPDX-License-Identifier: MIT OR Apache-2.0
//! A known number of block I/Os, compared with the exporter and with `/proc/diskstats`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

#[path = "live/pairs.rs"]
mod pairs;

use std::fs;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use live::block::{self, Device, Diskstats, Frozen, Thaw};
use live::exporter::Exporter;
use live::exposition;
use live::has_module;
use live::zpool::DISKS;
use live::{Folder, WithoutUdev, sh, udev_settles, wait_until};

const LATENCY: &str = "ebpf_disk_io_latency_microseconds";

fn start() -> Exporter {
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

/// Runs `work` on `device`. Returns the counts of the exporter and of the kernel.
fn measure(exporter: &Exporter, device: &Device, work: impl FnOnce()) -> (Delta, Diskstats) {
    let _alone = WithoutUdev::now();
    let (before, disk_before) = (exporter.scrape(), Diskstats::of(&device.name));
    work();
    let (after, disk_after) = (exporter.scrape(), Diskstats::of(&device.name));
    let delta = Delta(exposition::Delta(before, after));
    delta.0.assert_nothing_lost();
    assert_eq!(delta.0.1.get("ebpf_disk_io_inflight", &[("device", &device.name)]), Some(0.0));
    (delta, disk_after.since(disk_before))
}

#[live::test(module("null_blk"))]
fn a_device_of_known_latency() {
    // Above 16384 us, so this bucket must stay empty.
    let device = block::null_blk(19_000_000, "none");
    let exporter = start();
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    let (delta, disk) = measure(&exporter, &device, || {
        reads = block::direct_latencies(&device, false, 107, 4096);
        writes = block::direct_latencies(&device, true, 61, 16384);
    });
    let name = device.name.as_str();
    assert_eq!((delta.ios(name, "read"), delta.ios(name, "write")), (107.0, 61.0));
    assert_eq!((disk.reads, disk.writes), (107, 61));
    assert_eq!((delta.bytes(name, "read"), delta.bytes(name, "write")), (107.0 * 4096.0, 61.0 * 16384.0));
    assert_eq!((disk.read_sectors, disk.write_sectors), (107 * 8, 61 * 32));
    for (operation, calls, disk_ms) in [("read", reads, disk.read_ms), ("write", writes, disk.write_ms)] {
        let count = calls.len() as f64;
        assert_eq!(delta.up_to("16384", name, operation), 0.0, "none can be faster than the device");
        // An I/O takes no longer than its system call, which may be long if a timer is late.
        let fast = calls.iter().filter(|call| call.as_micros() < 32768).count() as f64;
        let right = delta.up_to("32768", name, operation);
        assert!(
            right >= fast && fast > 0.5 * count,
            "{right} {operation}s in the right bucket, {fast} of {count} calls"
        );
        assert_eq!(delta.up_to("+Inf", name, operation), count);
        let sum = delta.of(&format!("{LATENCY}_sum"), name, operation);
        let calls = calls.iter().sum::<Duration>().as_micros() as f64;
        assert!((19000.0 * count..calls).contains(&sum), "{sum} us of {operation}s, calls took {calls} us");
        let ours = sum / 1000.0;
        assert!((ours / disk_ms as f64 - 1.0).abs() < 0.05, "{operation}: {ours} ms, diskstats {disk_ms} ms");
    }
    for operation in ["flush", "discard", "other"] {
        assert_eq!(delta.ios(name, operation), 0.0, "{operation}");
    }
}

#[live::test]
fn a_scheduler_splits_latency_into_queue_and_service() {
    // Without null_blk, the latency of the disk is unknown.
    let (device, least) = if has_module("null_blk") {
        (block::null_blk(1_000_000, "mq-deadline"), 0.404)
    } else {
        (block::memory_loop(), 1e-6)
    };
    sh(&format!("echo mq-deadline > /sys/block/{}/queue/scheduler", device.name));
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
    assert!(queue > 0.0 && service >= least, "{queue} {service}");
    assert_eq!(sum("ebpf_disk_io_queue_seconds_count"), 404.0);
    assert_eq!(sum("ebpf_disk_io_service_seconds_count"), 404.0);
}

#[live::test]
fn large_requests_are_split_as_the_kernel_splits_them() {
    let device = block::fast();
    sh(&format!("echo 64 > /sys/block/{}/queue/max_sectors_kb", device.name));
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        assert_eq!(block::direct_reads(&device, 17, 1 << 20), 0);
    });
    assert_eq!(delta.ios(&device.name, "read"), 17.0 * 16.0);
    assert_eq!(disk.reads, 17 * 16);
    assert_eq!(delta.bytes(&device.name, "read"), 17.0 * 1_048_576.0);
}

/// A disk with a volatile write cache: the guest's spare disk, or else one in memory.
fn cached() -> Device {
    let Ok(node) = fs::canonicalize(DISKS[0]) else { return block::memory_loop() };
    let name = node.file_name().unwrap().to_str().unwrap();
    sh(&format!("echo 'write back' > /sys/block/{name}/queue/write_cache"));
    Device::existing(name)
}

#[live::test]
fn flushes_are_counted_once_and_apart() {
    let device = cached();
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || block::writes_with_flush(&device, 53));
    let name = device.name.as_str();
    assert_eq!((delta.ios(name, "write"), delta.ios(name, "flush")), (53.0, 53.0));
    assert_eq!(delta.bytes(name, "write"), 53.0 * 4096.0);
    assert_eq!(disk.flushes, 53);
    // diskstats also counts as a write the empty write that requests the flush.
    assert_eq!(disk.writes, 53 + 53);
}

#[live::test]
fn a_write_through_the_cache_is_one_write() {
    let device = cached();
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || block::synchronous_writes(&device, 53, 8192));
    let name = device.name.as_str();
    assert_eq!(delta.ios(name, "write"), 53.0);
    assert_eq!(delta.bytes(name, "write"), 53.0 * 8192.0);
    // The disk has no FUA, so a flush replaces it. O_DSYNC ends with another flush,
    // which diskstats counts among the writes.
    assert_eq!(delta.ios(name, "flush"), disk.flushes as f64);
    assert_eq!(disk.writes, 53 + 53);
}

#[live::test]
fn discards_are_an_operation_of_their_own() {
    let device = if has_module("scsi_debug") {
        block::scsi_debug("lbpu=1 lbpws=1 delay=0")
    } else {
        block::memory_loop()
    };
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

/// The kernel counts everything that changes data as a write, except discards.
#[live::test(tool("fallocate"))]
fn zeroes_that_a_disk_writes_by_itself_are_writes_with_programs_and_without() {
    let device = block::memory_loop();
    let without = Exporter::start("diskio", &["--ebpf", "off"]);
    let exporter = start();
    let before = without.scrape();
    let (delta, disk) = measure(&exporter, &device, || {
        for n in 0..29 {
            sh(&format!("fallocate --punch-hole -o {} -l 65536 /dev/{}", n * 65536, device.name));
        }
    });
    let name = device.name.as_str();
    // fallocate(1) ends with a flush, which diskstats also counts among the writes.
    assert_eq!((disk.writes, disk.write_sectors, disk.discards), (29 + disk.flushes, 29 * 128, 0));
    let without = Delta(exposition::Delta(before, without.scrape()));
    assert_eq!(without.bytes(name, "write"), 29.0 * 65536.0);
    assert_eq!((delta.ios(name, "write"), delta.bytes(name, "write")), (29.0, 29.0 * 65536.0));
    assert_eq!(delta.ios(name, "flush"), disk.flushes as f64);
    for operation in ["read", "discard", "other"] {
        assert_eq!(delta.ios(name, operation), 0.0, "{operation}");
    }
}

#[live::test(module("scsi_debug"))]
fn a_short_transfer_is_completed_in_parts_and_counted_once() {
    let device = block::scsi_debug("ndelay=100000 every_nth=10 opts=0x100");
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        assert_eq!(block::direct_reads(&device, 100, 65536), 0);
    });
    assert_eq!((delta.ios(&device.name, "read"), disk.reads), (100.0, 100));
    assert_eq!(delta.bytes(&device.name, "read"), disk.read_sectors as f64 * 512.0);
}

#[live::test(module("scsi_debug"))]
fn a_busy_host_requeues_and_a_request_is_counted_once() {
    let device = block::scsi_debug("ndelay=100000 every_nth=10 opts=0x8000");
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        assert_eq!(block::direct_reads(&device, 100, 65536), 0);
    });
    assert_eq!((delta.ios(&device.name, "read"), disk.reads), (100.0, 100));
}

/// A host that is always busy, until this is dropped.
struct BusyHost;

impl BusyHost {
    fn new() -> Self {
        sh("cd /sys/bus/pseudo/drivers/scsi_debug; echo 1 > every_nth; echo 0x8000 > opts");
        Self
    }
}

impl Drop for BusyHost {
    fn drop(&mut self) {
        sh("echo 0 > /sys/bus/pseudo/drivers/scsi_debug/opts");
    }
}

#[live::test(module("scsi_debug"))]
fn a_request_that_the_driver_gives_back_is_not_in_flight() {
    let device = block::scsi_debug("ndelay=100000");
    let exporter = start();
    std::thread::scope(|scope| {
        let busy = BusyHost::new();
        let (tell, told) = mpsc::channel();
        let device = &device;
        let read = scope.spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            block::direct_reads(device, 1, 4096)
        });
        let stat = format!("/proc/self/task/{}/stat", told.recv().unwrap());
        let waits = || fs::read_to_string(&stat).unwrap().contains(") D ");
        wait_until("the read waits for the device", Duration::from_secs(60), waits);
        // It is issued every few milliseconds, and given back at once. Before it is issued for the first time
        // it is not in flight either: that takes less time than several scrapes.
        let labels = [("device", device.name.as_str()), ("operation", "read")];
        let in_flight = || exporter.scrape().count("ebpf_disk_io_inflight", &labels);
        wait_until("it waits to be issued again", Duration::from_secs(60), || {
            (0..8).all(|_| in_flight() == 0.0)
        });
        assert!(!read.is_finished());
        drop(busy);
        assert_eq!(read.join().unwrap(), 0);
    });
}

#[live::test(module("zram"), own_machine)]
fn pages_that_reach_a_device_without_a_bio_are_counted() {
    const PAGES: f64 = 300.0;
    sh("modprobe zram num_devices=1; echo 16M > /sys/block/zram0/disksize");
    udev_settles();
    let device = Device::existing("zram0");
    block::direct_writes(&device, 300, 4096);
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || {
        sh("echo 1 > /proc/sys/vm/drop_caches; dd if=/dev/zram0 of=/dev/null bs=4096 count=300 status=none");
    });
    println!("{} reads, diskstats {}", delta.ios("zram0", "read"), disk.reads);
    assert!(delta.bytes("zram0", "read") >= PAGES * 4096.0);
    assert_eq!(delta.bytes("zram0", "read"), disk.read_sectors as f64 * 512.0);
    assert_eq!(delta.ios("zram0", "read"), disk.reads as f64);
    drop(device);
    wait_until("zram gone", Duration::from_secs(30), || {
        udev_settles();
        sh("rmmod zram && echo gone || true") == "gone"
    });
}

#[live::test(module("scsi_debug"))]
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

#[live::test(module("null_blk"), module("dm-delay"), tool("dmsetup"))]
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
    // The disk below is counted as well.
    assert_eq!((delta.ios(&below.name, "read"), delta.ios(&below.name, "write")), (41.0, 23.0));
    for (operation, count, least, disk_ms) in
        [("read", 41.0, 10.0, disk.read_ms), ("write", 23.0, 30.0, disk.write_ms)]
    {
        let mean = delta.of(&format!("{LATENCY}_sum"), name, operation) / count / 1000.0;
        // The delay is in ticks of 4 ms, and the first tick may be almost over.
        assert!((least - 4.0..least + 15.0).contains(&mean), "mean {operation} latency {mean} ms");
        let ours = mean * count;
        // diskstats measures bios in whole ticks, from the last tick before they began. On a busy
        // host they begin anywhere in a tick.
        let disk_range = 0.95 * ours..=1.05 * ours + 4.0 * count;
        assert!(disk_range.contains(&(disk_ms as f64)), "{operation}: {ours} ms, diskstats {disk_ms} ms");
    }
    // A bio-based disk has no queue and service times: they are absent, not zero.
    assert_eq!(delta.0.1.get("ebpf_disk_io_queue_seconds_count", &[("device", name)]), None);
    let info = [("device", name), ("dm_name", "slow-volume")];
    assert_eq!(delta.0.1.get("ebpf_disk_device_info", &info), Some(1.0));
}

/// A bio larger than a chunk is one I/O for its submitter, but diskstats counts many I/Os of the
/// volume.
#[live::test(module("dm-mod"), module("loop"), tool("dmsetup"))]
fn a_bio_that_a_stripe_splits_is_counted_once_and_all_its_bytes() {
    let below = [block::memory_loop(), block::memory_loop()];
    let table = format!("striped 2 8 /dev/{} 0 /dev/{} 0", below[0].name, below[1].name);
    let device = block::device_mapper("striped-volume", &table);
    let exporter = start();
    let (delta, disk) = measure(&exporter, &device, || block::direct_writes(&device, 4, 512 << 10));
    let name = device.name.as_str();
    assert_eq!((delta.ios(name, "write"), disk.writes), (4.0, 4 * 128));
    assert_eq!(delta.bytes(name, "write"), 4.0 * 524_288.0);
    assert_eq!(disk.write_sectors, 4 * 1024);
}

#[live::test(module("dm-mod"), tool("dmsetup"))]
fn errors_of_a_bio_driver_are_counted() {
    let device = block::device_mapper("broken-volume", "error");
    let exporter = start();
    let (delta, _) = measure(&exporter, &device, || assert_eq!(block::direct_reads(&device, 13, 4096), 13));
    assert_eq!(delta.of("ebpf_disk_io_errors_total", &device.name, "read"), 13.0);
    assert_eq!(delta.ios(&device.name, "read"), 13.0);
}

#[live::test(module("null_blk"), module("zram"), own_machine)]
fn a_number_that_is_used_again_is_another_device() {
    let exporter = start();
    let first = block::null_blk(10_000, "none");
    let (name, number) = (first.name.clone(), first.number());
    let (delta, _) = measure(&exporter, &first, || assert_eq!(block::direct_reads(&first, 19, 4096), 0));
    assert_eq!(delta.ios(&name, "read"), 19.0);
    let total = delta.0.1.count(&format!("{LATENCY}_count"), &[("device", &name), ("operation", "read")]);
    drop(first);

    // The same name again continues its series.
    let again = block::null_blk(10_000, "none");
    assert_eq!((&again.name, &again.number()), (&name, &number));
    let (delta, _) = measure(&exporter, &again, || assert_eq!(block::direct_reads(&again, 17, 4096), 0));
    assert_eq!(delta.ios(&name, "read"), 17.0);
    assert!(
        delta.0.0.count(&format!("{LATENCY}_count"), &[("device", &name), ("operation", "read")]) >= total
    );
    drop(again);

    // Another driver gets the free major number: the same number, another name.
    sh("rmmod null_blk; modprobe zram num_devices=1; echo 16M > /sys/block/zram0/disksize");
    udev_settles();
    let other = Device::existing("zram0");
    assert_eq!(other.number(), number, "the test needs a driver that takes this major");
    let (delta, disk) = measure(&exporter, &other, || assert_eq!(block::direct_reads(&other, 29, 4096), 0));
    assert_eq!((delta.ios("zram0", "read"), disk.reads), (29.0, 29));
    assert_eq!(delta.ios(&name, "read"), 0.0, "nothing goes to the device of the past");
    let info = [("device", "zram0"), ("number", number.as_str())];
    assert_eq!(delta.0.1.get("ebpf_disk_device_info", &info), Some(1.0));
    assert_eq!(delta.0.1.get("ebpf_disk_device_info", &[("device", &name)]), None);
    wait_until("zram gone", Duration::from_secs(30), || {
        udev_settles();
        sh("rmmod zram && echo gone || true") == "gone"
    });
}

#[live::test]
fn what_does_not_fit_is_counted_under_other() {
    // Of 16 entries, ten are for "other", and the disks of the machine take more.
    let exporter = Exporter::start("diskio", &["--max-series", "16"]);
    let devices: Vec<Device> = (0..6).map(|_| block::fast()).collect();
    let _alone = WithoutUdev::now();
    // Other disks may find no room either.
    let others = || {
        let names = sh("ls /sys/block");
        let names = names.lines().filter(|name| devices.iter().all(|device| device.name != *name));
        names.map(Diskstats::of).map(|disk| disk.reads + disk.writes).sum::<u64>() as f64
    };
    let (others_before, before) = (others(), exporter.scrape());
    for device in &devices {
        assert_eq!(block::direct_reads(device, 10, 4096), 0);
        block::direct_writes(device, 10, 4096);
    }
    let delta = Delta(exposition::Delta(before, exporter.scrape()));
    let at_most = 120.0 + others() - others_before;
    let own: f64 = devices.iter().map(|d| delta.ios(&d.name, "read") + delta.ios(&d.name, "write")).sum();
    let other = delta.ios("other", "read") + delta.ios("other", "write");
    assert!((120.0..=at_most).contains(&(own + other)), "{own} and {other}, at most {at_most}");
    assert!(other > 0.0);
    assert!(delta.0.of("ebpf_exporter_folded_events_total", &[]) >= other);
    delta.0.assert_nothing_lost();
    let entries = delta.0.1.count("ebpf_exporter_map_entries", &[("map", "rq_stats")]);
    assert_eq!(
        (entries, delta.0.1.count("ebpf_exporter_map_capacity", &[("map", "rq_stats")])),
        (16.0, 16.0)
    );
}

#[live::test]
fn more_requests_in_flight_than_entries_stay_are_not_lost() {
    let device = block::fast();
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

#[live::test(module("null_blk"))]
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

#[live::test(module("loop"), tool("mkfs.ext4"), tool("fsfreeze"))]
fn writes_that_wait_are_in_flight_for_as_long_as_they_do() {
    const WAIT: Duration = Duration::from_millis(600);
    let frozen = Frozen::new();
    let device = &frozen.device;
    let exporter = start();
    let mut waited = Duration::ZERO;
    let (delta, disk) = measure(&exporter, device, || {
        std::thread::scope(|scope| {
            let _thaw = Thaw(&frozen);
            for _ in 0..5 {
                scope.spawn(|| block::direct_writes(device, 1, 4096));
            }
            let writes = || sh(&format!("awk '{{ print $2 }}' /sys/block/{}/inflight", device.name));
            wait_until("five writes in flight", Duration::from_secs(30), || writes() == "5");
            let start = Instant::now();
            let labels = [("device", device.name.as_str()), ("operation", "write")];
            assert_eq!(exporter.scrape().get("ebpf_disk_io_inflight", &labels), Some(5.0));
            wait_until("they have waited", Duration::from_secs(30), || start.elapsed() >= WAIT);
            waited = start.elapsed();
        });
    });
    let name = device.name.as_str();
    assert_eq!((delta.ios(name, "write"), disk.writes), (5.0, 5));
    assert_eq!(delta.up_to("524288", name, "write"), 0.0, "none was shorter");
    let (ours, least) =
        (delta.of(&format!("{LATENCY}_sum"), name, "write") / 1e6, waited.as_secs_f64() * 5.0);
    let theirs = disk.write_ms as f64 / 1e3;
    assert!(
        ours >= least && (ours / theirs - 1.0).abs() < 0.05,
        "{ours} s, waited {least} s, diskstats {theirs} s"
    );
}

#[live::test(file("/sys/kernel/btf/vmlinux"))]
fn bare_tracepoints_count_the_same_where_the_kernel_has_no_btf() {
    let (device, folder) = (block::fast(), Folder::new());
    // A private mount hides the kernel's BTF. The file stands for BTF generated elsewhere.
    let btf = folder.path("vmlinux.btf");
    sh(&format!("cp /sys/kernel/btf/vmlinux {btf}"));
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"";
    let shell = ["-m", "sh", "-c", hide, "sh", "ebpf-diskio-exporter", "--btf.path", &btf];
    let check = Command::new("unshare").args(shell).arg("--check").output().unwrap();
    let lines = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success(), "{lines}{}", String::from_utf8_lossy(&check.stderr));
    assert_eq!(lines.lines().filter(|line| line.contains(": fallback: raw_tp (")).count(), 7, "{lines}");
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

live::main!();
