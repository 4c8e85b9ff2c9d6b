// SPDX-License-Identifier: MIT OR Apache-2.0
//! Without eBPF, exporters have the same counts if other sources exist. Otherwise they say why they
//! cannot run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use live::block::{below, direct_reads, direct_writes, fast};
use live::exporter::Exporter;
use live::exposition::Delta;
use live::wireguard::Tunnel;
use live::zpool::{DISKS, Pool};
use live::{sh, wait_until};

const MODE: &str = "ebpf_exporter_mode";

/// Checks every counter that `--ebpf off` has: during `work`, the count of the eBPF programs is at
/// least as high, and at most `others` higher. Returns how many of these series changed.
#[track_caller]
fn compared(name: &str, others: f64, work: impl FnOnce()) -> usize {
    let with = Exporter::start(name, &["--ebpf", "on"]);
    let without = Exporter::start(name, &["--ebpf", "off"]);
    let (with_before, without_before) = (with.scrape(), without.scrape());
    assert_eq!(without_before.get(MODE, &[("mode", "fallback")]), Some(1.0));
    work();
    let without = Delta(without_before, without.scrape());
    let with = Delta(with_before, with.scrape());
    // I/O may have been in flight when the exporter started.
    let unknown = with.of("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
    assert_eq!(with.lost(), unknown, "{with:?}");
    let mut changed = 0;
    for (metric, labels) in without.1.series() {
        if !metric.ends_with("_total") || metric.starts_with("ebpf_exporter_") || !metric.starts_with("ebpf_")
        {
            continue;
        }
        let (ours, kernel) = (with.of(metric, &labels), without.of(metric, &labels));
        println!("{metric} {labels:?}: {ours} by programs, {kernel} without");
        assert!((kernel..=kernel + others).contains(&ours), "{metric} {labels:?}: {ours}, without {kernel}");
        changed += usize::from(kernel > 0.0);
    }
    changed
}

#[live::test]
fn without_ebpf_disks_count_the_same() {
    let device = fast();
    // Both exporters see all disks, so other I/O on the root disk counts for both.
    let changed = compared("diskio", 1e6, || {
        assert_eq!(direct_reads(&device, 23, 8192), 0);
        direct_writes(&device, 29, 4096);
    });
    assert!(changed >= 2, "{changed}");
}

#[live::test]
fn without_ebpf_memory_counts_the_same() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let pages = folder.path().join("pages").into_os_string().into_string().unwrap();
    let memory = format!("dd if=/dev/zero of={pages} bs=1M count=40 status=none");
    assert!(compared("memory", 3000.0, || drop(sh(&memory))) >= 1);
}

#[live::test(kprobes, module("zfs"), spare_disks)]
fn without_ebpf_pools_count_the_same() {
    let _pool = Pool::create("tank", DISKS[0]);
    let file = "dd if=/dev/urandom of=/tank/file bs=128k count=61 conv=fsync status=none; cat /tank/file > /dev/null";
    assert!(compared("zfs-arc", 400.0, || drop(sh(file))) >= 3);
    // Nothing else uses this volume and this dataset: counts are equal.
    assert!(compared("zfs-dmu", 0.0, || drop(sh(file))) >= 4);
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn without_ebpf_tunnels_count_the_same() {
    let tunnel = Tunnel::new("");
    let changed = compared("wireguard", 0.0, || tunnel.exchange("left", "right", "10.98.0.2", 23));
    assert!(changed >= 4, "{changed}");
}

#[live::test]
fn without_ebpf_connections_are_the_same() {
    let (with, without) = (Exporter::start("tcp", &[]), Exporter::start("tcp", &["--ebpf", "off"]));
    let connections = |exporter: &Exporter| exporter.scrape().get("ebpf_tcp_active_connections", &[]);
    let _stream = std::net::TcpStream::connect(("127.0.0.1", with.port())).unwrap();
    // Each exporter sees both ends of the connection of its own scrape, and those of this test. Other
    // connections come and go.
    let mut without_it = None;
    wait_until("both see the same", Duration::from_secs(20), || {
        without_it = connections(&without);
        connections(&with) == without_it
    });
    assert!(without_it >= Some(4.0), "{without_it:?}");
}

/// The BPF objects that a process has open.
fn bpf_descriptors(pid: u32) -> Vec<String> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = folder.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.map(|target| target.display().to_string()).filter(|target| target.contains("bpf")).collect()
}

#[live::test]
fn what_is_released_is_closed_and_the_rest_goes_on() {
    for (name, goes_on) in [
        ("tcp", "ebpf_tcp_active_connections"),
        ("diskio", "ebpf_disk_io_bytes_total"),
        ("memory", "ebpf_page_faults_minor_total"),
        ("schedlat", "ebpf_exporter_scrapes_total"),
    ] {
        let exporter = Exporter::start(name, &[]);
        let before = exporter.scrape();
        assert!(bpf_descriptors(exporter.pid()).len() > 2, "{name}");
        sh(&format!("kill -USR1 {}", exporter.pid()));
        wait_until("all is closed", Duration::from_secs(30), || bpf_descriptors(exporter.pid()).is_empty());
        let after = exporter.scrape();
        assert_eq!(after.get(MODE, &[("mode", "fallback")]), Some(1.0), "{name}");
        assert!(after.get(goes_on, &[]).is_some(), "{name}: {after:?}");
        if name == "tcp" {
            let now = || exporter.scrape().get(goes_on, &[]).unwrap();
            let few = now();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let _streams: Vec<_> = (0..50)
                .map(|_| std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap())
                .collect();
            // Other connections come and go.
            assert!((80.0..120.0).contains(&(now() - few)), "{few} and {}", now());
        }
        // Counters continue from their last value, whatever value their new source starts from.
        for (metric, labels) in after.series() {
            if metric.ends_with("_total") && !metric.starts_with("ebpf_exporter_") {
                let (was, is) = (before.count(metric, &labels), after.count(metric, &labels));
                assert!((was..was + 1e9).contains(&is), "{metric} {labels:?}: {was}, then {is}");
            }
        }
    }
}

#[live::test(disk("/"), own_machine, once)]
fn where_bpf_is_refused_it_says_so_and_does_what_it_can() {
    let refused = |name: &str| {
        let mut run = Command::new("systemd-run");
        run.args(["--quiet", "--pipe", "--collect", "--unit=refused", "-p", "SystemCallFilter=~bpf"]);
        run.args(["-p", "SystemCallErrorNumber=EPERM", &format!("/usr/bin/ebpf-{name}-exporter")]);
        run
    };
    let (said, exporter) = Exporter::spawn_and_read(&mut refused("diskio"));
    assert!(said.contains("level=warn") && said.contains("without eBPF"), "{said}");
    let (scrape, root) = (exporter.scrape(), below(Path::new("/")).unwrap());
    assert_eq!(scrape.get(MODE, &[("mode", "fallback")]), Some(1.0));
    assert!(scrape.get("ebpf_disk_io_bytes_total", &[("device", &root), ("operation", "read")]) > Some(0.0));
    // Absent, not zero.
    assert_eq!(scrape.get("ebpf_disk_io_latency_microseconds_count", &[]), None);
    sh("systemctl stop refused");
    drop(exporter);

    for (name, flags, why) in [
        ("diskio", ["--ebpf", "on"].as_slice(), "not permitted"),
        ("diskio", &["--check"], "not permitted"),
        ("syscall", &[], "not permitted"),
    ] {
        let output = refused(name).args(flags).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{name} {flags:?}: {said}");
        assert!(said.contains(why), "{name} {flags:?}: {said}");
    }
    let output = Command::new("ebpf-syscall-exporter").args(["--ebpf", "off"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot run without eBPF"), "{said}");
}
