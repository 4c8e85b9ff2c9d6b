// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of the exporter with ten configs, and CPU time of a scrape of 10,000 keys. Fails when one is
//! above its limit. The exporter is the one in `PATH`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a panic ends a bench as well")]

#[path = "../tests/live/folder.rs"]
#[allow(dead_code, reason = "tests need more of it")]
mod folder;

use std::fs;
use std::mem::MaybeUninit;
use std::time::Duration;

use folder::{Folder, trigger};
use live::exporter::Exporter;

/// Configs with all kinds of maps and buffers.
const CONFIGS: [&str; 10] =
    ["bytes", "cgroup_map", "churn", "groups", "hist", "keys", "odd_maps", "percpu", "perf", "spans"];

const MEMORY_BYTES: u64 = 15_000_000;

const KEYS: u64 = 10_000;

const CPU_TIME: Duration = Duration::from_millis(20);

const ROUNDS: usize = 30;

fn main() {
    let memory = memory();
    println!("memory with ten configs: {:.1} MB", memory as f64 / 1e6);
    let (first, later) = scrapes();
    println!("CPU time of a scrape of {KEYS} keys: the first {first:.1?}, then {later:.1?}");
    assert!(memory <= MEMORY_BYTES, "more memory than {MEMORY_BYTES} bytes");
    assert!(later <= CPU_TIME, "more CPU time than {CPU_TIME:?}");
}

/// Resident memory after some scrapes.
fn memory() -> u64 {
    let exporter = Folder::of(&CONFIGS).start(&[]);
    for _ in 0..ROUNDS {
        exporter.scrape();
    }
    let configs = exporter.scrape().labels("ebpf_exporter_enabled_configs").len();
    assert_eq!(configs, CONFIGS.len());
    let status = fs::read_to_string(format!("/proc/{}/status", exporter.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    resident.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// CPU time of the first scrape, which decodes all keys, and of the fastest of those that follow.
fn scrapes() -> (Duration, Duration) {
    let exporter = Folder::of(&["many"]).start(&[]);
    trigger(KEYS, 0);
    let times: Vec<Duration> = (0..ROUNDS).map(|_| scrape(&exporter)).collect();
    (times[0], *times[1..].iter().min().unwrap())
}

fn scrape(exporter: &Exporter) -> Duration {
    let before = cpu_time(exporter);
    let keys = exporter.scrape().labels("ebpf_exporter_many_total").len();
    assert_eq!(keys as u64, KEYS);
    cpu_time(exporter) - before
}

/// CPU time of all threads so far, also of those that ended.
fn cpu_time(exporter: &Exporter) -> Duration {
    let (mut clock, mut time) = (0, MaybeUninit::<libc::timespec>::uninit());
    // SAFETY: both calls write where they are told to.
    let result = unsafe {
        libc::clock_getcpuclockid(exporter.pid() as i32, &raw mut clock)
            | libc::clock_gettime(clock, time.as_mut_ptr())
    };
    assert_eq!(result, 0, "the process runs");
    // SAFETY: the call succeeded.
    let time = unsafe { time.assume_init() };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
