// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps the cgroups whose path matches in a map, so that a program asks for its own cgroup with one
//! lookup.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, Object};
use log::warn;

use super::observer::Observer;
use crate::config::{CgroupIdMap, CgroupMapKind};
use crate::steps::regexp::Pattern;

/// Value of a cgroup in the map.
const PRESENT: [u8; 8] = 1u64.to_ne_bytes();

/// The map of a config's `cgroup_id_map`.
#[derive(Debug)]
pub struct GroupMap {
    patterns: Vec<Pattern>,
    kind: CgroupMapKind,
    map: MapHandle,
    inside: BTreeSet<u64>,
    /// Those that found no room.
    waiting: BTreeMap<u64, PathBuf>,
    /// Whether it was logged that a cgroup is left out.
    is_told: bool,
}

impl GroupMap {
    /// The map that `spec` names.
    ///
    /// # Errors
    /// When a pattern is invalid or `object` has no such map.
    pub fn new(spec: &CgroupIdMap, object: &Object) -> Result<Self> {
        let pattern = |pattern: &String| {
            Pattern::new(pattern).map_err(|why| anyhow!("cgroup_id_map at line {}: {why}", spec.line))
        };
        let map = object.maps().find(|map| map.name().to_string_lossy() == spec.map);
        let map = map.with_context(|| format!("cgroup_id_map: the object has no map `{}`", spec.map))?;
        Ok(Self {
            patterns: spec.regexps.iter().map(pattern).collect::<Result<_>>()?,
            kind: spec.kind,
            map: MapHandle::try_from(&map).context("failed to copy a map descriptor")?,
            inside: BTreeSet::new(),
            waiting: BTreeMap::new(),
            is_told: false,
        })
    }

    /// Puts a cgroup into the map. False: there is no room.
    fn insert(&mut self, id: u64, path: &Path) -> bool {
        let result = match self.kind {
            CgroupMapKind::Hash => self.map.update(&id.to_ne_bytes(), &PRESENT, MapFlags::ANY),
            CgroupMapKind::CgrpStorage => {
                let folder = File::open(path).ok();
                // Else it is gone, and another may have its path.
                let is_same = |folder: &File| folder.metadata().is_ok_and(|data| data.ino() == id);
                let Some(folder) = folder.filter(is_same) else { return true };
                self.map.update(&folder.as_raw_fd().to_ne_bytes(), &PRESENT, MapFlags::ANY)
            }
        };
        let Err(error) = result else {
            self.inside.insert(id);
            return true;
        };
        let is_full = error.kind() == ErrorKind::TooBig;
        if !self.is_told && path.exists() {
            self.is_told = true;
            let why = if is_full {
                anyhow!("the map is full: raise its max_entries")
            } else {
                anyhow!("{error:#}")
            };
            warn!("cgroup_id_map: {} is left out, as may be others: {why}", path.display());
        }
        !is_full
    }
}

impl Observer for GroupMap {
    fn came(&mut self, id: u64, path: &Path) {
        let bytes = path.as_os_str().as_bytes();
        if self.patterns.iter().any(|pattern| pattern.matches(bytes)) && !self.insert(id, path) {
            self.waiting.insert(id, path.to_owned());
        }
    }

    fn went(&mut self, id: u64, path: &Path) {
        self.waiting.remove(&id);
        // The kernel removes the storage of a cgroup itself.
        if !self.inside.remove(&id) || self.kind == CgroupMapKind::CgrpStorage {
            return;
        }
        if let Err(error) = self.map.delete(&id.to_ne_bytes())
            && error.kind() != ErrorKind::NotFound
        {
            warn!("cgroup_id_map: failed to remove {}: {error:#}", path.display());
        }
        while let Some((id, path)) = self.waiting.pop_first() {
            if !self.insert(id, &path) {
                self.waiting.insert(id, path);
                break;
            }
        }
    }
}
