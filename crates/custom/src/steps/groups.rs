// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths of cgroups, by id.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::read::cgroups;
use common::read::containers::places;

/// Shortest time between two walks.
const WALK: Duration = Duration::from_secs(1);

/// How long the path of a removed cgroup stays known: long enough for the last scrapes of its entries.
const KEPT: Duration = Duration::from_secs(600);

/// Most cgroups that one walk looks at.
const WALKED: usize = 100_000;

/// Most removed cgroups whose path stays known.
const GONE: usize = 10_000;

/// Most cgroups that are noted as removed before the oldest are forgotten.
const LOST: usize = 10_000;

/// Most ids that are remembered as those of nothing.
const NAMELESS: usize = 100_000;

/// The cgroups of version 2. An id is the inode number of the cgroup's folder, and is not reused.
#[derive(Debug)]
pub struct Cgroups {
    root: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<u64, Group>,
    walked: Option<Instant>,
    /// Cgroups noted as removed since the oldest were forgotten.
    lost: usize,
    /// Ids that were unknown since the last walk.
    asked: BTreeSet<u64>,
    /// Ids that were asked for and then not found by a walk: no later walk will find them.
    nameless: BTreeSet<u64>,
}

#[derive(Debug)]
struct Group {
    path: Box<[u8]>,
    /// When it was found to be removed.
    gone: Option<Instant>,
}

impl Cgroups {
    /// The cgroups in `root`, the mount point of the cgroup2 file system; None if it is not mounted.
    pub fn new(root: Option<&Path>) -> Self {
        Self { root: root.map(Path::to_owned), state: Mutex::default() }
    }

    /// The folder in which they are.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The absolute path of a cgroup's folder. None for those that were created and removed unseen.
    pub fn path(&self, id: u64) -> Option<Vec<u8>> {
        self.path_at(id, Instant::now())
    }

    fn path_at(&self, id: u64, now: Instant) -> Option<Vec<u8>> {
        let mut state = self.lock();
        if !state.groups.contains_key(&id) && !state.nameless.contains(&id) {
            if state.asked.len() < NAMELESS {
                state.asked.insert(id);
            }
            if state.walked.is_none_or(|last| now.duration_since(last) >= WALK) {
                self.walk(&mut state, now);
            }
        }
        state.groups.get(&id).map(|group| group.path.to_vec())
    }

    /// Walks over all cgroups, and calls `each` with the id and the path of those that exist.
    #[cfg(test)]
    pub fn walk_all(&self, mut each: impl FnMut(u64, &[u8])) {
        let mut state = self.lock();
        self.walk(&mut state, Instant::now());
        for (id, group) in state.groups.iter().filter(|(_, group)| group.gone.is_none()) {
            each(*id, &group.path);
        }
    }

    /// Notes a cgroup that was created.
    pub fn saw(&self, id: u64, folder: &Path) {
        let mut state = self.lock();
        state.groups.insert(id, Group { path: bytes(folder), gone: None });
    }

    /// Notes that a cgroup was removed.
    pub fn lost(&self, id: u64) {
        let (mut state, now) = (self.lock(), Instant::now());
        let Some(group) = state.groups.get_mut(&id) else { return };
        group.gone.get_or_insert(now);
        state.lost += 1;
        if state.lost > LOST {
            state.forget(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn walk(&self, state: &mut State, now: Instant) {
        state.walked = Some(now);
        let asked = mem::take(&mut state.asked);
        let Some(root) = &self.root else { return };
        let mut found = BTreeMap::new();
        cgroups::walk(root, |id, folder| {
            found.insert(id, bytes(folder));
            found.len() < WALKED
        });
        // A walk that was cut short says nothing about those that it did not see.
        if found.len() >= WALKED {
            if state.groups.len() > 2 * WALKED {
                state.groups.clear();
            }
        } else {
            for (_, group) in state.groups.iter_mut().filter(|(id, _)| !found.contains_key(id)) {
                group.gone.get_or_insert(now);
            }
            if state.nameless.len() >= NAMELESS {
                state.nameless.clear();
            }
            state.nameless.extend(asked.into_iter().filter(|id| !found.contains_key(id)));
        }
        for (id, path) in found {
            match state.groups.entry(id) {
                Entry::Vacant(place) => {
                    place.insert(Group { path, gone: None });
                }
                Entry::Occupied(mut place) => {
                    let group = place.get_mut();
                    group.gone = None;
                    if group.path != path {
                        group.path = path;
                    }
                }
            }
        }
        state.forget(now);
    }
}

impl State {
    /// Forgets those that were removed long ago, and those that were removed first if there are too many.
    fn forget(&mut self, now: Instant) {
        self.lost = 0;
        self.groups.retain(|_, group| group.gone.is_none_or(|gone| now.duration_since(gone) < KEPT));
        let mut gone: Vec<(Instant, u64)> =
            self.groups.iter().filter_map(|(id, group)| Some((group.gone?, *id))).collect();
        if let Some(surplus) = gone.len().checked_sub(GONE) {
            gone.sort_unstable();
            for (_, id) in &gone[..surplus] {
                self.groups.remove(id);
            }
        }
    }
}

fn bytes(folder: &Path) -> Box<[u8]> {
    folder.as_os_str().as_bytes().into()
}

/// The id of the container that a cgroup belongs to. In a container that has others in it, that of the inner
/// one.
pub fn container(path: &[u8]) -> Option<String> {
    let path = String::from_utf8_lossy(path);
    places(&path).iter().rev().find_map(|place| place.container.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::steps::scratch::Scratch;

    fn id(folder: &Path) -> u64 {
        fs::metadata(folder).unwrap().ino()
    }

    #[test]
    fn paths_are_absolute() {
        let root = Scratch::new("groups");
        let inner = root.folder("a.slice/b.service");
        let cgroups = Cgroups::new(Some(root.path()));
        for folder in [root.path(), &inner] {
            assert_eq!(cgroups.path(id(folder)), Some(folder.as_os_str().as_bytes().to_vec()));
        }
        assert_eq!(cgroups.path(u64::MAX), None);
        assert_eq!(Cgroups::new(None).path(1), None);
    }

    #[test]
    fn unknown_ids_cause_one_walk_in_a_second() {
        let root = Scratch::new("walks");
        let (cgroups, start) = (Cgroups::new(Some(root.path())), Instant::now());
        assert_eq!(cgroups.path_at(u64::MAX, start), None);
        let group = id(&root.folder("new"));
        assert_eq!(cgroups.path_at(group, start + WALK / 2), None);
        assert!(cgroups.path_at(group, start + WALK).is_some());
    }

    #[test]
    fn ids_that_a_walk_did_not_find_cause_no_more_walks() {
        let root = Scratch::new("nameless");
        let (cgroups, start) = (Cgroups::new(Some(root.path())), Instant::now());
        let walked = |id: u64, after: Duration| {
            assert_eq!(cgroups.path_at(id, start + after), None);
            cgroups.lock().walked == Some(start + after)
        };
        assert!(walked(u64::MAX, Duration::ZERO));
        assert!(!walked(u64::MAX - 1, WALK / 2), "too soon");
        assert!(!walked(u64::MAX, WALK), "it was not found");
        assert!(walked(u64::MAX - 1, WALK), "no walk has looked for it");
        assert!(!walked(u64::MAX - 1, 2 * WALK));
        cgroups.saw(u64::MAX, root.path());
        assert!(cgroups.path_at(u64::MAX, start).is_some(), "it is seen after all");
    }

    #[test]
    fn a_removed_cgroup_keeps_its_name_for_ten_minutes() {
        let root = Scratch::new("removed");
        let (cgroups, start) = (Cgroups::new(Some(root.path())), Instant::now());
        let group = root.folder("short");
        let number = id(&group);
        assert!(cgroups.path_at(number, start).is_some());
        fs::remove_dir(&group).unwrap();
        let look = |after: u64| {
            let now = start + Duration::from_secs(after);
            // An unknown id causes the walk.
            cgroups.path_at(u64::MAX - after, now);
            cgroups.path_at(number, now).is_some()
        };
        assert_eq!([look(5), look(600), look(604), look(605)], [true, true, true, false]);
    }

    #[test]
    fn cgroups_that_come_and_go_are_bounded() {
        let root = Scratch::new("bounded");
        let cgroups = Cgroups::new(Some(root.path()));
        for n in 0..3 * LOST as u64 {
            cgroups.saw(u64::MAX - n, &root.path().join(n.to_string()));
            cgroups.lost(u64::MAX - n);
            assert!(cgroups.lock().groups.len() <= GONE + LOST + 1);
        }
        assert!(cgroups.path(u64::MAX - 3 * LOST as u64 + 1).is_some(), "the last are known");
        let mut all = 0;
        cgroups.walk_all(|_, _| all += 1);
        assert_eq!((all, cgroups.lock().groups.len()), (1, GONE + 1));
    }

    #[test]
    fn the_container_of_a_cgroup_is_the_innermost() {
        let [outer, inner] = ["0123456789abcdef", "fedcba9876543210"].map(|digits| digits.repeat(4));
        let node = format!("/sys/fs/cgroup/docker/{outer}");
        assert_eq!(container(node.as_bytes()), Some(outer.clone()));
        let pod = format!("{node}/kubepods/pod{}", "a".repeat(32));
        assert_eq!(container(pod.as_bytes()), Some(outer));
        assert_eq!(container(format!("{pod}/{inner}/init.scope").as_bytes()), Some(inner.clone()));
        assert_eq!(container(&[b"/\xff.slice/docker/", inner.as_bytes()].concat()), Some(inner));
        assert_eq!(container(b"/sys/fs/cgroup/system.slice/ssh.service"), None);
    }
}
