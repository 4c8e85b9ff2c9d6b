// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cgroups that there are, learned by inotify(7), or by walks where that is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Error;
use common::read::cgroups;
use log::warn;

use super::inotify::{Event, Inotify};
use super::observer::Observer;

/// The cgroups below a folder, and who is told of them.
pub struct Tree {
    root: Arc<Path>,
    /// None where it is refused.
    inotify: Option<Inotify>,
    groups: BTreeMap<Arc<Path>, Group>,
    observers: Vec<Box<dyn Observer>>,
    /// Number of walks.
    walks: u64,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    id: u64,
    watch: Option<i32>,
    /// The last walk that saw it, or the last one before it was created.
    walk: u64,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("root", &self.root).field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl Tree {
    /// The cgroups below `root`.
    pub fn new(root: &Path) -> Self {
        let mut tree = Self {
            root: root.into(),
            inotify: None,
            groups: BTreeMap::new(),
            observers: Vec::new(),
            walks: 0,
        };
        match Inotify::new() {
            Ok(inotify) => tree.inotify = Some(inotify),
            Err(error) => tree.cannot_watch(&error),
        }
        tree.walk();
        tree
    }

    /// Tells `observer` of all cgroups, and of changes from now on.
    pub fn observe(&mut self, mut observer: Box<dyn Observer>) {
        self.groups.iter().for_each(|(path, group)| observer.came(group.id, path));
        self.observers.push(observer);
    }

    /// A descriptor that is readable when there are changes. None where nothing tells of changes.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn descriptor(&self) -> io::Result<Option<OwnedFd>> {
        self.inotify.as_ref().map(Inotify::descriptor).transpose()
    }

    /// Whether the kernel tells of changes.
    pub fn is_watched(&self) -> bool {
        self.inotify.is_some()
    }

    /// Tells observers what changed since the last call.
    pub fn catch_up(&mut self) {
        loop {
            let Some(inotify) = &mut self.inotify else { return self.walk() };
            match inotify.events() {
                Ok(events) if events.is_empty() => return,
                Ok(events) => events.into_iter().for_each(|event| self.take(event)),
                Err(error) => self.cannot_watch(&error.into()),
            }
        }
    }

    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Came(path) => self.add(path.into()),
            Event::Went(path) => self.remove(&path),
            // Later events are about what the walk has seen already.
            Event::Missed => self.walk(),
        }
    }

    /// Drops the events that wait.
    #[cfg(test)]
    pub(super) fn drop_events(&mut self) {
        let inotify = self.inotify.as_mut().expect("it is watched");
        while !inotify.events().expect("it can be read").is_empty() {}
    }

    /// Walks over all cgroups.
    fn walk(&mut self) {
        self.walks += 1;
        self.add(Arc::clone(&self.root));
        let unseen = self.groups.iter().filter(|(_, group)| group.walk != self.walks);
        let gone: Vec<Arc<Path>> = unseen.map(|(path, _)| Arc::clone(path)).collect();
        gone.iter().for_each(|path| self.remove(path));
    }

    /// Adds a cgroup and those below it.
    fn add(&mut self, path: Arc<Path>) {
        let mut paths = vec![path];
        while let Some(path) = paths.pop() {
            // Tells of it before all else: it may be gone any moment, and has no name then.
            if !self.note(&path) {
                continue;
            }
            // First watch, then list: what is created in between is seen twice, not missed.
            self.watch(&path);
            paths.extend(below(&path));
        }
    }

    /// Notes a cgroup, and tells observers if it is new. False: there is none at this path any more.
    fn note(&mut self, path: &Arc<Path>) -> bool {
        let Ok(id) = fs::metadata(path).map(|data| data.ino()) else { return false };
        match self.groups.get_mut(path) {
            Some(known) if known.id == id => {
                known.walk = self.walks;
                return true;
            }
            Some(_) => self.remove(path),
            None => {}
        }
        self.observers.iter_mut().for_each(|observer| observer.came(id, path));
        self.groups.insert(Arc::clone(path), Group { id, watch: None, walk: self.walks });
        true
    }

    fn watch(&mut self, path: &Arc<Path>) {
        let (Some(inotify), Some(group)) = (&mut self.inotify, self.groups.get_mut(path)) else { return };
        if group.watch.is_none() {
            match inotify.watch(path) {
                Ok(watch) => group.watch = watch,
                Err(error) => self.cannot_watch(&error),
            }
        }
    }

    fn remove(&mut self, path: &Path) {
        let Some(group) = self.groups.remove(path) else { return };
        if let (Some(watch), Some(inotify)) = (group.watch, &mut self.inotify) {
            inotify.forget(watch);
        }
        self.observers.iter_mut().for_each(|observer| observer.went(group.id, path));
    }

    /// Walks from now on instead of waiting for events.
    pub(super) fn cannot_watch(&mut self, error: &Error) {
        warn!(
            "control groups cannot be watched and are searched for instead: those that are soon gone have no \
             name, and new ones are late in maps of cgroup_id_map: {error:#}"
        );
        self.inotify = None;
        self.groups.values_mut().for_each(|group| group.watch = None);
    }
}

/// The folders in a folder.
fn below(path: &Path) -> Vec<Arc<Path>> {
    // Most cgroups have none.
    if fs::metadata(path).is_ok_and(|data| cgroups::is_leaf(&data)) {
        return Vec::new();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path().into()).collect()
}
