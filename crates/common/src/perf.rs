// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own software events, counted by the kernel: no program runs.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::io::Errno;

/// A software event of `perf_event_open(2)`.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Page faults that needed no I/O.
    MinorFaults,
    /// Page faults that did.
    MajorFaults,
}

/// A counter on every CPU, from when it was opened.
#[derive(Debug)]
pub struct Counter {
    event: Event,
    /// CPU and descriptor. A CPU that goes offline keeps what it has counted.
    cpus: Vec<(u32, File)>,
}

impl Counter {
    /// Starts to count on all CPUs that are online.
    ///
    /// # Errors
    /// When the kernel refuses; needs CAP_PERFMON, or CAP_SYS_ADMIN where
    /// kernel.perf_event_paranoid is 3, which Debian's kernels know.
    pub fn open(event: Event) -> Result<Self> {
        let mut counter = Self { event, cpus: Vec::new() };
        counter.add_cpus()?;
        Ok(counter)
    }

    /// Counts on CPUs that came since.
    fn add_cpus(&mut self) -> Result<()> {
        for cpu in online(Path::new("/sys/devices/system/cpu/online"))? {
            if !self.cpus.iter().any(|(known, _)| *known == cpu) {
                let file = open(self.event, cpu)
                    .with_context(|| format!("failed to count {:?} on CPU {cpu}", self.event))?;
                self.cpus.push((cpu, file));
            }
        }
        Ok(())
    }

    /// What was counted on all CPUs.
    ///
    /// # Errors
    /// When a CPU came online and the kernel no longer lets it be counted on: a number
    /// without it would be wrong.
    pub fn read(&mut self) -> Result<u64> {
        self.add_cpus()?;
        let mut total = 0u64;
        for (cpu, file) in &mut self.cpus {
            let mut count = [0; 8];
            file.read_exact(&mut count)
                .with_context(|| format!("failed to read {:?} of CPU {cpu}", self.event))?;
            total = total.wrapping_add(u64::from_ne_bytes(count));
        }
        Ok(total)
    }
}

fn open(event: Event, cpu: u32) -> Result<File> {
    let config = match event {
        Event::MinorFaults => libbpf_sys::PERF_COUNT_SW_PAGE_FAULTS_MIN,
        Event::MajorFaults => libbpf_sys::PERF_COUNT_SW_PAGE_FAULTS_MAJ,
    };
    let attributes = libbpf_sys::perf_event_attr {
        type_: libbpf_sys::PERF_TYPE_SOFTWARE,
        size: size_of::<libbpf_sys::perf_event_attr>() as u32,
        config: config.into(),
        ..Default::default()
    };
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
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: it is new, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
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
    fn lists_of_cpus_are_read() {
        assert_eq!(parse("0-2,5,7-8").expect("a list"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(parse("0").expect("a list"), [0]);
        assert!(parse("").is_err());
        assert!(parse("3-1").is_err());
    }
}
