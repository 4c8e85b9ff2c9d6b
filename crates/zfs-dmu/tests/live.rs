// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datasets and a volume, read and written in every way in a guest, compared with their
//! kstats.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::time::Duration;

use live::exporter::Exporter;
use live::truth::between;
use live::zpool::{DISKS, Pool, kstat, objset};
use live::{sh, wait_until};

const OPS: &str = "ebpf_zfs_dmu_ops_total";
const BYTES: &str = "ebpf_zfs_dmu_bytes_total";

fn start(flags: &[&str]) -> Exporter {
    sh("modprobe zfs");
    Exporter::start("zfs-dmu", flags)
}

/// Reads, bytes read, writes and bytes written of `dataset` during `work`, which must equal
/// its kstat.
#[track_caller]
fn compared(exporter: &Exporter, dataset: &str, work: impl FnOnce()) -> [f64; 4] {
    let (path, id) = objset("tank", dataset);
    let truth = || ["reads", "nread", "writes", "nwritten"].map(|key| kstat(&path, key));
    let (delta, ranges) = between(exporter, truth, work);
    delta.assert_nothing_lost();
    let id = id.to_string();
    let of = |metric, operation| {
        delta.of(metric, &[("dataset", dataset), ("objset_id", &id), ("operation", operation)])
    };
    let ours = [of(OPS, "read"), of(BYTES, "read"), of(OPS, "write"), of(BYTES, "write")];
    println!("{dataset}: {ours:?}, kstat {ranges:?}");
    assert!(
        ours.iter().zip(&ranges).all(|(ours, range)| range.contains(ours)),
        "{dataset}: {ours:?}, {ranges:?}"
    );
    ours
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn every_way_to_read_and_write_is_that_of_the_kstat() {
    let exporter = start(&[]);
    let pool = Pool::create("tank", DISKS[0]);
    sh("zfs create tank/a; zfs create tank/a/deep");
    for dataset in ["tank/a", "tank/a/deep"] {
        let file = format!("/{dataset}/file");
        let [_, _, writes, written] = compared(&exporter, dataset, || {
            drop(sh(&format!("dd if=/dev/zero of={file} bs=128k count=23 status=none")))
        });
        assert_eq!((writes, written), (23.0, 23.0 * 131_072.0));
        let [reads, read, ..] = compared(&exporter, dataset, || {
            sh(&format!("dd if={file} of=/dev/null bs=4k count=37 status=none"));
        });
        assert_eq!((reads, read), (37.0, 37.0 * 4096.0));
        compared(&exporter, dataset, || {
            sh(&format!("dd if=/dev/zero of={file} bs=5000 count=11 conv=notrunc oflag=sync status=none"));
        });
        compared(&exporter, dataset, || {
            sh(&format!("dd if=/dev/zero of={file} bs=1M count=3 conv=notrunc status=none"));
        });
        // Reads of a mapping, which ZFS 2.0 does not count.
        compared(&exporter, dataset, || {
            let mapping = live::work::Mapping::of_file(std::path::Path::new(&file), 64);
            mapping.read_all();
        });
        compared(&exporter, dataset, || {
            live::work::Mapping::of_file(std::path::Path::new(&file), 64).touch();
            sh(&format!("sync {file}"));
        });
        compared(&exporter, dataset, || drop(sh(&format!("cat {file} > /dev/null"))));
    }
    let direct = std::process::Command::new("dd")
        .args(["if=/dev/zero", "of=/tank/a/direct", "bs=128k", "count=8", "oflag=direct", "status=none"])
        .status()
        .unwrap();
    if direct.success() {
        compared(&exporter, "tank/a", || {
            sh("dd if=/dev/zero of=/tank/a/direct bs=128k count=9 oflag=direct conv=notrunc status=none
                dd if=/tank/a/direct of=/dev/null bs=128k iflag=direct status=none");
        });
    }
    // A block clone moves no data. Send and receive are not requests to the dataset.
    compared(&exporter, "tank/a", || {
        sh("zpool sync tank; cp --reflink=auto /tank/a/file /tank/a/clone; zfs snapshot tank/a@one
            zfs send tank/a@one | zfs receive tank/copy; zpool sync tank");
    });
    let cloned = sh("zpool get -Hpo value bcloneused tank 2> /dev/null || :");
    println!("{cloned} bytes are clones");
    assert!(cloned.is_empty() || cloned.parse::<f64>().unwrap() > 0.0, "{cloned} bytes are clones");
    drop(pool);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_volume_is_a_dataset_too() {
    let exporter = start(&[]);
    let pool = Pool::create("tank", DISKS[0]);
    sh("zfs create -V 64M tank/volume; udevadm settle");
    let [_, _, writes, written] = compared(&exporter, "tank/volume", || {
        sh("dd if=/dev/zero of=/dev/zvol/tank/volume bs=64k count=31 oflag=direct status=none");
    });
    assert_eq!((writes, written), (31.0, 31.0 * 65_536.0));
    let [reads, read, ..] = compared(&exporter, "tank/volume", || {
        sh("dd if=/dev/zvol/tank/volume of=/dev/null bs=64k count=17 iflag=direct status=none");
    });
    // udev reads the volume too, after it was written.
    assert!(reads >= 17.0 && read >= 17.0 * 65_536.0, "{reads} of {read} bytes");
    drop(pool);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_renamed_dataset_has_its_new_name_at_once() {
    let exporter = start(&["--zfs.grace", "2s"]);
    let pool = Pool::create("tank", DISKS[0]);
    sh("zfs create tank/before; echo hello > /tank/before/file");
    assert!(exporter.scrape().get(OPS, &[("dataset", "tank/before")]).is_some());
    sh("zfs rename tank/before tank/after; echo again > /tank/after/file");
    let text = exporter.scrape();
    assert_eq!(text.get(OPS, &[("dataset", "tank/before")]), None);
    assert!(text.get(OPS, &[("dataset", "tank/after"), ("operation", "write")]).unwrap() >= 1.0, "{text:?}");
    sh("zfs destroy tank/after");
    wait_until("its series are gone", Duration::from_secs(30), || {
        exporter.scrape().get(OPS, &[("dataset", "tank/after")]).is_none()
    });
    drop(pool);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn a_dataset_that_comes_and_goes_between_two_scrapes_is_counted() {
    let exporter = start(&[]);
    let pool = Pool::create("tank", DISKS[0]);
    sh("zfs create tank/brief");
    let id = objset("tank", "tank/brief").1.to_string();
    sh("dd if=/dev/zero of=/tank/brief/file bs=128k count=7 status=none; zfs destroy tank/brief");
    let text = exporter.scrape();
    let labels = [("pool", "tank"), ("dataset", ""), ("objset_id", &id), ("operation", "write")];
    assert_eq!(text.get(OPS, &labels), Some(7.0), "{text:?}");
    assert_eq!(text.get(BYTES, &labels), Some(7.0 * 131_072.0));
    drop(pool);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn datasets_of_a_pool_with_a_long_name_are_counted() {
    let exporter = start(&[]);
    let name = format!("t{}", "o".repeat(80));
    let pool = Pool::create(&name, DISKS[0]);
    sh(&format!("dd if=/dev/zero of=/{name}/file bs=128k count=7 status=none"));
    let text = exporter.scrape();
    // The pool's name is truncated to the size of the key.
    let labels = [("pool", &name[..63]), ("dataset", &name), ("operation", "write")];
    assert_eq!(text.get(OPS, &labels), Some(7.0), "{text:?}");
    drop(pool);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn datasets_beyond_the_limit_are_folded_and_counted() {
    let exporter = start(&["--max-series", "16"]);
    let pool = Pool::create("tank", DISKS[0]);
    sh("for n in $(seq 20); do zfs create tank/d$n; echo x > /tank/d$n/file; done");
    let text = exporter.scrape();
    let total = text.get(OPS, &[("operation", "write")]).unwrap();
    let other = text.get(OPS, &[("dataset", "other"), ("operation", "write")]).unwrap();
    assert_eq!(total, 20.0);
    assert!(other >= 5.0, "{other}");
    assert_eq!(text.get("ebpf_exporter_folded_events_total", &[]).unwrap(), other);
    drop(pool);
}

live::main!();
