// SPDX-License-Identifier: MIT OR Apache-2.0
//! Giving up what is no longer needed once everything is attached.

use std::fs;
use std::thread;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{Resource, getrlimit};

use crate::cli::Keep;
use crate::maps::LiveMaps;

/// Reduces the capabilities of the calling thread and of threads it starts later,
/// for good, to `keep`; by default to `needs` and to what reading `maps` needs.
///
/// # Errors
/// When the kernel refuses.
pub fn drop(keep: Option<&Keep>, needs: &[Capability], maps: &LiveMaps) -> Result<()> {
    let keep: CapsHashSet = match keep {
        Some(Keep::All) => return Ok(()),
        Some(Keep::Only(list)) => list.iter().copied().collect(),
        None => needed(maps)?.into_iter().chain(needs.iter().copied()).collect(),
    };
    restrict(&keep).context("failed to drop capabilities")?;
    log::debug!("kept capabilities: {keep:?}");
    Ok(())
}

/// Before 5.19 bpf(2) asks for CAP_BPF even to read a map whose descriptor one has, where
/// unprivileged eBPF is disabled. A thread without capabilities finds out.
fn needed(maps: &LiveMaps) -> Result<CapsHashSet> {
    let readable = thread::scope(|scope| {
        let bare = scope.spawn(|| restrict(&CapsHashSet::new()).map(|()| maps.readable()));
        bare.join().map_err(|_| anyhow::anyhow!("the thread that tries to read maps died"))?
    })?;
    Ok(if readable { CapsHashSet::new() } else { [Capability::CAP_BPF].into() })
}

/// Whether this process has that capability in effect.
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Capabilities that loading tracing programs asks for and this process lacks.
pub fn missing() -> &'static [&'static str] {
    let admin = has(Capability::CAP_SYS_ADMIN);
    match (admin || has(Capability::CAP_BPF), admin || has(Capability::CAP_PERFMON)) {
        (true, true) => &[],
        (false, true) => &["CAP_BPF"],
        (true, false) => &["CAP_PERFMON"],
        (false, false) => &["CAP_BPF", "CAP_PERFMON"],
    }
}

/// Whether this process is in a user namespace of its own, outside of which it has no capabilities.
pub fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_whitespace().collect();
    !numbers.is_empty() && numbers != ["0", "0", "4294967295"]
}

/// Whether system calls of this process go through a filter.
pub fn has_seccomp_filter() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// How many bytes of memory may be locked, where there is a limit.
pub fn lockable() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

fn restrict(keep: &CapsHashSet) -> Result<()> {
    let has = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = keep.intersection(&has).copied().collect();
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        // Ambient capabilities are newer than some sandboxes' filters.
        if let Err(error) = caps::clear(None, set) {
            log::debug!("{set:?} capabilities: {error}");
        }
    }
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    Ok(())
}
