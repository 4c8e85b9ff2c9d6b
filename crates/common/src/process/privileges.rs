// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drops privileges that are no longer needed: while waiting for a kernel module, and after
//! attaching.

use std::thread;

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::geteuid;
use rustix::thread::{CapabilitiesSecureBits, capabilities_secure_bits, no_new_privs};

use crate::process::cli::Keep;
use crate::read::part::Part;
use crate::read::self_metrics::Program;

/// Capabilities that starting may need. The first two are for programs. CAP_SYS_ADMIN is for kprobes
/// if `perf_event_paranoid` is 3, and replaces the first two before 5.8. CAP_SYS_RESOURCE and
/// CAP_SYSLOG are for the limit of locked memory and for symbol addresses on old kernels.
/// CAP_NET_BIND_SERVICE is for a port below 1024. The last two are for files that flags name.
const STARTING: [Capability; 8] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_RESOURCE,
    Capability::CAP_SYSLOG,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
];

/// Clears the effective capabilities of the calling thread and of threads that it starts later.
/// When the process executes its program again, it gets back those that starting needs. Root gets
/// them by executing, so all of its capabilities are cleared. For other users they stay permitted.
///
/// # Errors
/// When the kernel refuses.
pub fn suspend(keep: Option<&Keep>, needs: &[Capability]) -> Result<()> {
    let asked: &[Capability] = match keep {
        Some(Keep::All) => return Ok(()),
        Some(Keep::Only(list)) => list,
        None => &[],
    };
    let carried: CapsHashSet = if restored_by_exec() {
        CapsHashSet::new()
    } else {
        STARTING.iter().chain(needs).chain(asked).copied().collect()
    };
    limit(&carried, &CapsHashSet::new(), Passing::Carried).context("failed to suspend capabilities")?;
    log::debug!("no effective capabilities; permitted: {carried:?}");
    Ok(())
}

/// Whether executing a program restores the dropped capabilities: it does for root, except with
/// SECBIT_NOROOT or no_new_privs.
pub fn restored_by_exec() -> bool {
    let no_root = capabilities_secure_bits().is_ok_and(|bits| bits.contains(CapabilitiesSecureBits::NO_ROOT));
    geteuid().is_root() && !no_root && !no_new_privs().unwrap_or(false)
}

/// Drops the capabilities of the calling thread and of threads that it starts later for good,
/// except `keep`. By default it keeps `needs` and what reading the maps of `parts` needs.
///
/// # Errors
/// When the kernel refuses.
pub fn drop(keep: Option<&Keep>, needs: &[Capability], parts: &[Part]) -> Result<()> {
    let keep: CapsHashSet = match keep {
        Some(Keep::All) => return Ok(()),
        Some(Keep::Only(list)) => list.iter().copied().collect(),
        None => needed(parts)?.into_iter().chain(needs.iter().copied()).collect(),
    };
    restrict(&keep).context("failed to drop capabilities")?;
    log::debug!("kept capabilities: {keep:?}");
    Ok(())
}

/// Drops all capabilities of the calling thread except `keep` for good. For threads that are started
/// before [`drop`].
///
/// # Errors
/// When the kernel refuses.
pub fn keep_only(keep: &[Capability]) -> Result<()> {
    restrict(&keep.iter().copied().collect()).context("failed to drop capabilities")
}

/// Before 5.19, bpf(2) requires CAP_BPF even to read a map or a program's statistics by an open
/// descriptor, if unprivileged eBPF is disabled. A thread without capabilities tests this.
fn needed(parts: &[Part]) -> Result<CapsHashSet> {
    let readable = thread::scope(|scope| {
        let sources: Vec<_> = parts.iter().map(|part| (&part.live.maps, &part.programs)).collect();
        let bare = scope.spawn(move || -> Result<bool> {
            restrict(&CapsHashSet::new())?;
            // A part may have maps that are never read so, such as ring buffers.
            Ok(sources
                .iter()
                .all(|(maps, programs)| maps.readable() && programs.iter().all(Program::is_readable)))
        });
        bare.join().map_err(|_| anyhow::anyhow!("the thread that tests reading maps died"))?
    })?;
    Ok(if readable { CapsHashSet::new() } else { [Capability::CAP_BPF].into() })
}

fn restrict(keep: &CapsHashSet) -> Result<()> {
    limit(keep, keep, Passing::None)
}

/// The capabilities that an executed program gets.
#[derive(PartialEq, Eq)]
enum Passing {
    None,
    /// The inheritable and ambient capabilities that stay permitted.
    Carried,
}

/// Reduces the permitted and effective capabilities.
fn limit(permitted: &CapsHashSet, effective: &CapsHashSet, passing: Passing) -> Result<()> {
    let both = |set, of: &CapsHashSet| -> Result<CapsHashSet> {
        Ok(caps::read(None, set)?.intersection(of).copied().collect())
    };
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        let changed = match passing {
            Passing::None => caps::clear(None, set).map_err(Into::into),
            Passing::Carried => both(set, permitted).and_then(|left| Ok(caps::set(None, set, &left)?)),
        };
        // The seccomp filters of some sandboxes do not know ambient capabilities: do not fail.
        if let Err(error) = changed {
            log::debug!("{set:?} capabilities: {error}");
        }
    }
    caps::set(None, CapSet::Effective, &both(CapSet::Permitted, effective)?)?;
    caps::set(None, CapSet::Permitted, &both(CapSet::Permitted, permitted)?)?;
    Ok(())
}
