// SPDX-License-Identifier: MIT OR Apache-2.0
//! The thread that watches cgroups.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use caps::Capability;
use common::process::privileges;
use log::{error, warn};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::observer::Observer;
use super::tree::Tree;
use crate::steps::groups::Cgroups;

/// How often to walk over all cgroups for maps if they cannot be watched. Names need no such walks:
/// they are searched for when they are asked for.
const INTERVAL: Duration = Duration::from_secs(5);

/// Tells observers of cgroups that come and go, until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    tree: Arc<Mutex<Tree>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches the cgroups below `root`, and tells `names` of them. `has_maps`: observers that write to
    /// maps will come.
    ///
    /// # Errors
    /// When the kernel refuses a thread or a descriptor.
    pub fn start(root: &Path, names: &Arc<Cgroups>, has_maps: bool) -> Result<Self> {
        let mut tree = Tree::new(root);
        tree.observe(Box::new(Arc::clone(names)));
        let ready = tree.descriptor().context("failed to copy a descriptor")?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("failed to create an eventfd")?);
        let tree = Arc::new(Mutex::new(tree));
        let (watched, until) = (Arc::clone(&tree), Arc::clone(&stop));
        let run = move || {
            // Writing to a map takes CAP_BPF where unprivileged eBPF is disabled.
            let keep: &[Capability] = if has_maps { &[Capability::CAP_BPF] } else { &[] };
            if let Err(error) = privileges::keep_only(keep) {
                warn!("the thread that watches control groups: {error:#}");
            }
            watch(&watched, ready, &until, has_maps);
        };
        let thread = thread::Builder::new().name("cgroups".to_owned()).stack_size(256 << 10).spawn(run);
        let thread = thread.context("failed to start the thread that watches control groups")?;
        Ok(Self { tree, stop, thread: Some(thread) })
    }

    /// Tells `observer` of all cgroups, and of changes from now on.
    pub fn observe(&self, observer: Box<dyn Observer>) {
        lock(&self.tree).observe(observer);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let told = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            // The thread does not panic; if it did, there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}

fn lock(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps observers up to date until `stop` is written. `ready`: is readable when there are changes.
fn watch(tree: &Mutex<Tree>, mut ready: Option<OwnedFd>, stop: &OwnedFd, has_maps: bool) {
    while ready.is_some() || has_maps {
        match wait(ready.as_ref(), stop) {
            Ok(true) | Err(Errno::INTR) => {}
            Ok(false) => return,
            Err(error) => {
                error!("failed to wait for control groups: {error}");
                return;
            }
        }
        let mut tree = lock(tree);
        tree.catch_up();
        if !tree.is_watched() {
            ready = None;
        }
    }
}

/// Waits until there are changes, or for the interval if nothing tells of them. False: `stop` was
/// written.
fn wait(ready: Option<&OwnedFd>, stop: &OwnedFd) -> rustix::io::Result<bool> {
    let limit = match ready {
        Some(_) => None,
        None => Some(Timespec { tv_sec: INTERVAL.as_secs().cast_signed(), tv_nsec: 0 }),
    };
    let stop = PollFd::new(stop, PollFlags::IN);
    let mut fds: Vec<PollFd<'_>> =
        std::iter::once(stop).chain(ready.map(|fd| PollFd::new(fd, PollFlags::IN))).collect();
    poll(&mut fds, limit.as_ref())?;
    Ok(fds[0].revents().is_empty())
}
