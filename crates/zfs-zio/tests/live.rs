// SPDX-License-Identifier: MIT OR Apache-2.0
//! I/Os of pools in a guest, compared with zpool iostat; scrubs of a damaged mirror,
//! compared with zpool status.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::Delta;
use live::zpool::{DISKS, Pool};
use live::{sh, wait_until};

const OPS: &str = "ebpf_zfs_zio_device_ops_total";
const BYTES: &str = "ebpf_zfs_zio_device_bytes_total";

fn start() -> Exporter {
    sh("modprobe zfs; echo 600 > /sys/module/zfs/parameters/zfs_txg_timeout");
    Exporter::start("zfs-zio", &[])
}

/// I/Os of a device since the pool was imported, by the histograms of zpool iostat: reads,
/// writes, trims.
fn iostat(pool: &str, vdev: &str) -> [f64; 3] {
    // Bucket, total wait (read, write), disk wait, two queues (read, write), scrub, trim.
    let text = sh(&format!("zpool iostat -wHp {pool} {vdev}"));
    let mut sums = [0.0; 3];
    for line in text.lines() {
        let fields: Vec<f64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        if fields.len() >= 11 {
            sums[0] += fields[1];
            sums[1] += fields[2];
            sums[2] += fields[10];
        }
    }
    sums
}

fn quiet(pool: &Pool) {
    pool.sync();
    pool.sync();
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn device_operations_are_those_of_zpool_iostat() {
    let exporter = start();
    let pool = Pool::create("tank", &format!("mirror {} {}", DISKS[0], DISKS[1]));
    quiet(&pool);
    let vdevs = ["virtio-spare-a", "virtio-spare-b"];
    // Read from disk, not from the ARC.
    sh("dd if=/dev/urandom of=/tank/old bs=128k count=53 status=none");
    pool.forget();
    quiet(&pool);
    let before = exporter.scrape();
    let first = vdevs.map(|vdev| iostat("tank", vdev));
    sh("dd if=/tank/old of=/dev/null bs=128k status=none
        dd if=/dev/urandom of=/tank/file bs=128k count=311 status=none; zpool sync tank
        dd if=/dev/urandom of=/tank/log bs=8k count=41 oflag=sync status=none; zpool sync tank
        zfs create -o dedup=on tank/dedup; dd if=/dev/urandom of=/tank/dedup/file bs=128k count=37 status=none
        zpool sync tank; rm /tank/file /tank/dedup/file; zpool sync tank; zpool sync tank; zpool sync tank; zpool trim -w tank");
    quiet(&pool);
    let last = vdevs.map(|vdev| iostat("tank", vdev));
    let delta = Delta(before, exporter.scrape());
    delta.assert_nothing_down();
    let paths: Vec<String> = DISKS.iter().map(|disk| format!("{disk}-part1")).collect();
    for ((path, first), last) in paths.iter().zip(first).zip(last) {
        for (n, kind) in ["read", "write", "trim"].into_iter().enumerate() {
            let ours = delta.of(OPS, &[("vdev", path), ("type", kind)]);
            println!("{path} {kind}: {ours}, zpool iostat {}", last[n] - first[n]);
            assert_eq!(ours, last[n] - first[n], "{path} {kind}");
        }
        assert!(delta.of(BYTES, &[("vdev", path), ("type", "write")]) > 311.0 * 131_072.0);
        assert_eq!(
            delta.of("ebpf_zfs_zio_device_latency_seconds_count", &[("vdev", path)]),
            delta.of(OPS, &[("vdev", path)])
        );
    }
    let logical = |kind: &str| {
        delta.of(&format!("ebpf_zfs_zio_{kind}_latency_microseconds_count"), &[("pool", "tank")])
    };
    assert!(logical("write") >= 311.0 + 41.0, "{}", logical("write"));
    assert!(logical("read") >= 53.0, "{}", logical("read"));
    // Only frees that must look up the deduplication table make a ZIO.
    assert!((37.0..300.0).contains(&logical("free")), "{}", logical("free"));
    let all = |kind| delta.of("ebpf_zfs_zio_latency_seconds_count", &[("pool", "tank"), ("type", kind)]);
    assert_eq!(all("write"), logical("write"));
    assert_eq!(all("read"), logical("read"));
    assert!(all("flush") >= 1.0 && all("trim") >= 1.0, "{delta:?}");
    assert_eq!(delta.of("ebpf_zfs_zio_errors_total", &[]), 0.0);
}

/// Numbers in the `scan:` paragraph and the device table of zpool status.
fn errors(pool: &str) -> (f64, f64) {
    let status = sh(&format!("zpool status -p {pool}"));
    let scan = status.lines().find(|line| line.contains("scan:")).unwrap();
    let with = scan.split(" with ").nth(1).and_then(|rest| rest.split(' ').next());
    // Name, state, READ, WRITE, CKSUM.
    let rows = status.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let devices = rows.filter(|row| row.len() >= 5 && row[0].starts_with("/var/tmp/small-"));
    let checksums = devices.map(|row| row[4].parse::<f64>().unwrap());
    (with.unwrap().parse().unwrap(), checksums.sum())
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_scrub_counts_blocks_and_errors_as_zpool_status_does() {
    let exporter = start();
    sh("truncate -s 300M /var/tmp/small-a /var/tmp/small-b");
    let pool = Pool::create("tank", "mirror /var/tmp/small-a /var/tmp/small-b");
    sh("dd if=/dev/urandom of=/tank/file bs=128k count=1000 status=none");
    quiet(&pool);
    let scrub = || {
        let before = exporter.scrape();
        sh("zpool scrub tank; while zpool status tank | grep -q 'in progress'; do sleep 0.2; done");
        quiet(&pool);
        Delta(before, exporter.scrape())
    };
    let labels = [("pool", "tank")];
    let clean = scrub();
    let ios = clean.of("ebpf_zfs_scrub_ios_total", &labels);
    assert!((1000.0..1400.0).contains(&ios), "{ios} blocks, 1000 of them the file's");
    assert_eq!(clean.of("ebpf_zfs_scrub_errors_total", &labels), 0.0);
    assert_eq!(clean.1.get("ebpf_zfs_scrub_active", &labels), Some(0.0));
    let examined = clean.1.get("ebpf_zfs_scrub_examined_bytes", &labels).unwrap();
    let allocated: f64 = sh("zpool list -Hpo alloc tank").parse().unwrap();
    assert!((examined - allocated).abs() < 0.02 * allocated, "{examined} of {allocated}");
    if let Some(percent) = clean.1.get("ebpf_zfs_scrub_progress_percent", &labels) {
        assert!(percent > 98.0, "{percent}");
    }

    // One side is overwritten: everything is repaired. Then both sides are, where the file is.
    sh("dd if=/dev/zero of=/var/tmp/small-a bs=1M seek=40 count=100 conv=notrunc status=none");
    let damaged = scrub();
    let (with, checksums) = errors("tank");
    let ours = damaged.of("ebpf_zfs_zio_errors_total", &[("pool", "tank"), ("error", "ECKSUM")]);
    println!("one side: {ours} checksum errors, zpool status {checksums}, {with} beyond repair");
    assert!(checksums > 100.0);
    assert_eq!(ours, checksums);
    assert_eq!(damaged.of("ebpf_zfs_scrub_errors_total", &labels), with);
    assert_eq!(with, 0.0);
    sh("zpool clear tank; for side in a b; do
        dd if=/dev/zero of=/var/tmp/small-$side bs=1M seek=60 count=20 conv=notrunc status=none; done");
    let lost = scrub();
    let (with, checksums) = errors("tank");
    let ours = lost.of("ebpf_zfs_zio_errors_total", &[("pool", "tank"), ("error", "ECKSUM")]);
    println!("both sides: {ours} checksum errors, zpool status {checksums}, {with} beyond repair");
    assert!(with > 10.0);
    assert_eq!(lost.of("ebpf_zfs_scrub_errors_total", &labels), with);
    // ZFS 2.0 counts the errors of a block only once.
    let repeats = sh("cat /sys/module/zfs/version").starts_with("2.0.");
    assert!(ours == checksums || (repeats && ours > checksums), "{ours}, zpool status {checksums}");
    drop(pool);
    sh("rm /var/tmp/small-?");
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn bad_columns_of_a_raidz_are_errors() {
    let exporter = start();
    sh("truncate -s 200M /var/tmp/small-a /var/tmp/small-b /var/tmp/small-c");
    let pool = Pool::create("tank", "raidz /var/tmp/small-a /var/tmp/small-b /var/tmp/small-c");
    sh("dd if=/dev/urandom of=/tank/file bs=128k count=512 status=none");
    quiet(&pool);
    let before = exporter.scrape();
    sh("dd if=/dev/zero of=/var/tmp/small-b bs=1M seek=20 count=20 conv=notrunc status=none
        zpool scrub tank; while zpool status tank | grep -q 'in progress'; do sleep 0.2; done");
    quiet(&pool);
    let delta = Delta(before, exporter.scrape());
    let (with, checksums) = errors("tank");
    let ours = delta.of("ebpf_zfs_zio_errors_total", &[("pool", "tank"), ("error", "ECKSUM")]);
    println!("{ours} checksum errors, zpool status {checksums}, {with} beyond repair");
    assert!(checksums > 10.0);
    // ZFS leaves out errors that it reported shortly before.
    assert!((checksums..=checksums * 2.0).contains(&ours), "{ours}, zpool status {checksums}");
    drop(pool);
    sh("rm /var/tmp/small-?");
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_device_that_is_offline_makes_no_errors() {
    let exporter = start();
    let pool = Pool::create("tank", &format!("mirror {} {}", DISKS[0], DISKS[1]));
    sh(&format!("zpool offline tank {}", DISKS[1]));
    quiet(&pool);
    let before = exporter.scrape();
    sh("dd if=/dev/urandom of=/tank/file bs=128k count=8 status=none");
    quiet(&pool);
    let delta = Delta(before, exporter.scrape());
    assert_eq!(delta.of("ebpf_zfs_zio_errors_total", &[("pool", "tank")]), 0.0, "{delta:?}");
    let written = delta.of("ebpf_zfs_zio_device_ops_total", &[("pool", "tank"), ("type", "write")]);
    assert!(written >= 8.0, "{written}");
    drop(pool);
}

#[live::test(kprobes, module("zfs"), spare_disks, file("/sys/module/zfs/features.pool/org.openzfs:draid"))]
fn a_distributed_spare_has_no_latency_of_its_own() {
    let exporter = start();
    let disks = ["a", "b", "c", "d"].map(|disk| format!("/var/tmp/small-{disk}")).join(" ");
    sh(&format!("truncate -s 300M {disks}"));
    let pool = Pool::create("tank", &format!("draid1:2d:4c:1s {disks}"));
    sh("zpool offline tank /var/tmp/small-b; zpool replace tank /var/tmp/small-b draid1-0-0");
    wait_until("the spare is in use", Duration::from_secs(60), || {
        sh("zpool status tank").contains("resilvered ")
    });
    let before = exporter.scrape();
    sh("dd if=/dev/urandom of=/tank/file bs=128k count=50 status=none");
    quiet(&pool);
    let delta = Delta(before, exporter.scrape());
    let of = |metric, vdev: &str| delta.of(metric, &[("vdev", vdev), ("type", "write")]);
    let latencies = "ebpf_zfs_zio_device_latency_seconds_count";
    assert!(of(OPS, "draid1-0-0") > 0.0, "{delta:?}");
    assert_eq!(of(latencies, "draid1-0-0"), 0.0);
    assert!(of(OPS, "/var/tmp/small-a") > 0.0);
    assert_eq!(of(latencies, "/var/tmp/small-a"), of(OPS, "/var/tmp/small-a"));
    drop(pool);
    sh("rm /var/tmp/small-?");
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_resilver_is_no_scrub() {
    let exporter = start();
    sh("truncate -s 300M /var/tmp/small-a /var/tmp/small-b");
    let pool = Pool::create("tank", "/var/tmp/small-a");
    sh("dd if=/dev/urandom of=/tank/file bs=128k count=500 status=none");
    quiet(&pool);
    let before = exporter.scrape();
    sh("zpool attach tank /var/tmp/small-a /var/tmp/small-b");
    wait_until("the resilver is done", Duration::from_secs(60), || {
        sh("zpool status tank").contains("resilvered ")
    });
    quiet(&pool);
    let delta = Delta(before, exporter.scrape());
    let labels = [("pool", "tank")];
    assert!(delta.of("ebpf_zfs_resilver_ios_total", &labels) >= 500.0, "{delta:?}");
    assert_eq!(delta.of("ebpf_zfs_scrub_ios_total", &labels), 0.0);
    assert_eq!(delta.1.get("ebpf_zfs_resilver_active", &labels), Some(0.0));
    drop(pool);
    sh("rm /var/tmp/small-?");
}

#[live::test(kprobes, module("zfs"), module("dm-delay"), spare_disks)]
fn latency_is_that_of_the_device() {
    let exporter = start();
    sh("modprobe dm-delay 2> /dev/null || :
        size=$(blockdev --getsz /dev/disk/by-id/virtio-spare-a)
        dmsetup create slow --table \"0 $size delay /dev/disk/by-id/virtio-spare-a 0 0 /dev/disk/by-id/virtio-spare-a 0 60\"
        udevadm settle");
    let pool = Pool::create("tank", "/dev/mapper/slow");
    quiet(&pool);
    let before = exporter.scrape();
    sh("dd if=/dev/urandom of=/tank/file bs=128k count=20 status=none");
    quiet(&pool);
    let delta = Delta(before, exporter.scrape());
    let labels = [("pool", "tank"), ("type", "write")];
    let of = |end: &str| delta.of(&format!("ebpf_zfs_zio_device_latency_seconds_{end}"), &labels);
    let mean = of("sum") / of("count");
    println!("{mean} s for a write to a device that takes 0.06 s");
    assert!((0.055..0.3).contains(&mean), "{mean}");
    drop(pool);
    sh("dmsetup remove slow");
}

live::main!();
