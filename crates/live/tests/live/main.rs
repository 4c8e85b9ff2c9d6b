// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exporters as users run them: flags and units of the package, with diskio as the example. Errors are
//! in `refusals.rs`, all exporters on a busy machine in `together.rs`, modes without eBPF in
//! `fallback.rs`, loading of all programs in `programs.rs`, imports by other programs in `prometheus.rs`,
//! `native.rs` and `textfile.rs`, installation in `package.rs`, TLS in `web.rs`, waiting for a module in
//! `waiting.rs`, ports in `ports.rs`, what `ebpf-exporters top` shows in `top.rs`, what systemd is told in
//! `notify.rs`, with the rights of containers in `rights.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

mod fallback;
mod native;
mod notify;
mod package;
mod podman;
mod ports;
mod programs;
mod prometheus;
mod refusals;
mod rights;
mod textfile;
mod together;
mod top;
mod waiting;
mod web;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use live::block;
use live::exporter::{Exporter, get, until};
use live::exposition::Exposition;
use live::work::Running;
use live::{Folder, bpf_programs, sh, tell, udev_settles, wait_until};
use prometheus::{ask, numbers};
use rustix::process::Signal;

const IO_LATENCY: &str = "ebpf_disk_io_latency_microseconds";

/// Maximum memory of an exporter's process.
const MEMORY: f64 = 4.0 * 1024.0 * 1024.0;

/// Number of diskio's programs in the kernel, by their truncated names.
fn our_programs() -> usize {
    bpf_programs().iter().filter(|name| name.starts_with("rq_") || name.starts_with("bio_")).count()
}

fn start() -> Exporter {
    Exporter::start("diskio", &[])
}

/// Names and ports of the exporters that contain their programs, from the package's scrape configuration.
fn exporters() -> BTreeMap<String, u16> {
    let config = fs::read_to_string("/usr/share/ebpf-exporters/prometheus/prometheus.yml").unwrap();
    let jobs = config.split("job_name: ebpf-").skip(1);
    let job = |text: &str| {
        let name = text.lines().next()?.trim().to_owned();
        let port = text.split_once("localhost:")?.1.split('"').next()?.parse().ok()?;
        Some((name, port))
    };
    let jobs = jobs.filter_map(job).filter(|(name, _)| folder_of_users(name).is_none());
    let exporters: BTreeMap<String, u16> = jobs.collect();
    assert!(exporters.len() >= 15, "{exporters:?}");
    exporters
}

/// The folder with the programs of users that an exporter runs. Its unit is skipped while the folder is
/// empty, as it is on all machines of these tests. `None` if the exporter contains its programs.
fn folder_of_users(name: &str) -> Option<String> {
    let unit = format!("/usr/lib/systemd/system/ebpf-{name}-exporter.service");
    let unit = fs::read_to_string(&unit).unwrap_or_else(|error| panic!("{unit}: {error}"));
    let folder = unit.lines().find_map(|line| line.strip_prefix("ConditionDirectoryNotEmpty="));
    folder.map(ToOwned::to_owned)
}

#[live::test]
fn nothing_stays_in_the_kernel() {
    let before = our_programs();
    for (signal, code) in [(Signal::TERM, Some(0)), (Signal::INT, Some(0)), (Signal::KILL, None)] {
        let exporter = start();
        // There are more if the kernel preempts programs.
        assert!(our_programs() >= before + 6);
        assert_eq!(exporter.end(signal), code);
        // The kernel frees programs after a grace period.
        wait_until("programs gone", Duration::from_secs(30), || our_programs() == before);
    }
}

/// Whether a line of `--check` of diskio says that a probe is attached. Only kernels before 6.3 have pages without
/// bios.
fn is_attached(line: &str) -> bool {
    let none = "bdev_rw_page: not applicable: this kernel has no BTF of a function bdev_read_page";
    line.contains(": ok") || line.starts_with(none)
}

#[live::test(once)]
fn check_once_and_textfile_do_what_they_say() {
    let check = sh("ebpf-diskio-exporter --check");
    assert_eq!(check.lines().count(), 8, "{check}");
    assert!(check.lines().all(is_attached), "{check}");

    let device = block::fast();
    udev_settles();
    let mut once = Command::new("ebpf-diskio-exporter");
    let mut once = Running::start(once.arg("--once").stdout(Stdio::piped()));
    let id = once.0.id();
    // This thread starts after all programs are attached.
    wait_until("it waits for signals", Duration::from_secs(30), || {
        sh(&format!("cat /proc/{id}/task/*/comm || :")).contains("signals")
    });
    block::direct_writes(&device, 5, 4096);
    sh(&format!("kill -INT {id}"));
    let mut text = String::new();
    once.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(once.0.wait().unwrap().success());
    let write = [("device", device.name.as_str()), ("operation", "write")];
    assert_eq!(Exposition::parse(&text).get(&format!("{IO_LATENCY}_count"), &write), Some(5.0), "{text}");

    let folder = Folder::new();
    let path = folder.path("diskio.prom");
    let mut daemon = Running::start(Command::new("ebpf-diskio-exporter").args([
        "--textfile.path",
        &path,
        "--textfile.interval",
        "100ms",
    ]));
    let scrapes = || {
        let text = fs::read_to_string(&path).unwrap_or_default();
        Exposition::parse(&text).count("ebpf_exporter_scrapes_total", &[])
    };
    wait_until("the file is rewritten", Duration::from_secs(30), || scrapes() >= 3.0);
    sh(&format!("kill -TERM {}", daemon.0.id()));
    assert!(daemon.0.wait().unwrap().success());
    assert_eq!(sh(&format!("ls -A {}", folder.path(""))), "diskio.prom");
}

#[live::test(module("null_blk"), own_machine)]
fn the_units_run_unprivileged_and_prometheus_scrapes_them() {
    sh("systemctl start ebpf-diskio-exporter.service || { journalctl -u ebpf-diskio-exporter; exit 1; }");
    let pid = sh("systemctl show -P MainPID ebpf-diskio-exporter.service");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_ne!(field("Uid:"), "0");
    // CAP_PERFMON is 38, CAP_BPF 39. After attaching the exporter only reads.
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
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    let lint = Command::new("promtool").args(["check", "metrics"]).stdin(file).output().unwrap();
    let said = String::from_utf8_lossy(&lint.stderr).into_owned() + &String::from_utf8_lossy(&lint.stdout);
    let others: Vec<&str> = said.lines().filter(|line| !line.contains("use base unit \"seconds\"")).collect();
    assert!(others.is_empty(), "{others:?}");

    let device = block::null_blk(2_100_000, "none");
    let config = "/usr/share/ebpf-exporters/prometheus/prometheus.yml";
    sh(&format!("promtool check config {config}"));
    let server = prometheus::prometheus(config, &[]);
    let query = |query: &str| numbers(&ask("query", Some(query)));
    wait_until("the target is up", Duration::from_secs(120), || {
        query("up{job=\"ebpf-diskio\"} == 1") == [1.0]
    });
    let quantile = format!(
        "histogram_quantile(0.5, rate({IO_LATENCY}_bucket{{device=\"{}\",operation=\"read\"}}[2m]))",
        device.name
    );
    let mut answer = Vec::new();
    wait_until("a quantile", Duration::from_secs(180), || {
        assert_eq!(block::direct_reads(&device, 50, 4096), 0);
        answer = query(&quantile);
        !answer.is_empty()
    });
    assert!(matches!(answer[..], [2048.0..4096.0]), "median {answer:?} us");
    drop(server);

    sh("systemctl stop ebpf-diskio-exporter");
    wait_until("programs gone", Duration::from_secs(30), || our_programs() == 0);
}

/// docs/kernel-support.md has this output. A guest with other output fails the run.
#[live::test(kprobes, module("zfs"), module("wireguard"), own_machine)]
fn each_exporter_runs_by_ebpf_and_tells_its_hooks() {
    sh("modprobe zfs; modprobe wireguard");
    for name in exporters().keys() {
        let exporter = Exporter::start(name, &[]);
        until(exporter.port(), name, |text| text.get("ebpf_exporter_mode", &[("mode", "ebpf")]).is_some());
        for labels in exporter.scrape().labels("ebpf_exporter_ebpf_program_info") {
            tell(&format!("uses: {name} {}", labels["hook"]));
        }
        let steps = verified(exporter.pid());
        assert!(!steps.is_empty(), "{name}: no program in its descriptors");
        assert!(steps.iter().flatten().all(|steps| *steps <= VERIFIED), "{name}: {steps:?}");
    }
}

/// Instructions that the verifier may go through for one program. Most take some hundreds, the longest five
/// thousand. With a loop whose states it cannot tell apart, or jumps before a long part, it is hundreds of
/// thousands, and each start waits for that.
const VERIFIED: u64 = 10_000;

/// The same for each program of a process, as its descriptors tell; None before aba64c7da983 ("bpf: Add
/// verified_insns to bpf_prog_info and fdinfo"), 5.16.
fn verified(pid: u32) -> Vec<Option<u64>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let texts = descriptors.filter_map(|descriptor| fs::read_to_string(descriptor.unwrap().path()).ok());
    let steps =
        |text: &str| text.lines().find_map(|line| line.strip_prefix("verified_insns:"))?.trim().parse().ok();
    // Those of links name a program as well, but not its type.
    texts.filter(|text| text.contains("prog_type:")).map(|text| steps(&text)).collect()
}

live::main!();
