// SPDX-License-Identifier: MIT OR Apache-2.0
//! Remembers the label values of a metric's keys, so that a scrape decodes only new ones.

use std::collections::HashMap;
use std::sync::Arc;

use super::labels::{Decoded, LabelSet, Unsettled};
use super::step::Stop;

/// Label values by key, for one metric. Keys that two scrapes did not ask for are forgotten, so it
/// holds no more than the map did in the last two scrapes.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Box<[u8]>, Entry>,
    scrape: u64,
}

#[derive(Debug)]
struct Entry {
    values: Result<Arc<[String]>, Stop>,
    /// The labels whose names may change.
    unsettled: Unsettled,
    /// The last scrape that asked for it.
    used: u64,
}

impl Cache {
    /// Begins a scrape.
    pub fn begin(&mut self) {
        self.scrape += 1;
    }

    /// The label values of a key. Names that may have changed are asked for again, once in a scrape.
    ///
    /// # Errors
    /// When the row is to be left out, or the key cannot be decoded.
    pub fn labels(&mut self, set: &LabelSet, key: &[u8]) -> Result<Arc<[String]>, Stop> {
        let Some(entry) = self.entries.get_mut(key) else {
            let Decoded { values, unsettled } = set.key(key);
            let values = values.map(Arc::from);
            self.entries.insert(key.into(), Entry { values: values.clone(), unsettled, used: self.scrape });
            return values;
        };
        if !entry.unsettled.is_empty() && entry.used != self.scrape {
            let unsettled = entry.unsettled;
            let same = entry.values.as_ref().is_ok_and(|values| set.is_unchanged(key, values, unsettled));
            if !same {
                let Decoded { values, unsettled } = set.key(key);
                (entry.values, entry.unsettled) = (values.map(Arc::from), unsettled);
            }
        }
        entry.used = self.scrape;
        entry.values.clone()
    }

    /// Ends a scrape: forgets the keys that this one and the one before did not ask for.
    pub fn end(&mut self) {
        let scrape = self.scrape;
        self.entries.retain(|_, entry| scrape - entry.used < 2);
        // Memory after a flood of keys is given back.
        if self.entries.capacity() / 4 > self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// Number of keys.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::path::Path;

    use super::*;
    use crate::config::{Decoder, Label};
    use crate::steps::tests::{Made, label, named};

    #[test]
    fn the_cache_holds_the_keys_of_two_scrapes() {
        let made = Made::new("cache");
        let set = LabelSet::new(&[label("n", 4, &["uint"])], &made.world).unwrap();
        let mut cache = Cache::default();
        let mut scrape = |keys: Range<u32>| {
            cache.begin();
            for key in keys {
                assert_eq!(*cache.labels(&set, &key.to_ne_bytes()).unwrap(), [key.to_string()]);
            }
            cache.end();
            cache.len()
        };
        assert_eq!(
            [scrape(0..10), scrape(5..15), scrape(15..16), scrape(0..0), scrape(0..0)],
            [10, 15, 11, 1, 0]
        );
        assert_eq!(scrape(0..100_000), 100_000);
        assert_eq!([scrape(0..1), scrape(0..1)], [100_000, 1]);
        assert!(cache.entries.capacity() < 1000, "memory is given back");
        assert!(matches!(cache.labels(&set, &[1]), Err(Stop::Wrong(_))));
    }

    #[test]
    fn the_cache_asks_again_for_names_that_may_change() {
        let made = Made::new("again");
        let id = 1u64 << 60;
        let service = Decoder { regexps: Some(vec!["([^/]+)[.]service$".to_owned()]), ..named("regexp") };
        let plain = LabelSet::new(&[label("cgroup", 8, &["uint", "cgroup"])], &made.world).unwrap();
        let filtered =
            Label { decoders: vec![named("uint"), named("cgroup"), service], ..label("service", 8, &[]) };
        let filtered = LabelSet::new(&[filtered], &made.world).unwrap();
        let mut caches = [Cache::default(), Cache::default()];
        let mut scrape = || {
            let [first, second] = &mut caches;
            first.begin();
            second.begin();
            let key = id.to_ne_bytes();
            let values = (first.labels(&plain, &key).unwrap(), second.labels(&filtered, &key));
            let again = first.labels(&plain, &key).unwrap();
            assert!(Arc::ptr_eq(&values.0, &again));
            first.end();
            second.end();
            values
        };
        let (unknown, skipped) = scrape();
        assert_eq!(
            (unknown[0].as_str(), skipped),
            ("unknown_cgroup_id:1152921504606846976", Err(Stop::Skip))
        );
        assert!(Arc::ptr_eq(&scrape().0, &unknown), "equal values are not made again");
        made.world.cgroups().saw(id, Path::new("/sys/fs/cgroup/new.service"));
        let (known, service) = scrape();
        assert_eq!(
            (known[0].as_str(), &*service.unwrap()),
            ("/sys/fs/cgroup/new.service", &["new".to_owned()][..])
        );
    }
}
