// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries that the programs made for peers and interfaces, and what userland tells the programs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use common::exposition::metric::Labels;
use common::read::decode::{OTHER, until_nul};
use common::read::layout::number;
use common::read::live::Live;
use common::read::maps::MapSource;

use crate::netlink::{Device, Key};

/// Maps with counters. Each has two shared entries.
pub const COUNTED: [&str; 4] = ["peers", "packets", "devices", "traffic"];

/// The owner of an entry. The programs identify a peer by a number and an interface by an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// All that found no room: `WIREGUARD_OTHER`.
    Other,
    /// All in network namespaces of other users that userland did not ask for: `WIREGUARD_FOREIGN`.
    Foreign,
    /// One peer or interface.
    One(u64),
}

impl Owner {
    /// From the bytes of a key.
    pub fn of(key: &[u8]) -> Self {
        match number(key) {
            0 => Self::Other,
            u64::MAX => Self::Foreign,
            one => Self::One(one),
        }
    }

    /// Whether the entry is shared.
    pub fn is_shared(self) -> bool {
        !matches!(self, Self::One(_))
    }

    /// The interface labels of a shared entry.
    pub fn labels(self) -> Option<Labels> {
        match self {
            Self::Other => Some(Labels::of(&[("interface", OTHER)])),
            Self::Foreign => Some(Labels::of(&[("interface", OTHER), ("netns", OTHER)])),
            Self::One(_) => None,
        }
    }
}

/// The place of an interface when it was last opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// Index there.
    pub ifindex: u32,
    /// Name there.
    pub name: String,
    /// Whether it is down, as during a move.
    pub is_down: bool,
}

/// Places by address of the interface.
pub type Places = BTreeMap<u64, Place>;

/// An entry of the map `peers`.
#[derive(Debug)]
pub struct Seen {
    /// Key of the entry.
    pub id: Vec<u8>,
    /// Owner.
    pub owner: Owner,
    /// Public key.
    pub key: Key,
    /// Address of the interface.
    pub device: u64,
    /// Creation time of the key in use, boot time in nanoseconds; 0 if none.
    pub birthdate: u64,
    /// Whether nothing was counted.
    pub idle: bool,
}

/// Interfaces and peers with pending entries. They may be the same that netlink lists under other
/// labels.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Names of the interfaces.
    pub names: BTreeSet<String>,
    /// Public keys of the peers.
    pub keys: BTreeSet<Key>,
}

impl Waiting {
    /// Whether an interface may have a pending entry.
    pub fn may_be(&self, device: &Device) -> bool {
        self.names.contains(&device.name) || device.peers.iter().any(|peer| self.keys.contains(&peer.key))
    }
}

/// Creates the shared entries.
///
/// # Errors
/// When a map does not take them.
pub fn seed(live: &Live) -> Result<()> {
    for map in COUNTED {
        for key in [0, u64::MAX] {
            live.maps.insert_zero(map, &key.to_ne_bytes())?;
        }
    }
    Ok(())
}

/// Removes the packet counters so far and the shared entries. Programs are attached one after
/// another, and some counters are subtracted from others, so counting starts when all are attached.
/// Before that the programs also do not know which namespaces userland asked for.
///
/// # Errors
/// When the map cannot be read or written.
pub fn forget(live: &Live) -> Result<()> {
    for map in COUNTED {
        let mut keys = Vec::new();
        live.maps.for_each(map, &mut |key, _| {
            if map == "packets" || Owner::of(key) == Owner::Foreign {
                keys.push(key.to_owned());
            }
        })?;
        for key in keys {
            live.maps.delete(map, &key)?;
        }
    }
    Ok(())
}

/// Tells the programs in which namespaces every peer gets an entry, whoever owns the namespace.
/// Returns whether there was room.
///
/// # Errors
/// When the map cannot be read or written.
pub fn ask_for(live: &Live, namespaces: &BTreeSet<u32>) -> Result<bool> {
    let (mut known, mut gone) = (BTreeSet::new(), Vec::new());
    live.maps.for_each("asked", &mut |key, _| {
        let inode = number(key) as u32;
        if namespaces.contains(&inode) {
            known.insert(inode);
        } else {
            gone.push(key.to_owned());
        }
    })?;
    for key in gone {
        live.maps.delete("asked", &key)?;
    }
    let mut room = true;
    for inode in namespaces.difference(&known) {
        room &= live.maps.insert_zero("asked", &inode.to_ne_bytes())?;
    }
    Ok(room)
}

/// Places of interfaces.
///
/// # Errors
/// When the map cannot be read.
pub fn places(live: &Live) -> Result<Places> {
    let layout = live.layouts.get("places").context("no map of places")?;
    let field = |member| layout.value.field(member);
    let (netns, ifindex) = (field("netns")?, field("ifindex")?);
    let (name, is_down) = (field("interface")?, field("is_down")?);
    let mut places = Places::new();
    live.maps.for_each("places", &mut |key, value| {
        let name = String::from_utf8_lossy(until_nul(name.bytes(value))).into_owned();
        let [netns, ifindex] = [netns, ifindex].map(|field| number(field.bytes(value)) as u32);
        let is_down = number(is_down.bytes(value)) != 0;
        places.insert(number(key), Place { netns, ifindex, name, is_down });
    })?;
    Ok(places)
}

/// Peers with an entry, newest first: their numbers only grow.
///
/// # Errors
/// When the map cannot be read.
pub fn peers(live: &Live) -> Result<Vec<Seen>> {
    let layout = live.layouts.get("peers").context("no map of peers")?;
    let field = |member| layout.value.field(member);
    let (key, device, birthdate) = (field("public_key")?, field("device")?, field("birthdate")?);
    let mut all = Vec::new();
    live.maps.for_each("peers", &mut |id, value| {
        all.push(Seen {
            id: id.to_owned(),
            owner: Owner::of(id),
            key: key.bytes(value).try_into().unwrap_or_default(),
            device: number(device.bytes(value)),
            birthdate: number(birthdate.bytes(value)),
            idle: value.iter().all(|byte| *byte == 0),
        });
    })?;
    all.sort_by_key(|seen| std::cmp::Reverse(seen.owner));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_share_has_labels_of_its_own() {
        let labels = |key: u64| Owner::of(&key.to_ne_bytes()).labels();
        assert_eq!(labels(0).expect("shared").as_str(), "interface=\"other\"");
        assert_eq!(labels(u64::MAX).expect("shared").as_str(), "interface=\"other\",netns=\"other\"");
        assert_eq!(labels(7), None);
        assert!(Owner::of(&7u64.to_ne_bytes()) == Owner::One(7));
    }
}
