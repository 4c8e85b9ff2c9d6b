// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events that the kernel counts itself, and events at which it runs a program.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::io::Errno;

/// A software event of `perf_event_open(2)`.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Page faults that needed no I/O.
    MinorFaults,
    /// Page faults that needed I/O.
    MajorFaults,
}

/// Counts an event on every CPU, starting when it is opened.
///
/// When a CPU goes offline, the kernel stops its event for good. Its count is kept here, and a new event
/// is opened when the CPU comes back.
#[derive(Debug)]
pub struct Counter {
    event: Event,
    /// CPU, descriptor, and the last count read from it.
    cpus: Vec<(u32, File, u64)>,
    /// Counts of CPUs that went offline.
    gone: u64,
}

/// A reading of a [`Counter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The count on all CPUs since the counter was opened.
    pub total: u64,
    /// Whether it counted without interruption on every CPU since the last reading.
    pub whole: bool,
}

impl Counter {
    /// Starts to count on all CPUs that are online.
    ///
    /// # Errors
    /// When the kernel refuses. It requires CAP_PERFMON, or CAP_SYS_ADMIN if kernel.perf_event_paranoid
    /// is 3, a level of Debian's kernels.
    pub fn open(event: Event) -> Result<Self> {
        let mut counter = Self { event, cpus: Vec::new(), gone: 0 };
        counter.add_cpus()?;
        Ok(counter)
    }

    /// Starts to count on new CPUs. Returns whether there were any.
    fn add_cpus(&mut self) -> Result<bool> {
        let mut came = false;
        for cpu in online_cpus()? {
            if self.cpus.iter().any(|(known, ..)| *known == cpu) {
                continue;
            }
            came = true;
            match open(self.event, cpu) {
                Ok(file) => self.cpus.push((cpu, file, 0)),
                // The CPU has just gone offline.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => {
                    let what = format!("failed to open perf event {:?} on CPU {cpu}", self.event);
                    return Err(error).context(what);
                }
            }
        }
        Ok(came)
    }

    /// Keeps the counts of CPUs that went offline. Returns whether there were any.
    fn remove_cpus(&mut self) -> Result<bool> {
        let before = self.cpus.len();
        let mut alive = Vec::with_capacity(before);
        for (cpu, mut file, last) in self.cpus.drain(..) {
            let read = |file: &mut File| {
                read(file).with_context(|| format!("failed to read {:?} of CPU {cpu}", self.event))
            };
            let (first, second) = (read(&mut file)?, read(&mut file)?);
            match count(first, second) {
                Ok(count) => alive.push((cpu, file, count)),
                Err(count) => self.gone = self.gone.wrapping_add(count.unwrap_or(last)),
            }
        }
        self.cpus = alive;
        Ok(self.cpus.len() < before)
    }

    /// The count on all CPUs.
    ///
    /// # Errors
    /// When a CPU came online and the kernel refuses to count on it: the total would be too low.
    pub fn read(&mut self) -> Result<Reading> {
        let went = self.remove_cpus()?;
        let came = self.add_cpus()?;
        let counts = self.cpus.iter().map(|(.., count)| count);
        Ok(Reading { total: counts.fold(self.gone, |sum, n| sum.wrapping_add(*n)), whole: !went && !came })
    }
}

/// A count, and the time for which it was counted.
type Sample = (u64, u64);

/// The count of an event, from two readings of it. An error with the last count if the event has
/// stopped. Only its clock shows that: it stands still, or the second reading is empty.
fn count(first: Option<Sample>, second: Option<Sample>) -> Result<u64, Option<u64>> {
    match (first, second) {
        (Some((_, before)), Some((count, now))) if now > before => Ok(count),
        _ => Err(second.or(first).map(|(count, _)| count)),
    }
}

/// Reads an event; `None` at the end of the file, which means that the kernel has stopped the event.
fn read(file: &mut File) -> std::io::Result<Option<Sample>> {
    let mut bytes = [0; 16];
    if file.read(&mut bytes)? < bytes.len() {
        return Ok(None);
    }
    let number = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[at..at + 8]);
        u64::from_ne_bytes(number)
    };
    Ok(Some((number(0), number(8))))
}

fn open(event: Event, cpu: u32) -> std::io::Result<File> {
    let config = match event {
        Event::MinorFaults => libbpf_sys::PERF_COUNT_SW_PAGE_FAULTS_MIN,
        Event::MajorFaults => libbpf_sys::PERF_COUNT_SW_PAGE_FAULTS_MAJ,
    };
    open_event(
        &libbpf_sys::perf_event_attr {
            type_: libbpf_sys::PERF_TYPE_SOFTWARE,
            config: config.into(),
            read_format: libbpf_sys::PERF_FORMAT_TOTAL_TIME_ENABLED.into(),
            ..Default::default()
        },
        cpu,
    )
}

/// Opens an event that is sampled `frequency` times a second, on one CPU and for any task. `kind` and
/// `config` are those of `perf_event_open(2)`.
///
/// # Errors
/// When the kernel refuses: ENODEV if the CPU is offline, ENOENT if the CPU has no such event.
pub fn open_sampled(kind: u32, config: u64, frequency: u64, cpu: u32) -> std::io::Result<OwnedFd> {
    let mut attributes = libbpf_sys::perf_event_attr { type_: kind, config, ..Default::default() };
    attributes.__bindgen_anon_1.sample_freq = frequency;
    attributes.set_freq(1);
    open_event(&attributes, cpu).map(OwnedFd::from)
}

fn open_event(attributes: &libbpf_sys::perf_event_attr, cpu: u32) -> std::io::Result<File> {
    let attributes =
        libbpf_sys::perf_event_attr { size: size_of::<libbpf_sys::perf_event_attr>() as u32, ..*attributes };
    // Any task (-1), no group (-1).
    // SAFETY: the kernel reads `size` bytes of the attributes, which outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            -1,
            cpu,
            -1,
            libbpf_sys::PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}

/// The CPUs that are online.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn online_cpus() -> Result<Vec<u32>> {
    online(Path::new("/sys/devices/system/cpu/online"))
}

/// CPUs in a list such as `0-3,5`.
fn online(path: &Path) -> Result<Vec<u32>> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    parse(text.trim()).with_context(|| format!("{}: not a list of CPUs: {text:?}", path.display()))
}

fn parse(list: &str) -> Result<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<u32>()?..=last.parse::<u32>()?);
    }
    if cpus.is_empty() { Err(Errno::NODEV.into()) } else { Ok(cpus) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_whose_clock_stands_counts_no_longer() {
        assert_eq!(count(Some((5, 10)), Some((7, 11))), Ok(7));
        assert_eq!(count(Some((5, 10)), Some((5, 10))), Err(Some(5)));
        assert_eq!(count(Some((5, 10)), None), Err(Some(5)));
        assert_eq!(count(None, None), Err(None));
    }

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(parse("0-2,5,7-8").expect("a list"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(parse("0").expect("a list"), [0]);
        assert!(parse("").is_err());
        assert!(parse("3-1").is_err());
    }
}
