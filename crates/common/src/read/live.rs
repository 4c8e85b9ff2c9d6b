// SPDX-License-Identifier: MIT OR Apache-2.0
//! An object in the kernel: its maps, its iterators, and which probes are attached.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::read::layout::{Contents, Layouts, number};
use crate::read::maps::{LiveMaps, MapSource};

/// A loaded BPF object, as exporters use it.
#[derive(Debug, Default)]
pub struct Live {
    /// Its maps.
    pub maps: LiveMaps,
    /// Their layouts.
    pub layouts: Layouts,
    /// Links of iterators, by program name.
    pub iterators: BTreeMap<String, OwnedFd>,
    /// Names of the probes that are attached.
    pub probes: Mutex<BTreeSet<String>>,
}

impl Live {
    /// Whether the probe of that name is attached.
    pub fn has(&self, probe: &str) -> bool {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).contains(probe)
    }

    /// Whether any probe is attached.
    pub fn has_probes(&self) -> bool {
        !self.probes.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Runs the iterator `program` and returns its output; None if it is not attached.
    ///
    /// # Errors
    /// When the kernel refuses to run the iterator.
    pub fn iterate(&self, program: &str) -> Result<Option<Vec<u8>>> {
        let Some(link) = self.iterators.get(program) else { return Ok(None) };
        // SAFETY: a system call on a descriptor that is open.
        let fd = unsafe { libbpf_sys::bpf_iter_create(link.as_raw_fd()) };
        if fd < 0 {
            let error = io::Error::from_raw_os_error(-fd);
            return Err(error).with_context(|| format!("failed to run iterator `{program}`"));
        }
        // SAFETY: the descriptor is new and has no other owner.
        let mut file = unsafe { File::from_raw_fd(fd) };
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(|| format!("failed to read iterator `{program}`"))?;
        Ok(Some(text))
    }

    /// The sum of a member over all values of `map`.
    ///
    /// # Errors
    /// When there is no such map or member, or it cannot be read.
    pub fn total(&self, map: &str, member: &str) -> Result<u64> {
        let field = self.layouts.get(map).with_context(|| format!("no map `{map}`"))?.value.field(member)?;
        let mut total = 0u64;
        self.maps.for_each(map, &mut |_, value| total = total.wrapping_add(number(field.bytes(value))))?;
        Ok(total)
    }

    /// The bytes of a key of `map`, from its members.
    ///
    /// # Errors
    /// When there is no such map or member, or contents do not fit.
    pub fn key(&self, map: &str, members: &[(&str, Contents<'_>)]) -> Result<Vec<u8>> {
        self.layouts.get(map).with_context(|| format!("no map `{map}`"))?.key.bytes(members)
    }
}
