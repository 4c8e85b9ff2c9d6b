// SPDX-License-Identifier: MIT OR Apache-2.0
//! Network namespaces. Generic netlink answers only for the namespace of the caller.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Directories in which `ip netns` and Docker keep named namespaces.
const FOLDERS: [&str; 2] = ["/run/netns", "/run/docker/netns"];

const OWN: &str = "/proc/self/ns/net";

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Inode number of its file: what the kernel calls `ns.inum`.
    pub inode: u32,
    /// Name; empty for the namespace of this process.
    pub name: String,
    /// Its file; None for the namespace of this process.
    path: Option<PathBuf>,
}

/// A directory of namespaces that this process may not list, because only the owner may read it or
/// a parent. Docker's is one.
#[derive(Debug)]
pub struct Refusal {
    /// The folder.
    pub folder: &'static str,
    /// Why.
    pub error: io::Error,
}

impl Namespace {
    /// The namespace of this process.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub fn own() -> Result<Self> {
        let inode = fs::metadata(OWN).with_context(|| format!("failed to read {OWN}"))?.ino();
        Ok(Self { inode: inode as u32, name: String::new(), path: None })
    }

    /// The namespace of this process first, then all named ones; and the directories that cannot be
    /// listed.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub fn all() -> Result<(Vec<Self>, Vec<Refusal>)> {
        let own = Self::own()?;
        let mut seen = BTreeSet::from([own.inode]);
        let (mut all, mut refusals) = (vec![own], Vec::new());
        for folder in FOLDERS {
            let entries = match fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound {
                        refusals.push(Refusal { folder, error });
                    }
                    continue;
                }
            };
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                // It is gone again, or access is denied.
                let Ok(data) = fs::metadata(&path) else { continue };
                let inode = data.ino() as u32;
                if seen.insert(inode) {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    all.push(Self { inode, name, path: Some(path) });
                }
            }
        }
        Ok((all, refusals))
    }

    /// A namespace for tests, which does not exist.
    #[cfg(test)]
    pub fn example(inode: u32, name: &str) -> Self {
        Self { inode, name: name.to_owned(), path: None }
    }

    /// Runs `work` in the namespace. Does not keep the namespace alive.
    ///
    /// # Errors
    /// When the namespace cannot be entered, which takes CAP_SYS_ADMIN, or when `work` fails.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Some(path) = &self.path else { return work() };
        let inside = || {
            let file = File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("failed to enter {} (it takes CAP_SYS_ADMIN)", path.display()))?;
            work()
        };
        // A thread that ends afterwards need not return to its old namespace.
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow!("a thread died"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_own_is_the_first_and_has_no_name() {
        let (all, _) = Namespace::all().expect("namespaces");
        assert_eq!(all[0], Namespace::own().expect("one"));
        assert_eq!(all[0].name, "");
        assert_eq!(all[0].within(|| Ok(7)).expect("no need to go anywhere"), 7);
    }
}
