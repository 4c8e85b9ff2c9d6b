// SPDX-License-Identifier: MIT OR Apache-2.0
//! A pool in a guest that is filled until it has no space, compared with zpool list and with
//! the bytes written.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use live::exporter::Exporter;
use live::exposition::Delta;
use live::sh;
use live::zpool::{DISKS, Pool, kstat};

const SUCCESS: &str = "ebpf_zfs_metaslab_alloc_success_total";
const FAILURE: &str = "ebpf_zfs_metaslab_alloc_failure_total";
const NORMAL: [(&str, &str); 2] = [("pool", "tank"), ("class", "normal")];

fn measured(work: impl FnOnce()) -> Delta {
    sh("modprobe zfs");
    let exporter = Exporter::start("zfs-metaslab", &[]);
    let before = exporter.scrape();
    work();
    let delta = Delta(before, exporter.scrape());
    delta.assert_whole();
    let calls = delta.of("ebpf_zfs_metaslab_alloc_microseconds_count", &[]);
    assert_eq!(calls, delta.of(SUCCESS, &[]) + delta.of(FAILURE, &[]));
    assert_eq!(delta.1.get(SUCCESS, &[("class", "unknown")]), None);
    delta
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn blocks_written_are_blocks_allocated() {
    let pool = Pool::create("tank", DISKS[0]);
    let delta = measured(|| {
        sh("dd if=/dev/urandom of=/tank/file bs=128k count=211 status=none");
        pool.sync();
    });
    let (blocks, bytes) =
        (delta.of(SUCCESS, &NORMAL), delta.of("ebpf_zfs_metaslab_alloc_bytes_total", &NORMAL));
    println!("{blocks} blocks of {bytes} bytes");
    // Plus a few blocks of ZFS's own.
    assert!((211.0..211.0 + 150.0).contains(&blocks), "{blocks}");
    let data = 211.0 * 131_072.0;
    assert!((data..data + 4e6).contains(&bytes), "{bytes}");
    assert_eq!(delta.of(FAILURE, &NORMAL), 0.0);
    assert!(delta.of("ebpf_zfs_metaslab_alloc_microseconds_sum", &NORMAL) > 0.0);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_pool_is_as_full_as_zpool_list_says() {
    let pool = Pool::create("tank", &format!("mirror {} {}", DISKS[0], DISKS[1]));
    sh("echo 600 > /sys/module/zfs/parameters/zfs_txg_timeout");
    let exporter = Exporter::start("zfs-metaslab", &[]);
    sh("dd if=/dev/urandom of=/tank/file bs=1M count=100 status=none");
    // Space that one transaction group frees can be allocated two groups later.
    for _ in 0..4 {
        pool.sync();
    }
    let list = |column: &str| sh(&format!("zpool list -Hpo {column} tank")).parse::<f64>().unwrap();
    let text = exporter.scrape();
    for (metric, column) in [("ebpf_zfs_pool_allocated_bytes", "alloc"), ("ebpf_zfs_pool_free_bytes", "free")]
    {
        let (ours, theirs) = (text.get(metric, &[("pool", "tank")]).unwrap(), list(column));
        println!("{metric}: {ours}, zpool list {theirs}");
        assert_eq!(ours, theirs, "{metric}");
    }
    drop(pool);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn bytes_of_the_intent_log_are_those_given() {
    const ALLOCATED: &str = "zil_itx_metaslab_slog_alloc";
    let pool = Pool::create("tank", &format!("{} log {}", DISKS[0], DISKS[1]));
    // The two numbers agree only when a block of the log is full.
    let mut theirs = 0.0;
    let delta = measured(|| {
        let before = kstat("zil", ALLOCATED);
        sh("for bytes in 1k 5000 9k 60k 100k; do
                dd if=/dev/zero of=/tank/log bs=$bytes count=20 oflag=sync status=none
            done");
        theirs = kstat("zil", ALLOCATED) - before;
    });
    let ours = delta.of("ebpf_zfs_metaslab_alloc_bytes_total", &[("pool", "tank"), ("class", "log")]);
    let blocks = delta.of(SUCCESS, &[("pool", "tank"), ("class", "log")]);
    println!("{blocks} blocks of {ours} bytes, ZFS {theirs}");
    assert!(blocks >= 20.0);
    // ZFS before 2.2 does not have this number.
    if theirs > 0.0 {
        // ZFS counts the last block, of at most 128 KiB, only when it is written.
        assert!(ours >= theirs && ours - theirs <= 131_072.0, "{ours} bytes, ZFS {theirs}");
    }
    drop(pool);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn the_logs_classes_miss_without_harm() {
    let _pool = Pool::create("tank", DISKS[0]);
    let delta = measured(|| drop(sh("dd if=/dev/zero of=/tank/log bs=8k count=50 oflag=sync status=none")));
    let missed = delta.of(FAILURE, &[("pool", "tank"), ("class", "log")]);
    println!("{missed} blocks found no space on a log device that is not there");
    assert!(missed >= 1.0, "{delta:?}");
    assert_eq!(delta.of(FAILURE, &NORMAL), 0.0);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn blocks_for_which_there_is_no_space_in_a_piece_are_failures() {
    let pool = Pool::create("tank", DISKS[0]);
    let parameters = "cd /sys/module/zfs/parameters";
    // As if the pool were so fragmented that no block of 16 KiB fits: for all blocks if the share can
    // be set, else for 3 of 100 (metaslab_alloc_dva in 2.0 and 2.1).
    let limit = sh(&format!("{parameters}; cat metaslab_force_ganging"));
    let share = sh(&format!("{parameters}; cat metaslab_force_ganging_pct 2> /dev/null || :"));
    let blocks = if share.is_empty() { 1500.0 } else { 101.0 };
    let gangs = || if share.is_empty() { 0.0 } else { kstat("zio_stats", "gang_writes") };
    sh("zfs set recordsize=16k tank");
    let before = gangs();
    let delta = measured(|| {
        sh(&format!(
            "{parameters}; echo 16384 > metaslab_force_ganging
            [ ! -e metaslab_force_ganging_pct ] || echo 100 > metaslab_force_ganging_pct
            dd if=/dev/urandom of=/tank/file bs=16k count={blocks} status=none"
        ));
        pool.sync();
        sh(&format!(
            "{parameters}; echo {limit} > metaslab_force_ganging
            [ -z '{share}' ] || echo {share} > metaslab_force_ganging_pct"
        ));
    });
    let failed = delta.of(FAILURE, &NORMAL);
    let gangs = gangs() - before;
    println!("{failed} failures, {} successes, {gangs} gangs", delta.of(SUCCESS, &NORMAL));
    if share.is_empty() {
        // The expected number is 45, with a tolerance of six standard deviations.
        assert!((5.0..90.0).contains(&failed), "{failed} failures");
    } else {
        assert!(failed >= blocks && failed == gangs, "{failed} failures, {gangs} gangs");
    }
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_full_pool_is_shown_as_such() {
    sh("truncate -s 128M /var/tmp/small");
    let pool = Pool::create("tank", "/var/tmp/small");
    let list = |column: &str| sh(&format!("zpool list -Hpo {column} tank")).parse::<f64>().unwrap();
    let delta = measured(|| {
        let said = sh("dd if=/dev/urandom of=/tank/file bs=1M count=200 2>&1 || :");
        assert!(said.contains("No space left on device"), "{said}");
        for _ in 0..4 {
            pool.sync();
        }
    });
    let of = |metric| delta.1.get(metric, &[("pool", "tank")]).unwrap();
    let (allocated, free) = (of("ebpf_zfs_pool_allocated_bytes"), of("ebpf_zfs_pool_free_bytes"));
    println!("{allocated} allocated, {free} free");
    assert_eq!((allocated, free), (list("alloc"), list("free")));
    // ZFS keeps half of so small a pool for itself (spa_get_slop_space).
    assert!(allocated / (allocated + free) > 0.45, "{allocated} allocated, {free} free");
    drop(pool);
    sh("rm /var/tmp/small");
}

live::main!();
