// SPDX-License-Identifier: MIT OR Apache-2.0
//! Giving up what is no longer needed once everything is attached.

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

/// Whether this process may load tracing programs, as far as capabilities go.
pub fn can_load() -> bool {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    has(Capability::CAP_SYS_ADMIN) || (has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON))
}

/// Whether no limit stands against locked memory, which maps are on older kernels.
pub fn may_lock_memory() -> bool {
    getrlimit(Resource::Memlock).current.is_none()
        || caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap_or(false)
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
