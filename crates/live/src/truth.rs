// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own counters, and how to compare with them.

use std::fs;
use std::ops::RangeInclusive;

use crate::exporter::Exporter;
use crate::exposition::Delta;

/// Runs `work` between two scrapes, and reads `truth` right before and after each. Returns the
/// difference of the scrapes, and for each number of `truth` the minimum and maximum of its change
/// between the scrapes.
///
/// # Panics
/// When `truth` panics.
#[track_caller]
pub fn between<const N: usize>(
    exporter: &Exporter,
    truth: impl Fn() -> [f64; N],
    work: impl FnOnce(),
) -> (Delta, [RangeInclusive<f64>; N]) {
    let first = truth();
    let before = exporter.scrape();
    let second = truth();
    work();
    let third = truth();
    let after = exporter.scrape();
    let last = truth();
    let range = |n: usize| third[n] - second[n]..=last[n] - first[n];
    (Delta(before, after), std::array::from_fn(range))
}

/// Whether `ours` lies in `range`, widened by the share `tolerance`.
pub fn agrees(ours: f64, range: &RangeInclusive<f64>, tolerance: f64) -> bool {
    (range.start() * (1.0 - tolerance)..=range.end() * (1.0 + tolerance)).contains(&ours)
}

/// The sum of the values of `keys` in /proc/vmstat. A key may end in `*`.
///
/// # Panics
/// When none of the keys exists.
#[track_caller]
pub fn vmstat(keys: &[&str]) -> f64 {
    let text = fs::read_to_string("/proc/vmstat").expect("/proc/vmstat");
    let fits = |name: &str| {
        keys.iter().any(|key| key.strip_suffix('*').map_or(name == *key, |start| name.starts_with(start)))
    };
    let values = text.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| fits(name));
    let values: Vec<f64> = values.map(|(_, value)| value.parse().expect("a number")).collect();
    assert!(!values.is_empty(), "/proc/vmstat has none of {keys:?}");
    values.iter().sum()
}

/// Run queue delay in nanoseconds, and number of timeslices, over all CPUs: /proc/schedstat.
///
/// # Panics
/// When there is no such file.
#[track_caller]
pub fn schedstat() -> [f64; 2] {
    let text = fs::read_to_string("/proc/schedstat").expect("/proc/schedstat");
    let mut totals = [0.0; 2];
    for line in text.lines().filter(|line| line.starts_with("cpu")) {
        // cpuN, seven numbers, run_delay, pcount.
        let fields: Vec<f64> = line.split(' ').skip(1).filter_map(|field| field.parse().ok()).collect();
        totals[0] += fields[7];
        totals[1] += fields[8];
    }
    totals
}

/// A number of /proc/stat, such as `processes`.
///
/// # Panics
/// When there is none with that name.
#[track_caller]
pub fn stat(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(ToOwned::to_owned));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("/proc/stat has no {name}"))
}

/// Minor and major page faults of this process (getrusage).
pub fn own_faults() -> (u64, u64) {
    let usage = usage(libc::RUSAGE_SELF);
    (usage.ru_minflt as u64, usage.ru_majflt as u64)
}

/// CPU seconds of children that have ended and were waited for, including their own children.
pub fn children_cpu_seconds() -> f64 {
    cpu_seconds(libc::RUSAGE_CHILDREN)
}

/// Seconds of CPU time of the calling thread.
pub fn thread_cpu_seconds() -> f64 {
    cpu_seconds(libc::RUSAGE_THREAD)
}

fn cpu_seconds(whose: i32) -> f64 {
    let usage = usage(whose);
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn usage(whose: i32) -> libc::rusage {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the struct; zeros are a valid value too.
    unsafe {
        libc::getrusage(whose, usage.as_mut_ptr());
        usage.assume_init()
    }
}

/// A number of this process's /proc/self/io.
///
/// # Panics
/// When there is none with that name.
#[track_caller]
pub fn own_io(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/io").expect("/proc/self/io");
    let line =
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(ToOwned::to_owned));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("/proc/self/io has no {name}"))
}
