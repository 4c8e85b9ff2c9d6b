// SPDX-License-Identifier: MIT OR Apache-2.0
//! Matches the names in map entries with the names that ZFS lists.
//!
//! A series stays for a while after its pool or dataset is gone, so that its last events are
//! scraped. This also holds for a pool that appeared and vanished between two scrapes, if the
//! layout is certain. With a layout from the user, a name that ZFS does not list may have been read
//! from a wrong address: its entry is removed before it is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use common::read::decode::{FOLDED, is_folded};
use common::read::live::Live;
use common::read::maps::MapSource;

use crate::kstat;

/// Bytes of a pool's name in a key, the NUL included (`bpf/zfs.bpf.h`).
pub const POOL_BYTES: usize = 64;

/// How long to remember an expired name, so that its late events are not reported as unknown. The
/// limit bounds the number of remembered names.
const OF_LATE: Duration = Duration::from_secs(600);

/// The names of one kind.
#[derive(Debug, Default)]
pub struct Names {
    grace: Duration,
    /// Whether a name that ZFS does not list may be of a pool or dataset that existed only shortly.
    is_certain: bool,
    /// When each name was last listed.
    seen: BTreeMap<String, Instant>,
    /// Names that expired at the last update. Their entries are to be removed.
    expired: BTreeSet<String>,
    /// When each recently expired name was last listed.
    of_late: BTreeMap<String, Instant>,
    /// Whether an unknown name was logged.
    warned: bool,
}

impl Names {
    /// An empty set. Names expire after `grace`. `is_certain`: the layout is that of the module in
    /// use.
    pub fn new(grace: Duration, is_certain: bool) -> Self {
        Self { grace, is_certain, ..Self::default() }
    }

    /// Records the names that are listed now.
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

    /// Whether the name is listed now, or was until recently.
    pub fn has(&self, name: &str) -> bool {
        self.seen.contains_key(name)
    }

    /// Records the imported pools, and removes from `maps`, whose keys have a member `pool`, the
    /// entries of other pools.
    ///
    /// # Errors
    /// When kstats or maps cannot be read.
    pub fn sweep_pools(&mut self, live: &Live, maps: &[&str]) -> Result<()> {
        // Read the keys before the kstats, which may not list pools imported later.
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

    /// Removes from `map` those of `keys` whose name is unknown or has expired. If the layout is
    /// certain, an unknown name that `is_plausible` is kept: it may have existed only shortly.
    /// Read the keys before the names: the names of newer entries are not known yet.
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
            if name == FOLDED || self.seen.contains_key(&name) {
                continue;
            }
            if self.is_certain && is_plausible(&name) && !self.expired.contains(&name) {
                self.seen.insert(name, now);
                continue;
            }
            live.maps.delete(map, &key)?;
            // ZFS calls a pool $import while it inspects it before an import.
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

/// Whether this is a valid pool name (OpenZFS's pool_namecheck(): a letter, then letters, digits
/// and `-_.: `).
fn is_pool(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|char| char.is_ascii_alphanumeric() || "-_.: ".contains(char))
}

/// The name, truncated to the size of a key.
pub fn cut(name: &str) -> String {
    String::from_utf8_lossy(&name.as_bytes()[..name.len().min(POOL_BYTES - 1)]).into_owned()
}

/// The full name of the imported pool whose name starts with `cut`, a truncated name from a key.
///
/// # Errors
/// When pools cannot be read.
pub fn whole_name(cut: &str) -> Result<Option<String>> {
    Ok(kstat::pools()?.into_iter().find(|pool| self::cut(pool) == cut))
}

/// Text up to the first NUL, or [`FOLDED`].
pub fn text(bytes: &[u8]) -> String {
    if is_folded(bytes) {
        return FOLDED.to_owned();
    }
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
        assert_eq!([text(b"other\0\0"), text(b"\0other\0")], ["other", FOLDED]);
    }
}
