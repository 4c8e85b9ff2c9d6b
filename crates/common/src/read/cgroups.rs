// SPDX-License-Identifier: MIT OR Apache-2.0
//! Control groups of version 2: what they are called, and the room of those that are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::read::layout::number;
use crate::read::live::Live;
use crate::read::maps::MapSource;

/// Where they are mounted, alone or beside those of version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// Label of those that were gone before anybody asked.
const GONE: &str = "gone";

/// The id of the root of all.
const ROOT: u64 = 1;

/// Paths by id, which is the inode number of a group's folder
/// (67c0496e87d1 "kernfs: convert kernfs_node->id from union kernfs_node_id to u64", 5.5).
#[derive(Debug, Default)]
pub struct Paths {
    paths: BTreeMap<u64, String>,
    /// Those that were asked for.
    used: BTreeSet<u64>,
}

impl Paths {
    /// A path stays known after its group is gone for as long as it is asked for: ids are not used
    /// again.
    pub fn path(&mut self, id: u64) -> String {
        if !self.paths.contains_key(&id) {
            self.find();
        }
        self.used.insert(id);
        self.paths.entry(id).or_insert_with(|| GONE.to_owned()).clone()
    }

    /// Forgets those that were not asked for since the last time.
    pub fn forget_unused(&mut self) {
        let used = mem::take(&mut self.used);
        self.paths.retain(|id, _| used.contains(id));
    }

    /// Learns about all groups that there are now.
    fn find(&mut self) {
        if let Some(root) = MOUNTS.iter().map(Path::new).find(|root| root.join("cgroup.procs").exists()) {
            self.walk(root, root.to_owned());
        }
    }

    fn walk(&mut self, root: &Path, folder: PathBuf) {
        // A group that goes meanwhile is one that is gone.
        let Ok(data) = fs::metadata(&folder) else { return };
        let path = folder.strip_prefix(root).unwrap_or(&folder);
        self.paths.insert(data.ino(), format!("/{}", path.display()));
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.walk(root, entry.path());
            }
        }
    }
}

/// The ids of all groups, from the root down.
pub fn ids() -> BTreeSet<u64> {
    let mut paths = Paths::default();
    paths.find();
    paths.paths.into_keys().collect()
}

/// Gives back the room of groups that are gone, when others need it.
#[derive(Debug, Default)]
pub struct Sweeper {
    /// How many events had been folded when it last looked.
    folded: u64,
}

impl Sweeper {
    /// Where events were folded since the last time: removes from maps the entries of groups that are
    /// gone, and returns all groups that there are. `maps` are names, and the members of keys that
    /// hold the group's id.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn sweep(&mut self, live: &Live, maps: &[(&str, &str)]) -> Result<BTreeSet<u64>> {
        let folded = live.total("events", "folded")?;
        if mem::replace(&mut self.folded, folded) == folded {
            return Ok(BTreeSet::new());
        }
        // Before the groups are: what comes meanwhile is not judged by them.
        let mut entries = Vec::new();
        for (map, member) in maps {
            let layout = live.layouts.get(*map).with_context(|| format!("no map `{map}`"))?;
            let place = layout.key.field(member)?;
            live.maps.for_each(map, &mut |key, _| {
                entries.push((*map, number(place.bytes(key)), key.to_owned()));
            })?;
        }
        let groups = ids();
        // From inside of a container only its own groups are seen: nobody knows which are gone.
        if groups.contains(&ROOT) {
            for (map, _, key) in entries.iter().filter(|(_, id, _)| *id != 0 && !groups.contains(id)) {
                live.maps.delete(map, key)?;
            }
        }
        Ok(groups)
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
