// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of network interfaces and block devices, by number.
//!
//! Numbers are given again to other devices, so names are asked for again after a second. A name
//! stays when its device goes, until another device has the number: the series of the one that went
//! keep their labels.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::netdevice::index_to_name_inlined;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// How long an answer is taken for true.
const FRESH: Duration = Duration::from_secs(1);

/// Most devices that are remembered. When there are more, all are asked for again.
const REMEMBERED: usize = 4096;

/// The network interfaces of the network namespace in which this was made.
#[derive(Debug)]
pub struct Interfaces {
    ask: Ask,
    known: Mutex<BTreeMap<u32, Interface>>,
}

/// Where the names of interfaces come from.
#[derive(Debug)]
enum Ask {
    /// A socket: it belongs to its network namespace for good.
    Kernel(OwnedFd),
    /// Nothing: there is no socket.
    Nobody,
    #[cfg(test)]
    Made(Mutex<BTreeMap<u32, &'static str>>),
}

#[derive(Debug)]
struct Interface {
    name: Option<Box<str>>,
    asked: Instant,
}

impl Interfaces {
    /// The interfaces of this process's network namespace.
    pub fn new() -> Self {
        let ask = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        if let Err(error) = &ask {
            log::warn!("cannot ask for names of network interfaces: {error}");
        }
        Self { ask: ask.map_or(Ask::Nobody, Ask::Kernel), known: Mutex::default() }
    }

    /// The name of an interface.
    pub fn name(&self, index: u32) -> Option<String> {
        self.name_at(index, Instant::now())
    }

    fn name_at(&self, index: u32, now: Instant) -> Option<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.get(&index).filter(|interface| now.duration_since(interface.asked) < FRESH);
        if fresh.is_none() {
            let name = self.ask.name(index).or_else(|| known.remove(&index)?.name);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(index, Interface { name, asked: now });
        }
        known.get(&index)?.name.as_deref().map(str::to_owned)
    }
}

impl Ask {
    fn name(&self, index: u32) -> Option<Box<str>> {
        match self {
            Self::Kernel(socket) => {
                index_to_name_inlined(socket, index).ok().map(|name| name.as_str().into())
            }
            Self::Nobody => None,
            #[cfg(test)]
            Self::Made(names) => names.lock().ok()?.get(&index).map(|name| (*name).into()),
        }
    }
}

/// The block devices of /proc/partitions.
#[derive(Debug)]
pub struct Disks {
    file: PathBuf,
    state: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    names: BTreeMap<(u32, u32), Box<[u8]>>,
    read: Option<Instant>,
}

impl Disks {
    /// The devices in `file`, in the format of /proc/partitions.
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), state: Mutex::default() }
    }

    /// The name of a device.
    pub fn name(&self, major: u32, minor: u32) -> Option<Vec<u8>> {
        self.name_at(major, minor, Instant::now())
    }

    fn name_at(&self, major: u32, minor: u32, now: Instant) -> Option<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.read.is_none_or(|last| now.duration_since(last) >= FRESH) {
            state.read = Some(now);
            self.read(&mut state);
        }
        state.names.get(&(major, minor)).map(|name| name.to_vec())
    }

    fn read(&self, state: &mut Known) {
        let Ok(file) = File::open(&self.file) else { return };
        if state.names.len() >= REMEMBERED {
            state.names.clear();
        }
        for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            let words: Vec<&[u8]> =
                line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
            let &[major, minor, _, name] = words.as_slice() else { continue };
            let number = |word| std::str::from_utf8(word).ok()?.parse::<u32>().ok();
            if let (Some(major), Some(minor)) = (number(major), number(minor)) {
                state.names.insert((major, minor), name.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::scratch::Scratch;

    #[test]
    fn interfaces_are_those_of_this_namespace() {
        let interfaces = Interfaces::new();
        assert_eq!(interfaces.name(1).as_deref(), Some("lo"));
        assert_eq!(interfaces.name(u32::MAX), None);
        assert_eq!(interfaces.name(0), None);
    }

    #[test]
    fn names_of_interfaces_are_asked_for_again() {
        let made = Mutex::new(BTreeMap::from([(2, "eth0")]));
        let interfaces = Interfaces { ask: Ask::Made(made), known: Mutex::default() };
        let start = Instant::now();
        let name = |index, seconds| interfaces.name_at(index, start + Duration::from_secs(seconds));
        let set = |names: &[(u32, &'static str)]| {
            let Ask::Made(made) = &interfaces.ask else { panic!("made above") };
            *made.lock().unwrap() = names.iter().copied().collect();
        };
        assert_eq!((name(2, 0).as_deref(), name(3, 0)), (Some("eth0"), None));
        set(&[(2, "lan"), (3, "wg0")]);
        assert_eq!((name(2, 0).as_deref(), name(3, 0)), (Some("eth0"), None), "asked a moment ago");
        assert_eq!((name(2, 1).as_deref(), name(3, 1).as_deref()), (Some("lan"), Some("wg0")));
        set(&[]);
        assert_eq!(name(2, 5).as_deref(), Some("lan"), "the name stays");
        for index in 0..2 * REMEMBERED as u32 {
            name(index, 6);
        }
        assert!(interfaces.known.lock().unwrap().len() <= REMEMBERED);
    }

    #[test]
    fn disks_are_read_again() {
        let folder = Scratch::new("disks");
        let header = "major minor  #blocks  name\n\n";
        let file = folder.write("partitions", &format!("{header} 259        0  500107608 nvme0n1\n"));
        let (disks, start) = (Disks::new(&file), Instant::now());
        let name = |major, minor, seconds| {
            let name = disks.name_at(major, minor, start + Duration::from_secs(seconds));
            name.map(|name| String::from_utf8(name).unwrap())
        };
        assert_eq!((name(259, 0, 0).as_deref(), name(8, 0, 0)), (Some("nvme0n1"), None));
        folder.write("partitions", &format!("{header}   8  0  1 sda\n 8 1 sdb\nx y z w\n 8 2 1 c d e\n"));
        assert_eq!(name(8, 0, 0), None, "read a moment ago");
        assert_eq!(name(8, 0, 1).as_deref(), Some("sda"));
        assert_eq!(name(259, 0, 1).as_deref(), Some("nvme0n1"), "the name stays");
        assert_eq!([name(8, 1, 1), name(8, 2, 1)], [None, None]);
        assert_eq!(Disks::new(Path::new("/nonexistent")).name(8, 0), None);
    }
}
