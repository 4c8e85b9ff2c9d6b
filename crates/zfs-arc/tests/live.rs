// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files read in known ways in a guest. Every number is compared with arcstats.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::Delta;
use live::truth::{agrees, between};
use live::zpool::{DISKS, Pool, kstat};
use live::{sh, wait_until};

/// Values of arcstats, and the labels of the look-ups that they must equal.
const SPLIT: [(&str, [&str; 3]); 12] = [
    ("demand_data_hits", ["hit", "demand", "data"]),
    ("demand_metadata_hits", ["hit", "demand", "metadata"]),
    ("prefetch_data_hits", ["hit", "prefetch", "data"]),
    ("prefetch_metadata_hits", ["hit", "prefetch", "metadata"]),
    ("demand_data_iohits", ["iohit", "demand", "data"]),
    ("demand_metadata_iohits", ["iohit", "demand", "metadata"]),
    ("prefetch_data_iohits", ["iohit", "prefetch", "data"]),
    ("prefetch_metadata_iohits", ["iohit", "prefetch", "metadata"]),
    ("demand_data_misses", ["miss", "demand", "data"]),
    ("demand_metadata_misses", ["miss", "demand", "metadata"]),
    ("prefetch_data_misses", ["miss", "prefetch", "data"]),
    ("prefetch_metadata_misses", ["miss", "prefetch", "metadata"]),
];

/// Longer than all look-ups of a test together.
const STALE: Duration = Duration::from_secs(10);

const PARAMETERS: &str = "/sys/module/zfs/parameters";

fn start() -> Arc<Exporter> {
    sh(&format!("modprobe zfs; echo 600 > {PARAMETERS}/zfs_txg_timeout"));
    Exporter::shared("zfs-arc", &[])
}

/// The changes during `work`, each compared with arcstats.
#[track_caller]
fn compared(what: &str, work: impl FnOnce()) -> Delta {
    let exporter = start();
    let truth = || {
        let mut all = [0.0; 17];
        for (value, (name, _)) in all.iter_mut().zip(SPLIT) {
            *value = kstat("arcstats", name);
        }
        for (value, name) in all[12..].iter_mut().zip(["hits", "misses", "l2_hits", "l2_misses"]) {
            *value = kstat("arcstats", name);
        }
        all[16] = ["evict_l2_cached", "evict_l2_eligible", "evict_l2_ineligible"]
            .iter()
            .map(|name| kstat("arcstats", name))
            .sum();
        all
    };
    let (delta, ranges) = between(&exporter, truth, work);
    let same = |name: &str, labels: &[(&str, &str)], range: &RangeInclusive<f64>| {
        let ours = delta.of(name, labels);
        println!("{what}: {name} {labels:?}: {ours}, arcstats {range:?}");
        assert!(agrees(ours, range, 0.0), "{what}: {name} {labels:?}: {ours}, arcstats {range:?}");
    };
    for (range, (_, [result, class, content])) in ranges.iter().zip(SPLIT) {
        same(
            "ebpf_zfs_arc_lookups_total",
            &[("result", result), ("class", class), ("content", content)],
            range,
        );
    }
    let prefetched = || ranges.iter().zip(SPLIT).filter(|(_, (_, [_, class, _]))| *class == "prefetch");
    let start = prefetched().map(|(range, _)| range.start()).sum();
    let end = prefetched().map(|(range, _)| range.end()).sum();
    same("ebpf_zfs_arc_async_reads_total", &[], &RangeInclusive::new(start, end));
    same("ebpf_zfs_arc_hits_total", &[], &ranges[12]);
    same("ebpf_zfs_arc_misses_total", &[], &ranges[13]);
    same("ebpf_zfs_l2arc_hits_total", &[], &ranges[14]);
    same("ebpf_zfs_l2arc_misses_total", &[], &ranges[15]);
    same("ebpf_zfs_arc_evicted_bytes_total", &[], &ranges[16]);
    delta.assert_nothing_down();
    delta
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn cold_warm_prefetched_and_metadata_look_ups_are_those_of_arcstats() {
    let pool = Pool::create("tank", DISKS[0]);
    sh("dd if=/dev/urandom of=/tank/file bs=128k count=400 status=none; mkdir /tank/many
        for n in $(seq 500); do echo $n > /tank/many/$n; done");
    pool.forget();
    let cold = compared("cold", || drop(sh("cat /tank/file > /dev/null")));
    let misses = cold.of("ebpf_zfs_arc_misses_total", &[]);
    assert!(misses >= 400.0, "{misses}");
    let prefetched = cold.of("ebpf_zfs_arc_lookups_total", &[("result", "miss"), ("class", "prefetch")]);
    assert!(prefetched > 100.0, "a file read in order is prefetched: {prefetched}");
    let latency =
        |delta: &Delta, result| delta.of("ebpf_zfs_arc_read_latency_seconds_count", &[("result", result)]);
    let read = latency(&cold, "miss");
    assert!(read >= 0.98 * misses && read <= misses, "{read} reads of {misses} misses");
    let warm = compared("warm", || drop(sh("cat /tank/file > /dev/null")));
    assert!(warm.of("ebpf_zfs_arc_hits_total", &[]) >= 400.0);
    assert!(warm.of("ebpf_zfs_arc_misses_total", &[]) < 100.0);
    pool.forget();
    let metadata = compared("metadata", || drop(sh("ls -lR /tank/many > /dev/null")));
    let looked = metadata.of("ebpf_zfs_arc_lookups_total", &[("content", "metadata")]);
    assert!(looked > 100.0, "{looked}");
    let written = compared("written", || {
        sh("dd if=/dev/urandom of=/tank/new bs=128k count=100 status=none");
        pool.sync();
    });
    assert!(written.of("ebpf_zfs_arc_hits_total", &[]) > 0.0);
}

/// It waits for reads of metadata that have the priority of prefetch. Blocks of data it reads past the ARC.
#[live::test(kprobes, module("zfs"), spare_disks)]
fn what_zfs_send_reads_is_no_prefetch() {
    let pool = Pool::create("tank", DISKS[0]);
    sh("dd if=/dev/urandom of=/tank/file bs=128k count=300 status=none; zfs snapshot tank@sent");
    pool.forget();
    let delta = compared("sent", || drop(sh("zfs send tank@sent | wc -c")));
    let demanded = delta.of("ebpf_zfs_arc_lookups_total", &[("class", "demand")]);
    assert!(demanded >= 20.0, "{demanded}");
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn blocks_in_their_pointers_are_no_look_ups_and_spoil_no_latency() {
    let pool = Pool::create("tank", DISKS[0]);
    sh("zfs set compression=on tank; mkdir /tank/little
        for n in $(seq 100); do yes $n | head -c 4000 > /tank/little/$n; done
        dd if=/dev/urandom of=/tank/file bs=128k count=1 status=none");
    pool.forget();
    let first = std::fs::read("/tank/file").unwrap();
    let delta = compared("embedded", || {
        for n in 1..=100 {
            assert_eq!(std::fs::read(format!("/tank/little/{n}")).unwrap().len(), 4000);
        }
        // Blocks in use are found without arc_read. An earlier arc_read must not be their start.
        std::thread::sleep(STALE); // Would be counted as the latency.
        assert_eq!(std::fs::read("/tank/file").unwrap(), first);
    });
    delta.assert_nothing_lost();
    let hits = delta.of("ebpf_zfs_arc_read_latency_seconds_sum", &[("result", "hit")]);
    assert!(hits < STALE.as_secs_f64(), "hits took {hits} s");
}

/// Limits the ARC to 128 MiB until this is dropped.
struct SmallCache(String);

impl SmallCache {
    fn new() -> Self {
        let before = sh(&format!("cat {PARAMETERS}/zfs_arc_max"));
        sh(&format!("echo 67108864 > {PARAMETERS}/zfs_arc_min; echo 134217728 > {PARAMETERS}/zfs_arc_max"));
        Self(before)
    }
}

impl Drop for SmallCache {
    fn drop(&mut self) {
        sh(&format!("echo {} > {PARAMETERS}/zfs_arc_max; echo 0 > {PARAMETERS}/zfs_arc_min", self.0));
    }
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn what_is_evicted_is_what_arcstats_says() {
    let _pool = Pool::create("tank", DISKS[0]);
    sh("dd if=/dev/urandom of=/tank/file bs=128k count=1600 status=none; zpool sync tank");
    let _small = SmallCache::new();
    let delta = compared("evicted", || drop(sh("cat /tank/file /tank/file > /dev/null")));
    let evictions = delta.of("ebpf_zfs_arc_evictions_total", &[]);
    let bytes = delta.of("ebpf_zfs_arc_evicted_bytes_total", &[]);
    assert!(evictions > 500.0 && bytes > 100e6, "{evictions} of {bytes} bytes");
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_cache_device_has_hits_of_its_own() {
    sh("modprobe zfs");
    let _small = SmallCache::new();
    let _pool = Pool::create("tank", &format!("{} cache {}", DISKS[0], DISKS[1]));
    sh(&format!(
        "cd {PARAMETERS}; echo 0 > l2arc_noprefetch; echo 1 > l2arc_feed_secs
        echo 1000000000 > l2arc_write_max; echo 1000000000 > l2arc_write_boost
        dd if=/dev/urandom of=/tank/file bs=128k count=400 status=none; zpool sync tank"
    ));
    wait_until("it is written to the cache device", Duration::from_secs(60), || {
        kstat("arcstats", "l2_asize") > 45e6
    });
    // More than fits into the ARC, so that the file is no longer in it.
    sh("dd if=/dev/urandom of=/tank/other bs=128k count=1600 status=none; zpool sync tank");
    let delta = compared("l2arc", || drop(sh("cat /tank/file > /dev/null")));
    assert!(delta.of("ebpf_zfs_l2arc_hits_total", &[]) > 100.0, "{delta:?}");
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn sizes_are_those_of_arcstats() {
    let exporter = start();
    let text = exporter.scrape();
    for (metric, name) in [
        ("ebpf_zfs_arc_size_bytes", "size"),
        ("ebpf_zfs_arc_target_bytes", "c"),
        ("ebpf_zfs_arc_min_bytes", "c_min"),
        ("ebpf_zfs_arc_max_bytes", "c_max"),
        ("ebpf_zfs_arc_metadata_bytes", "arc_meta_used"),
    ] {
        let (ours, theirs) = (text.get(metric, &[]).unwrap(), kstat("arcstats", name));
        assert!((ours - theirs).abs() <= 0.05 * theirs, "{metric}: {ours}, arcstats {theirs}");
    }
}

live::main!();
