// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeps the cgroups whose path matches in a map, so that a program asks for its own cgroup with one
//! lookup.
//!
//! New and removed cgroups are learned by inotify(7), which needs no privileges and works on every
//! kernel. Where it is refused, all cgroups are listed each [`INTERVAL`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, Object};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::config::{CgroupIdMap, CgroupMapKind};
use crate::steps::groups::Cgroups;
use crate::steps::regexp::Pattern;

/// How often to list all cgroups without inotify.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Value of a cgroup in the map.
const PRESENT: [u8; 8] = 1u64.to_ne_bytes();

/// The cgroups of a map.
#[derive(Debug)]
pub struct Watch {
    root: PathBuf,
    patterns: Vec<Pattern>,
    /// Is told of new cgroups, so that those that are soon gone have a name.
    names: Arc<Cgroups>,
    kind: CgroupMapKind,
    map: MapHandle,
    inotify: Option<OwnedFd>,
    /// All known cgroups.
    groups: BTreeMap<PathBuf, Group>,
    /// Paths by watch descriptor.
    watched: BTreeMap<i32, PathBuf>,
    /// Whether it was logged that the map takes no more cgroups.
    is_full: bool,
    /// Whether cgroups were removed from a full map, so that others may go into it.
    has_room: bool,
}

/// An event of inotify(7).
struct Event {
    watch: i32,
    flags: ReadFlags,
    name: OsString,
}

/// The events that are ready.
fn events(inotify: &OwnedFd) -> io::Result<Vec<Event>> {
    // The longest event has a name of 255 bytes.
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(inotify, &mut buffer);
    let mut events = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => events.push(Event {
                watch: event.wd(),
                flags: event.events(),
                name: event
                    .file_name()
                    .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned())
                    .unwrap_or_default(),
            }),
            Err(Errno::AGAIN) => return Ok(events),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Group {
    id: u64,
    watch: Option<i32>,
    is_in_map: bool,
}

impl Watch {
    /// Puts all current cgroups whose path matches into the map of `spec`.
    ///
    /// # Errors
    /// When a pattern is invalid or `object` has no such map.
    pub fn new(spec: &CgroupIdMap, object: &Object, root: &Path, names: &Arc<Cgroups>) -> Result<Self> {
        let pattern = |pattern: &String| {
            Pattern::new(pattern).map_err(|why| anyhow!("cgroup_id_map at line {}: {why}", spec.line))
        };
        let map = object.maps().find(|map| map.name().to_string_lossy() == spec.map);
        let map = map.with_context(|| format!("cgroup_id_map: the object has no map `{}`", spec.map))?;
        let mut watch = Self {
            root: root.to_owned(),
            patterns: spec.regexps.iter().map(pattern).collect::<Result<_>>()?,
            names: Arc::clone(names),
            kind: spec.kind,
            map: MapHandle::try_from(&map).context("failed to copy a map descriptor")?,
            inotify: None,
            groups: BTreeMap::new(),
            watched: BTreeMap::new(),
            is_full: false,
            has_room: false,
        };
        match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(inotify) => watch.inotify = Some(inotify),
            Err(error) => watch.without_inotify(&error.into()),
        }
        watch.list();
        Ok(watch)
    }

    /// Waits until cgroups were created or removed, at most for `limit`. Without inotify it always
    /// waits so long.
    ///
    /// # Errors
    /// When poll(2) fails.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut events = self.inotify.iter().map(|inotify| PollFd::new(inotify, PollFlags::IN));
        let result = match events.next() {
            Some(event) => poll(&mut [event], Some(&limit)),
            None => poll(&mut [], Some(&limit)),
        };
        match result {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Updates the map: call it after each [`Watch::wait`], and at least each [`INTERVAL`].
    pub fn run_once(&mut self) {
        let Some(events) = self.inotify.as_ref().map(events) else { return self.list() };
        let events = match events {
            Ok(events) => events,
            Err(error) => {
                self.without_inotify(&error);
                return self.list();
            }
        };
        for Event { watch, flags, name } in events {
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                // Later events are about what the list has already.
                self.list();
                continue;
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.watched.remove(&watch);
            }
            let Some(path) = self.watched.get(&watch).map(|folder| folder.join(&name)) else { continue };
            if flags.contains(ReadFlags::CREATE | ReadFlags::ISDIR) {
                self.add(path, &mut BTreeSet::new());
            } else if flags.contains(ReadFlags::DELETE | ReadFlags::ISDIR) {
                self.remove(&path);
            }
        }
        if mem::take(&mut self.has_room) {
            self.list();
        }
    }

    /// Lists cgroups from now on instead of waiting for events.
    pub fn without_inotify(&mut self, error: &io::Error) {
        log::warn!(
            "cgroup_id_map: inotify is refused, so new cgroups are found only each {} s: {error}",
            INTERVAL.as_secs()
        );
        self.inotify = None;
        self.watched.clear();
    }

    /// Lists all cgroups.
    fn list(&mut self) {
        let mut seen = BTreeSet::new();
        self.add(self.root.clone(), &mut seen);
        let gone: Vec<PathBuf> = self.groups.keys().filter(|path| !seen.contains(*path)).cloned().collect();
        for path in gone {
            self.remove(&path);
        }
    }

    /// Adds a cgroup and those below it.
    fn add(&mut self, path: PathBuf, seen: &mut BTreeSet<PathBuf>) {
        let mut paths = vec![path];
        while let Some(path) = paths.pop() {
            // First watch, then list: what is created in between is seen twice, not missed.
            let watch = self.watch(&path);
            // Else it was removed meanwhile.
            let Ok(folder) = File::open(&path) else { continue };
            let Ok(id) = folder.metadata().map(|data| data.ino()) else { continue };
            if self.groups.get(&path).is_some_and(|known| known.id != id) {
                self.remove(&path);
            }
            let was_in_map = self.groups.get(&path).is_some_and(|known| known.is_in_map);
            let matches = || self.patterns.iter().any(|pattern| pattern.matches(path.as_os_str().as_bytes()));
            let is_in_map = was_in_map || matches() && self.insert(id, &folder, &path);
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    paths.push(entry.path());
                }
            }
            self.names.saw(id, &path);
            self.groups.insert(path.clone(), Group { id, watch, is_in_map });
            seen.insert(path);
        }
    }

    /// Watches a folder; None without inotify or if it was removed.
    fn watch(&mut self, path: &Path) -> Option<i32> {
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        match inotify::add_watch(self.inotify.as_ref()?, path, flags) {
            Ok(watch) => {
                self.watched.insert(watch, path.to_owned());
                Some(watch)
            }
            Err(Errno::NOENT) => None,
            // Too many watches, most likely.
            Err(error) => {
                self.without_inotify(&error.into());
                None
            }
        }
    }

    fn insert(&mut self, id: u64, folder: &File, path: &Path) -> bool {
        let result = match self.kind {
            CgroupMapKind::Hash => self.map.update(&id.to_ne_bytes(), &PRESENT, MapFlags::ANY),
            CgroupMapKind::CgrpStorage => {
                self.map.update(&folder.as_fd().as_raw_fd().to_ne_bytes(), &PRESENT, MapFlags::ANY)
            }
        };
        if let Err(error) = &result
            && path.exists()
            && !self.is_full
        {
            self.is_full = true;
            let full = error.kind() == ErrorKind::TooBig;
            let why =
                if full { anyhow!("the map is full: raise its max_entries") } else { anyhow!("{error:#}") };
            log::warn!("cgroup_id_map: {} is left out, as may be others: {why}", path.display());
        }
        result.is_ok()
    }

    fn remove(&mut self, path: &Path) {
        let Some(group) = self.groups.remove(path) else { return };
        if let (Some(watch), Some(inotify)) = (group.watch, &self.inotify) {
            // The kernel keeps the watch of a removed cgroup.
            let _ = inotify::remove_watch(inotify, watch);
            self.watched.remove(&watch);
        }
        // The kernel removes the storage of a cgroup itself.
        if !group.is_in_map || self.kind == CgroupMapKind::CgrpStorage {
            return;
        }
        self.has_room = self.is_full;
        if let Err(error) = self.map.delete(&group.id.to_ne_bytes())
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("cgroup_id_map: failed to remove {}: {error:#}", path.display());
        }
    }
}
