// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names that events were counted under, against the names that ZFS knows.
//!
//! A series stays for a while after what it is named after is gone, so that its last
//! events are scraped. That is also so for a pool that came and went between two scrapes, where
//! the layout of ZFS's structs is certain. By a layout that a user gave, a name that ZFS does not
//! know may have been read from a wrong place in memory: its entry is taken away before it is
//! shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use common::engine::Live;
use common::maps::MapSource;
use common::render::OTHER;

use crate::kstat;

/// Bytes of a pool's name in a key, the NUL included (`bpf/zfs.bpf.h`).
pub const POOL_BYTES: usize = 64;

/// How long a name is known that was forgotten, so that late events of it puzzle nobody. Names
/// that come and go are as many as this is long.
const OF_LATE: Duration = Duration::from_secs(600);

/// The names of one kind.
#[derive(Debug, Default)]
pub struct Names {
    grace: Duration,
    /// Whether a name that ZFS does not know may be of something that came and went.
    is_certain: bool,
    /// When each was last there.
    seen: BTreeMap<String, Instant>,
    /// Those that were forgotten last, whose entries go.
    expired: BTreeSet<String>,
    /// When each was last there that was of late.
    of_late: BTreeMap<String, Instant>,
    /// Whether a name was found that nobody ever knew.
    warned: bool,
}

impl Names {
    /// None; those that go are forgotten after `grace`. `is_certain`: the layout by which they are
    /// read is that of the module in use.
    pub fn new(grace: Duration, is_certain: bool) -> Self {
        Self { grace, is_certain, ..Self::default() }
    }

    /// Takes note of the names that are there now.
    pub fn update(&mut self, names: impl IntoIterator<Item = String>, now: Instant) {
        for name in names {
            self.of_late.insert(name.clone(), now);
            self.seen.insert(name, now);
        }
        let is_over = |seen: &Instant| now.duration_since(*seen) > self.grace;
        self.expired =
            self.seen.iter().filter(|(_, seen)| is_over(seen)).map(|(name, _)| name.clone()).collect();
        self.seen.retain(|name, _| !self.expired.contains(name));
        self.of_late.retain(|_, seen| now.duration_since(*seen) <= self.grace + OF_LATE);
    }

    /// Whether it is there, or was until a while ago.
    pub fn has(&self, name: &str) -> bool {
        self.seen.contains_key(name)
    }

    /// Takes note of the pools that are imported now, and removes from `maps`, whose keys
    /// have a member `pool`, what is of no pool.
    ///
    /// # Errors
    /// When kstats or maps cannot be read.
    pub fn sweep_pools(&mut self, live: &Live, maps: &[&str]) -> Result<()> {
        // Before the kstats are read: what comes meanwhile is not judged by them.
        let mut known = Vec::new();
        for map in maps {
            let Some(layout) = live.layouts.get(*map) else { continue };
            let mut keys = Vec::new();
            live.maps.for_each(map, &mut |key, _| keys.push(key.to_owned()))?;
            known.push((*map, layout.key.field("pool")?, keys));
        }
        self.update(kstat::pools()?.iter().map(|name| cut(name)), Instant::now());
        for (map, pool, keys) in known {
            self.sweep(live, map, keys, |key| text(pool.bytes(key)), is_pool)?;
        }
        Ok(())
    }

    /// Removes those of `keys` from `map` whose name is not known, or no longer. One that
    /// `is_plausible` is taken for something that came and went. The keys have to have been read
    /// before the names were: what came since is too new to be known.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn sweep(
        &mut self,
        live: &Live,
        map: &str,
        keys: impl IntoIterator<Item = Vec<u8>>,
        name: impl Fn(&[u8]) -> String,
        is_plausible: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let now = Instant::now();
        for key in keys {
            let name = name(&key);
            if name == OTHER || self.seen.contains_key(&name) {
                continue;
            }
            if self.is_certain && is_plausible(&name) && !self.expired.contains(&name) {
                self.seen.insert(name, now);
                continue;
            }
            live.maps.delete(map, &key)?;
            // $import is a pool for as long as it is looked at before an import.
            let was_known = self.of_late.contains_key(&name) || self.expired.contains(&name);
            if !was_known && !name.starts_with('$') && !self.warned {
                self.warned = true;
                log::error!(
                    "dropped events of {name:?} in map {map}: ZFS has no such pool or dataset; if this \
                     happens for all of them, the struct layout is wrong (--zfs.layout)"
                );
            }
        }
        Ok(())
    }
}

/// Whether a pool may be called so (OpenZFS's pool_namecheck(): a letter, then letters, digits and
/// `-_.: `).
fn is_pool(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|char| char.is_ascii_alphanumeric() || "-_.: ".contains(char))
}

/// The name as far as it fits into a key.
pub fn cut(name: &str) -> String {
    String::from_utf8_lossy(&name.as_bytes()[..name.len().min(POOL_BYTES - 1)]).into_owned()
}

/// Text up to the first NUL.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_for_a_while() {
        let mut names = Names::new(Duration::from_secs(10), false);
        let start = Instant::now();
        names.update(["tank".to_owned(), "old".to_owned()], start);
        names.update(["tank".to_owned()], start + Duration::from_secs(9));
        assert!(names.seen.contains_key("old"));
        names.update(["tank".to_owned()], start + Duration::from_secs(11));
        assert!(!names.seen.contains_key("old") && names.of_late.contains_key("old"));
        assert!(names.seen.contains_key("tank"));
        names.update(["tank".to_owned()], start + Duration::from_secs(20) + OF_LATE);
        assert!(!names.of_late.contains_key("old"));
    }

    #[test]
    fn pools_have_names_that_zfs_allows() {
        for name in ["t", "tank", "rpool-2_a.b:c d"] {
            assert!(is_pool(name), "{name}");
        }
        for name in ["", "$import", "1tank", "t\u{fffd}", "tank/home", "t\n"] {
            assert!(!is_pool(name), "{name:?}");
        }
    }

    #[test]
    fn long_names_are_cut_as_in_the_kernel() {
        assert_eq!(cut(&"x".repeat(70)).len(), 63);
        assert_eq!(text(b"tank\0garbage"), "tank");
    }
}
