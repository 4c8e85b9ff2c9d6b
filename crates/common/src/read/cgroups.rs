// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cgroups (version 2): their paths, and whether maps have room for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Result;

use crate::read::live::Live;

/// Mount points of the cgroup2 file system: beside version 1, and alone.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// Label of cgroups that were removed before their path was read.
const GONE: &str = "gone";

/// The id of the root cgroup.
const ROOT: u64 = 1;

/// Paths by id. The id is the inode number of the cgroup's directory (67c0496e87d1 "kernfs: convert
/// kernfs_node->id from union kernfs_node_id to u64", 5.5).
#[derive(Debug, Default)]
pub struct Paths {
    paths: BTreeMap<u64, String>,
    /// Ids used since the last cleanup.
    used: BTreeSet<u64>,
}

impl Paths {
    /// The path of a cgroup. It stays known after the removal of the cgroup while it is used: ids
    /// are not reused.
    pub fn path(&mut self, id: u64) -> String {
        if !self.paths.contains_key(&id) {
            self.find();
        }
        self.used.insert(id);
        self.paths.entry(id).or_insert_with(|| GONE.to_owned()).clone()
    }

    /// Forgets paths that were not used since the last call.
    pub fn forget_unused(&mut self) {
        let used = mem::take(&mut self.used);
        self.paths.retain(|id, _| used.contains(id));
    }

    /// Reads the paths of all current cgroups.
    fn find(&mut self) {
        let Some(root) = mount() else { return };
        walk(root, |id, folder| {
            let path = folder.strip_prefix(root).unwrap_or(folder);
            self.paths.insert(id, format!("/{}", path.display()));
            true
        });
    }
}

/// Where the cgroup2 file system is mounted.
pub fn mount() -> Option<&'static Path> {
    MOUNTS.iter().map(Path::new).find(|root| root.join("cgroup.procs").exists())
}

/// Calls `found` with the id and the folder of each cgroup from `root` down, until it returns false.
pub fn walk(root: &Path, mut found: impl FnMut(u64, &Path) -> bool) {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        // The cgroup was removed during the walk: leave it out.
        let Ok(data) = fs::metadata(&folder) else { continue };
        if !found(data.ino(), &folder) {
            return;
        }
        if is_leaf(&data) {
            continue;
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(inner.map(|entry| entry.path()));
    }
}

/// Whether a folder has no folders in it, by its number of links: two of its own, and one for each of
/// these. To read the folder, with all files of the cgroup, takes several times as long. File systems that do
/// not count links have 1.
pub fn is_leaf(folder: &Metadata) -> bool {
    folder.nlink() == 2
}

/// The ids of all cgroups, from the root down.
pub fn ids() -> BTreeSet<u64> {
    let mut paths = Paths::default();
    paths.find();
    paths.paths.into_keys().collect()
}

/// All current cgroups. None inside a container, where only its own are visible: removed ones cannot be told
/// from hidden ones there.
pub fn all() -> Option<BTreeSet<u64>> {
    Some(ids()).filter(|ids| ids.contains(&ROOT))
}

/// Notices that maps are full.
#[derive(Debug, Default)]
pub struct Folds {
    /// Folded events at the last call.
    seen: u64,
}

impl Folds {
    /// Whether events were folded since the last call.
    ///
    /// # Errors
    /// When the number cannot be read.
    pub fn grew(&mut self, live: &Live) -> Result<bool> {
        let folded = live.total("events", "folded")?;
        Ok(mem::replace(&mut self.seen, folded) != folded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_nobody_asks_for_are_forgotten() {
        let mut paths = Paths::default();
        paths.paths.extend([(u64::MAX - 1, "/a".to_owned()), (u64::MAX - 2, "/b".to_owned())]);
        assert_eq!(paths.path(u64::MAX - 1), "/a");
        paths.forget_unused();
        assert_eq!(paths.path(u64::MAX - 1), "/a");
        assert_eq!(paths.path(u64::MAX - 2), GONE);
        paths.forget_unused();
        paths.forget_unused();
        assert!(paths.paths.is_empty());
    }
}
