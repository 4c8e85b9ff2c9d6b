// SPDX-License-Identifier: MIT OR Apache-2.0
//! A known number of page faults and allocations, compared with getrusage and
//! /proc/vmstat.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use live::block::{self, Diskstats};
use live::exporter::Exporter;
use live::exposition::{Delta, Exposition};
use live::truth::{agrees, between, own_faults, vmstat};
use live::work::{Mapping, cold_file, processes, under_memory_limit};
use live::{assert_nearly, disturbed, sh};

const LATENCY: &str = "ebpf_page_fault_latency_seconds";

/// Pages: a prime number, and many more than the other processes touch meanwhile.
const PAGES: usize = 20_011;

/// Faults of the exporter and of the machine's other processes during a measurement.
const OTHERS: f64 = 400.0;

fn start(flags: &[&str]) -> Exporter {
    Exporter::start("memory", flags)
}

/// What the exporter counted during `work`, and the minor and major faults of this process
/// by getrusage.
fn faults(work: impl FnOnce()) -> (Delta, f64, f64) {
    faults_by(&Exporter::shared("memory", &[]), work)
}

fn faults_by(exporter: &Exporter, work: impl FnOnce()) -> (Delta, f64, f64) {
    let before = exporter.scrape();
    let (minor, major) = own_faults();
    work();
    let (minor, major) = (own_faults().0 - minor, own_faults().1 - major);
    let delta = Delta(before, exporter.scrape());
    delta.assert_whole();
    // The latency probe counts the same faults as the kernel's perf events. It does not run where
    // functions cannot be hooked; tests that need it require them.
    if delta.1.get(&format!("{LATENCY}_count"), &[]).is_none() {
        return (delta, minor as f64, major as f64);
    }
    for (name, kind) in [("ebpf_page_faults_minor_total", "minor"), ("ebpf_page_faults_major_total", "major")]
    {
        let (kernel, ours) = (delta.of(name, &[]), kind_count(&delta, kind));
        assert!((kernel - ours).abs() <= 60.0, "{kind}: {ours} by latency, {kernel} by the kernel");
    }
    (delta, minor as f64, major as f64)
}

fn kind_count(delta: &Delta, kind: &str) -> f64 {
    delta.of(&format!("{LATENCY}_count"), &[("kind", kind)])
}

/// The number that the test caused, plus at most what other processes may do meanwhile.
#[track_caller]
fn nearly(what: &str, ours: f64, exact: f64) {
    assert_nearly(what, ours, exact, OTHERS);
}

#[live::test]
fn touching_pages_is_a_minor_fault_each() {
    let (delta, minor, major) = faults(|| Mapping::anonymous(PAGES).touch());
    let ours = delta.of("ebpf_page_faults_minor_total", &[]);
    println!("{ours} minor, getrusage {minor} and {major}");
    assert!(minor >= PAGES as f64, "{minor}");
    nearly("minor", ours, minor);
    nearly("major", delta.of("ebpf_page_faults_major_total", &[]), major);
}

#[live::test]
fn populated_pages_are_no_faults_of_the_process() {
    // getrusage counts them as minor faults, one for each page or huge page.
    let (delta, _, _) = faults(|| Mapping::populated(PAGES).keep());
    nearly("minor", delta.of("ebpf_page_faults_minor_total", &[]), 0.0);
}

#[live::test(functions)]
fn populated_pages_are_a_kind_of_their_own() {
    let (delta, _, _) = faults(|| Mapping::populated(PAGES).keep());
    assert!(kind_count(&delta, "populate") > 0.0, "{delta:?}");
}

#[live::test]
fn cold_pages_of_a_file_are_major_faults_and_each_is_counted_once() {
    let file = cold_file(2003);
    let (delta, minor, major) = faults(|| Mapping::of_file(&file, 2003).without_readahead().read_all());
    let ours = delta.of("ebpf_page_faults_major_total", &[]);
    println!(
        "{ours} major, getrusage {minor} and {major}, {} retries",
        delta.of("ebpf_page_fault_retries_total", &[])
    );
    assert!((1990.0..=2003.0).contains(&major), "{major}");
    assert_nearly("major", ours, major, 40.0);
    // Major faults are not also counted as minor.
    nearly("minor", delta.of("ebpf_page_faults_minor_total", &[]), minor);
}

#[live::test(functions, disk("/var/tmp"))]
fn a_fault_that_waits_for_its_page_lasts_as_long_as_the_disk() {
    let (file, below) = (cold_file(2003), block::below(Path::new("/var/tmp")).unwrap());
    let mut disk = Diskstats::default();
    let (delta, _, _) = faults(|| {
        let before = Diskstats::of(&below);
        Mapping::of_file(&file, 2003).without_readahead().read_all();
        disk = Diskstats::of(&below).since(before);
    });
    // The latency covers all tries, not only the last one.
    let mean = delta.of(&format!("{LATENCY}_sum"), &[("kind", "major")]) / kind_count(&delta, "major");
    let read = disk.read_ms as f64 / 1e3 / disk.reads as f64;
    println!("a major fault takes {mean} s, a read of the disk {read} s");
    assert!(mean >= read * 0.95 && read > 0.0, "{disk:?}");
}

#[live::test(functions)]
fn a_fault_that_was_given_up_lends_its_start_to_no_other() {
    const TIMES: usize = 3;
    let pause = Duration::from_secs(2);
    let (delta, _, _) = faults(|| (0..TIMES).for_each(|_| live::work::interrupted_fault(pause)));
    let long = |le: &str| {
        let count = delta.of(&format!("{LATENCY}_count"), &[]);
        count - delta.of(&format!("{LATENCY}_bucket"), &[("le", le)])
    };
    assert_eq!(long("1"), 0.0, "{:?}", delta.1);
    assert!(delta.of("ebpf_page_fault_retries_total", &[]) >= 2.0 * TIMES as f64);
}

#[live::test(functions)]
fn faults_that_end_in_a_signal_have_failed() {
    let (delta, _, _) = faults(|| {
        // Beyond the end of the file: SIGBUS.
        for _ in 0..23 {
            live::work::bus_error();
        }
    });
    let failed = kind_count(&delta, "failed");
    assert!((23.0..=23.0 + 5.0).contains(&failed), "{failed}");
}

#[live::test(functions)]
fn without_perf_events_the_probe_counts_the_same() {
    // With the unit's capabilities and limit, Debian's kernels refuse perf events.
    let unit = "prlimit --memlock=unlimited setpriv --reuid=nobody --clear-groups --inh-caps=-all,+cap_39,+cap_38 \
                --ambient-caps=+cap_39,+cap_38 --bounding-set=-all,+cap_39,+cap_38 ebpf-memory-exporter";
    let words: Vec<&str> = unit.split_whitespace().collect();
    let (log, exporter) = Exporter::spawn_and_read(Command::new(words[0]).args(&words[1..]));
    assert!(log.contains("page faults are counted by the probe"), "{log}");
    let (delta, minor, _) = faults_by(&exporter, || Mapping::anonymous(PAGES).touch());
    let ours = delta.of("ebpf_page_faults_minor_total", &[]);
    assert!(minor >= PAGES as f64, "{minor}");
    nearly("minor", ours, minor);
    assert_eq!(ours, kind_count(&delta, "minor"));
}

/// CPU 1. Dropping this brings it online again.
struct Cpu1;

impl Cpu1 {
    fn set(online: bool) {
        std::fs::write(CPU1, if online { "1" } else { "0" }).unwrap();
    }

    /// Touches pages on CPU 1; returns the number of faults.
    fn touch() -> f64 {
        std::thread::spawn(|| {
            let mut one = rustix::thread::CpuSet::new();
            one.set(1);
            rustix::thread::sched_setaffinity(None, &one).unwrap();
            let before = own_faults().0;
            Mapping::anonymous(PAGES).touch();
            (own_faults().0 - before) as f64
        })
        .join()
        .unwrap()
    }
}

impl Drop for Cpu1 {
    fn drop(&mut self) {
        Self::set(true);
    }
}

const CPU1: &str = "/sys/devices/system/cpu/cpu1/online";

/// Faults on CPU 1: by the exporter, and by getrusage.
fn faults_of_cpu1(exporter: &Exporter, before: impl FnOnce()) -> Option<(f64, f64)> {
    let start = exporter.scrape();
    before();
    let exact = Cpu1::touch();
    let delta = Delta(start, exporter.scrape());
    delta.1.get("ebpf_page_faults_minor_total", &[])?;
    Some((delta.of("ebpf_page_faults_minor_total", &[]), exact))
}

fn off_and_on() {
    Cpu1::set(false);
    Cpu1::set(true);
}

#[live::test(functions, file(CPU1), own_machine)]
fn faults_on_a_cpu_that_goes_and_comes_are_counted() {
    let _cpu = Cpu1;
    let exporter = start(&[]);
    for before in [&(|| {}) as &dyn Fn(), &off_and_on, &|| {}, &off_and_on] {
        let (ours, exact) = faults_of_cpu1(&exporter, before).expect("there are totals");
        println!("{ours} minor faults, getrusage {exact}");
        // Other processes start on a CPU that comes online.
        assert_nearly("minor", ours, exact, 3000.0);
    }
}

#[live::test(functions, file(CPU1), own_machine)]
fn faults_on_a_cpu_that_comes_late_are_counted() {
    let _cpu = Cpu1;
    Cpu1::set(false);
    let exporter = start(&[]);
    let (ours, exact) = faults_of_cpu1(&exporter, || Cpu1::set(true)).expect("there are totals");
    println!("{ours} minor faults, getrusage {exact}");
    assert_nearly("minor", ours, exact, 3000.0);
}

#[live::test(file(CPU1), own_machine)]
fn without_a_probe_a_cpu_that_came_back_is_counted_on_again_or_nothing_is_shown() {
    let _cpu = Cpu1;
    let bare = start(&["--memory.fault-latency=false"]);
    let privileged = start(&["--memory.fault-latency=false", "--capabilities.keep=all"]);
    off_and_on();
    let started = privileged.scrape().get("ebpf_page_faults_minor_total", &[]);
    assert!(started.is_some());
    assert_eq!(faults_of_cpu1(&bare, || {}), None, "stale");
    let (ours, exact) = faults_of_cpu1(&privileged, || {}).expect("there are totals");
    nearly("minor", ours, exact);
}

#[live::test]
fn latency_is_a_flag() {
    let exporter = start(&["--memory.fault-latency=false"]);
    let text = exporter.scrape();
    assert_eq!(text.get(&format!("{LATENCY}_count"), &[]), None);
    assert!(text.get("ebpf_page_faults_minor_total", &[]).is_some());
}

/// Allocated pages by the exporter's orders, and by /proc/vmstat.
fn pages(what: &str, work: impl FnOnce()) -> (f64, RangeInclusive<f64>) {
    let exporter = start(&[]);
    let (delta, [kernel]) = between(&exporter, || [vmstat(&["pgalloc_*"])], work);
    let orders = |le: u32| delta.of("ebpf_page_alloc_order_bucket", &[("le", &le.to_string())]);
    let mut pages = orders(0);
    for order in 1..=10u32 {
        pages += (orders(order) - orders(order - 1)) * f64::from(1 << order);
    }
    println!("{what}: {pages} pages by order, vmstat {kernel:?}");
    assert_eq!(delta.of("ebpf_page_alloc_order_count", &[]), delta.of("ebpf_page_allocations_total", &[]));
    assert_eq!(
        delta.of("ebpf_page_alloc_order_bucket", &[("le", "10")]),
        delta.of("ebpf_page_allocations_total", &[])
    );
    let zones = delta.of("ebpf_page_allocated_pages_total", &[]);
    assert!(agrees(zones, &kernel, 0.0), "{zones}, vmstat {kernel:?}");
    (pages, kernel)
}

/// Faults of any kind that took longer than a second.
fn long_faults(text: &Exposition) -> f64 {
    let of = |name: &str, le: &[(&str, &str)]| -> f64 {
        let kinds = ["minor", "major", "failed", "populate"];
        kinds.iter().map(|kind| text.count(name, &[&[("kind", *kind)], le].concat())).sum()
    };
    of(&format!("{LATENCY}_count"), &[]) - of(&format!("{LATENCY}_bucket"), &[("le", "1")])
}

#[live::test(reattach)]
fn a_fault_of_which_one_end_is_lost_has_no_latency() {
    let exporter = start(&["--ebpf.preempts", "false"]);
    let touch = || Mapping::anonymous(PAGES).touch();
    // The time that a wrong latency would contain, not a wait for an event.
    let pause = || std::thread::sleep(Duration::from_millis(1100));
    touch();
    let begin = exporter.scrape();
    let end = exporter.deafen("fault_fexit");
    touch();
    let _end = end.attach();
    pause();
    touch();
    let after = exporter.scrape();
    assert_eq!(long_faults(&after), long_faults(&begin), "the end of a fault was lost");
    let lost = |from: &Exposition, to: &Exposition| {
        let of = |text: &Exposition| text.count("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
        of(to) - of(from)
    };
    assert!(lost(&begin, &after) >= PAGES as f64, "{} lost", lost(&begin, &after));
    let _deaf = exporter.deafen("fault_fentry");
    pause();
    touch();
    let last = exporter.scrape();
    assert_eq!(long_faults(&last), long_faults(&after), "the start of a fault was lost");
    assert!(lost(&after, &last) >= PAGES as f64, "{} lost", lost(&after, &last));
}

#[live::test]
fn allocations_by_order_add_up_to_the_kernels_pages() {
    let (pages, kernel) = pages("touch", || Mapping::anonymous(PAGES).touch());
    if *kernel.end() > 1.1 * PAGES as f64 {
        disturbed(format!("{kernel:?} pages were allocated, {PAGES} of them here"));
    }
    // Bulk allocations have no event. There are few of them here.
    assert!(agrees(pages, &kernel, 0.01), "{pages} pages, vmstat {kernel:?}");
}

#[live::test]
fn what_bulk_allocation_hides_is_no_more_than_the_readme_says() {
    let (pages, kernel) = pages("forks", || processes(200));
    assert!(pages <= *kernel.end() && pages >= 0.75 * kernel.start(), "{pages} pages, vmstat {kernel:?}");
}

#[live::test(own_machine)]
fn direct_reclaim_and_oom_kills_are_the_kernels() {
    let exporter = start(&[]);
    let truth = || [vmstat(&["allocstall_*"]), vmstat(&["oom_kill"])];
    let (delta, [stalls, kills]) = between(&exporter, truth, || {
        under_memory_limit("16M", "head -c 64M /dev/zero | tail -c 64M > /dev/null");
    });
    let (ours, killed) =
        (delta.of("ebpf_direct_reclaim_seconds_count", &[]), delta.of("ebpf_oom_kills_total", &[]));
    assert!(agrees(ours, &stalls, 0.0), "{ours} reclaims, vmstat {stalls:?}");
    assert!(agrees(killed, &kills, 0.0) && killed >= 1.0, "{killed} kills, vmstat {kills:?}");
}

#[live::test(disk("/"), own_machine)]
fn a_machine_short_of_memory_reclaims_directly() {
    let exporter = start(&[]);
    let (delta, [stalls]) = between(
        &exporter,
        || [vmstat(&["allocstall_*"])],
        || {
            // Fill the page cache beyond the memory, with a burst of allocations at the same time.
            let disk = block::below(Path::new("/")).unwrap();
            sh(&format!("free=$(awk '/MemAvailable/ {{ print int($2 / 1024) }}' /proc/meminfo)
            mkdir -p /tmp/full; mount -t tmpfs -o size=${{free}}m none /tmp/full
            dd if=/dev/zero of=/tmp/full/file bs=1M count=$((free - 200)) status=none
            for n in 1 2 3 4; do timeout 20 dd if=/dev/{disk} of=/dev/null bs=4M count=120 skip=$((n * 120)) status=none & done; wait
            umount /tmp/full"));
        },
    );
    let ours = delta.of("ebpf_direct_reclaim_seconds_count", &[]);
    println!("{ours} reclaims, vmstat {stalls:?}");
    assert!(agrees(ours, &stalls, 0.0), "{ours} reclaims, vmstat {stalls:?}");
    delta.assert_nothing_lost();
}

live::main!();
