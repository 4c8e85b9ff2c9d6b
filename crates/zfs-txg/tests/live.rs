// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transaction groups in a guest, compared with the rows of the txgs kstat; and a module
//! that is loaded and unloaded.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use live::exporter::{Exporter, get, unit_becomes, unit_lets_go, unit_state, until};
use live::exposition::{Delta, Exposition};
use live::truth::between;
use live::zpool::{DISKS, Pool, kstat};
use live::{sh, wait_until};

fn start(flags: &[&str]) -> Exporter {
    sh("modprobe zfs; echo 600 > /sys/module/zfs/parameters/zfs_txg_timeout");
    Exporter::start("zfs-txg", flags)
}

/// Synced groups, by number: nanoseconds open, quiescing, waiting and syncing.
fn groups(pool: &str) -> BTreeMap<u64, [f64; 4]> {
    let text = fs::read_to_string(format!("/proc/spl/kstat/zfs/{pool}/txgs")).unwrap();
    let rows = text.lines().skip(2).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows = rows.filter(|row| row.len() == 12 && row[2] == "C");
    rows.map(|row| {
        let times: Vec<f64> = row[8..].iter().map(|time| time.parse().unwrap()).collect();
        (row[0].parse().unwrap(), times.try_into().unwrap())
    })
    .collect()
}

/// Syncs groups in two pools. Each group and its phases must be counted. Returns the times that
/// do not agree with the kstat.
fn sync_groups(exporter: &Exporter, pools: &[Pool; 2]) -> Vec<String> {
    let first = pools.each_ref().map(|pool| groups(&pool.name));
    let before = exporter.scrape();
    for n in 0..23 {
        sh(&format!("dd if=/dev/urandom of=/tank/{n} bs=128k count=8 status=none"));
        pools[0].sync();
        if n % 2 == 0 {
            sh(&format!("dd if=/dev/urandom of=/lake/{n} bs=128k count=2 status=none"));
            pools[1].sync();
        }
    }
    let delta = Delta(before, exporter.scrape());
    delta.assert_whole();
    let mut apart = Vec::new();
    for (pool, first) in pools.iter().zip(first) {
        let name = pool.name.as_str();
        let rows: Vec<_> = groups(name).into_iter().filter(|(txg, _)| !first.contains_key(txg)).collect();
        let labels = [("pool", name)];
        let syncs = delta.of("ebpf_zfs_txg_syncs_total", &labels);
        assert_eq!(syncs, rows.len() as f64, "{name}");
        assert!(syncs >= if name == "tank" { 23.0 } else { 12.0 });
        assert_eq!(delta.of("ebpf_zfs_txg_sync_microseconds_count", &labels), syncs);
        let mut differences = Vec::new();
        for (phase, column) in [("open", 0), ("quiesce", 1), ("wait", 2), ("sync", 3)] {
            let labels = [("pool", name), ("phase", phase)];
            assert_eq!(delta.of("ebpf_zfs_txg_phase_seconds_count", &labels), syncs, "{name} {phase}");
            let theirs: f64 = rows.iter().map(|(_, times)| times[column]).sum::<f64>() / 1e9;
            let ours = delta.of("ebpf_zfs_txg_phase_seconds_sum", &labels);
            println!("{name} {phase}: {syncs} of {ours} s, kstat {theirs} s");
            differences.push(ours - theirs);
            if (ours - theirs).abs() > 0.05 * theirs + 0.003 * syncs {
                apart.push(format!("{name} {phase}: {ours} s, kstat {theirs} s"));
            }
        }
        // ZFS reads the vdev statistics before it takes the time at which a group begins to
        // sync. It takes the time at which the group is synced before the probe point.
        assert!(differences[2] < 1e-3 && differences[3] > -1e-3, "{name}: {differences:?}");
        let last = groups(name).into_values().last().unwrap()[3] / 1000.0;
        let ours = delta.1.get("ebpf_zfs_txg_last_sync_microseconds", &labels).unwrap();
        assert!(ours > last - 1.0, "{name}: {ours} us, kstat {last} us");
        if ours > 1.2 * last + 1000.0 {
            apart.push(format!("{name}: last {ours} us, kstat {last} us"));
        }
    }
    apart
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn every_group_is_counted_with_its_phases() {
    let exporter = start(&[]);
    let pools = [Pool::create("tank", DISKS[0]), Pool::create("lake", DISKS[1])];
    for pool in &pools {
        pool.sync();
    }
    // ZFS and the exporter read the clock at different moments. An emulated processor may pause
    // between them, but not in each of several runs.
    let apart: Vec<_> =
        (0..4).map(|_| sync_groups(&exporter, &pools)).take_while(|apart| !apart.is_empty()).collect();
    assert!(apart.len() < 4, "{apart:#?}");
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn the_write_throttle_is_seen_with_the_dirty_data() {
    let exporter = start(&[]);
    let pool = Pool::create("tank", DISKS[0]);
    let parameters = "cd /sys/module/zfs/parameters";
    let before = sh(&format!("{parameters}; cat zfs_dirty_data_max"));
    sh(&format!("{parameters}; echo 16777216 > zfs_dirty_data_max"));
    let truth = || [kstat("dmu_tx", "dmu_tx_dirty_delay")];
    let (delta, [upper]) = between(&exporter, truth, || {
        let burst = ["if=/dev/zero", "of=/tank/file", "bs=1M", "count=300", "status=none"];
        let mut burst = Command::new("dd").args(burst).spawn().unwrap();
        wait_until("dirty data is seen", Duration::from_secs(60), || {
            exporter.scrape().count("ebpf_zfs_txg_dirty_bytes", &[("pool", "tank")]) > 1e6
        });
        assert!(burst.wait().unwrap().success());
    });
    sh(&format!("{parameters}; echo {before} > zfs_dirty_data_max"));
    let labels = [("pool", "tank")];
    let delays = delta.of("ebpf_zfs_dmu_tx_delays_total", &labels);
    let seconds = delta.of("ebpf_zfs_dmu_tx_delay_seconds_total", &labels);
    println!("{delays} delays of {seconds} s, kstat at most {upper:?}");
    // The kernel also counts calls that do not wait in the end.
    assert!(delays >= 1.0 && delays <= *upper.end() && seconds > 0.0, "{delays}, {upper:?}");
    sh("dd if=/dev/zero of=/tank/more bs=1M count=8 status=none");
    pool.sync();
    let dirty = exporter.scrape().get("ebpf_zfs_txg_dirty_bytes", &labels).unwrap();
    assert!(dirty < 8e6, "on disk: {dirty} bytes");
    delta.assert_nothing_lost();
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_pool_that_comes_and_goes_between_two_scrapes_is_counted() {
    let exporter = start(&["--zfs.grace", "2s"]);
    let pool = Pool::create("brief", DISKS[0]);
    sh("dd if=/dev/urandom of=/brief/file bs=128k count=8 status=none");
    pool.sync();
    drop(pool);
    let labels = [("pool", "brief")];
    let text = exporter.scrape();
    assert!(text.get("ebpf_zfs_txg_syncs_total", &labels).is_some_and(|syncs| syncs >= 1.0), "{text:?}");
    wait_until("its series are gone", Duration::from_secs(30), || {
        exporter.scrape().get("ebpf_zfs_txg_syncs_total", &labels).is_none()
    });
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn series_of_a_pool_that_is_gone_disappear() {
    let exporter = start(&["--zfs.grace", "2s"]);
    let pool = Pool::create("shortlived", DISKS[0]);
    pool.sync();
    let labels = [("pool", "shortlived")];
    assert!(exporter.scrape().get("ebpf_zfs_txg_syncs_total", &labels).is_some());
    drop(pool);
    wait_until("its series are gone", Duration::from_secs(30), || {
        exporter.scrape().get("ebpf_zfs_txg_syncs_total", &labels).is_none()
    });
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_layout_that_does_not_fit_makes_no_numbers() {
    sh("modprobe zfs");
    let version = sh("cut -d- -f1 /sys/module/zfs/version");
    let wrong = "/tmp/wrong.layout";
    fs::write(wrong, format!("version {version}\ndmu_tx.tx_pool 8\ndsl_pool.dp_dirty_total 0\n")).unwrap();
    let check = sh(&format!("ebpf-zfs-txg-exporter --check --zfs.layout {wrong}"));
    assert!(check.lines().all(|line| line.contains(": ok")), "{check}");
    // In the wrong layout the offset is 0, where a pointer is.
    let exporter = start(&["--zfs.layout", wrong]);
    let pool = Pool::create("tank", DISKS[0]);
    pool.sync();
    let text = exporter.scrape();
    assert!(text.get("ebpf_zfs_txg_syncs_total", &[("pool", "tank")]) > Some(0.0), "{text:?}");
    assert_eq!(text.get("ebpf_zfs_txg_dirty_bytes", &[]), None);
    assert!(
        text.get("ebpf_exporter_lost_events_total", &[("reason", "implausible")]) > Some(0.0),
        "{text:?}"
    );
    drop((exporter, pool));
    fs::write(wrong, "version 1.0\ndmu_tx.tx_pool 8\n").unwrap();
    let output =
        Command::new("ebpf-zfs-txg-exporter").args(["--check", "--zfs.layout", wrong]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("its layout is not known (known: 1.0)"), "{said}");
}

/// A condition: whether the answer has a series.
#[track_caller]
fn has(name: &'static str) -> impl Fn(&Exposition) -> bool {
    move |text| text.get(name, &[]).is_some()
}

#[live::test(kprobes, module("zfs"), spare_disks, own_machine, last)]
fn the_module_comes_and_goes_and_comes_again() {
    // Debian's udev rule loads the module when a disk with a pool's label is closed after writing.
    sh(
        "mkdir -p /run/udev/rules.d; ln -s /dev/null /run/udev/rules.d/90-zfs.rules; udevadm control --reload",
    );
    sh("systemctl stop zfs-zed 2> /dev/null || :; zpool export -a; modprobe -r zfs");
    let output = Command::new("ebpf-zfs-txg-exporter").arg("--check").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("module zfs is not loaded"));
    let mut child = Command::new("ebpf-zfs-txg-exporter")
        .args(["--web.listen-address", "127.0.0.1:19112"])
        .spawn()
        .unwrap();
    until(19112, "it waits and says so", has("ebpf_exporter_build_info"));
    until(19112, "it has nothing of ZFS", |text| !has("ebpf_exporter_ebpf_program_info")(text));
    let (status, said) = get(19112, "/-/ready");
    assert_eq!((status, said.trim()), (503, "waiting for kernel module zfs"));
    // The unit is skipped without the module, and starts each time it is loaded.
    let unit = "ebpf-zfs-txg-exporter";
    sh(&format!("systemctl enable --now {unit} 2> /dev/null"));
    assert_eq!(unit_state(unit), "inactive");
    for round in 0..2 {
        sh("modprobe zfs");
        unit_becomes(unit, "active");
        for port in [19112, 9112] {
            until(port, "it is attached", has("ebpf_exporter_ebpf_program_info"));
        }
        let pool = Pool::create("tank", DISKS[0]);
        pool.sync();
        for port in [19112, 9112] {
            until(port, "it counts", has("ebpf_zfs_txg_syncs_total"));
        }
        drop(pool);
        sh("modprobe -r zfs");
        until(19112, "it is detached", |text| !has("ebpf_exporter_ebpf_program_info")(text));
        unit_lets_go(unit, 9112);
        println!("round {round}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    sh(&format!("systemctl disable --now {unit}; rm /run/udev/rules.d/90-zfs.rules; modprobe zfs"));
}

live::main!();
