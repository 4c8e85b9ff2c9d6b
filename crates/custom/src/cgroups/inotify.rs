// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folders that come and go in other folders, by inotify(7). It needs no privileges and works on every
//! kernel.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Most folders to watch. The kernel keeps about 1 kB for each, and this process their paths.
const MOST: usize = 100_000;

/// What happened in a watched folder.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A folder was made in it.
    Came(PathBuf),
    /// A folder in it was removed.
    Went(PathBuf),
    /// The kernel dropped events.
    Missed,
}

/// An instance of inotify and the folders that it watches.
#[derive(Debug)]
pub struct Inotify {
    instance: OwnedFd,
    folders: BTreeMap<i32, Arc<Path>>,
}

impl Inotify {
    /// An instance that watches nothing.
    ///
    /// # Errors
    /// When the kernel refuses; the error says what to do.
    pub fn new() -> Result<Self> {
        match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(instance) => Ok(Self { instance, folders: BTreeMap::new() }),
            Err(Errno::MFILE) => bail!("raise sysctl fs.inotify.max_user_instances"),
            Err(error) => Err(error.into()),
        }
    }

    /// A copy of the descriptor that is readable when events wait.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.instance.as_fd().try_clone_to_owned()
    }

    /// Watches a folder, and returns the number of the watch; None if the folder is gone or may not be
    /// read.
    ///
    /// # Errors
    /// When the kernel refuses more watches; the error says what to do.
    pub fn watch(&mut self, folder: &Arc<Path>) -> Result<Option<i32>> {
        let count = self.folders.len();
        if count >= MOST {
            bail!("there are more than {MOST}");
        }
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.instance, &**folder, flags) {
            Ok(watch) => {
                self.folders.insert(watch, Arc::clone(folder));
                Ok(Some(watch))
            }
            Err(Errno::NOENT | Errno::ACCESS) => Ok(None),
            Err(Errno::NOSPC) => {
                Err(anyhow!("raise sysctl fs.inotify.max_user_watches, which was reached at {count}"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends a watch. The kernel keeps that of a cgroup that was removed.
    pub fn forget(&mut self, watch: i32) {
        // It fails where the kernel did end the watch.
        let _ = inotify::remove_watch(&self.instance, watch);
        self.folders.remove(&watch);
    }

    /// Events that wait: those of one read(2), so that the caller looks soon at what may soon be gone.
    ///
    /// # Errors
    /// When the kernel refuses to read.
    pub fn events(&mut self) -> io::Result<Vec<Event>> {
        // The longest event has a name of 255 bytes.
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.instance, &mut buffer);
        let mut events = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => events.extend(Self::event(&mut self.folders, &event)),
                Err(Errno::AGAIN) => return Ok(events),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if reader.is_buffer_empty() {
                return Ok(events);
            }
        }
    }

    fn event(folders: &mut BTreeMap<i32, Arc<Path>>, event: &inotify::Event<'_>) -> Option<Event> {
        let flags = event.events();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(Event::Missed);
        }
        if flags.contains(ReadFlags::IGNORED) {
            folders.remove(&event.wd());
        }
        let name = OsStr::from_bytes(event.file_name()?.to_bytes());
        let path = folders.get(&event.wd())?.join(name);
        if flags.contains(ReadFlags::CREATE | ReadFlags::ISDIR) {
            Some(Event::Came(path))
        } else if flags.contains(ReadFlags::DELETE | ReadFlags::ISDIR) {
            Some(Event::Went(path))
        } else {
            None
        }
    }
}
