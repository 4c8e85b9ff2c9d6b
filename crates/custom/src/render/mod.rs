// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contents of users' maps to metric families.

mod buckets;
mod metric;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use common::exposition::metric::{Families, Labels, Value};
use common::read::layout::Field;
use common::read::live::Live;
use common::read::maps::{Fill, MapSource};
use common::read::part::Source;
use common::read::self_metrics;

pub use self::metric::{Bound, Kind};
use crate::events::Events;
use crate::shared::Shared;
use crate::spans::shipper::{Counts, Shipper};
use crate::wrongs::Wrongs;

/// The label `config` of what all configs share.
const PROCESS: &str = "custom";

/// A map and the metrics that are read of it.
#[derive(Debug)]
pub struct MapOf {
    /// Name of the map.
    pub map: String,
    /// Whether its entries can be counted: a hash, or another kind that can be full.
    pub is_hash: bool,
    /// Maximum number of entries.
    pub capacity: u64,
    /// Where the value of each CPU is apart.
    pub is_percpu: bool,
    /// The metrics.
    pub metrics: Vec<Bound>,
    /// Deletes entries whose value did not change for so long.
    pub max_age: Option<Ages>,
}

/// When the values of a map changed last.
#[derive(Debug)]
pub struct Ages {
    most: Duration,
    seen: BTreeMap<Box<[u8]>, Age>,
    next: BTreeMap<Box<[u8]>, Age>,
    old: Vec<Old>,
}

/// A value, and since when it is the same.
#[derive(Debug)]
struct Age {
    value: Vec<u8>,
    since: Instant,
}

/// A row whose value did not change for too long.
#[derive(Debug)]
struct Old {
    key: Box<[u8]>,
    /// The value of each CPU.
    values: Vec<Vec<u8>>,
    age: Age,
}

impl Ages {
    /// Nothing was seen yet.
    pub fn new(most: Duration) -> Self {
        Self { most, seen: BTreeMap::new(), next: BTreeMap::new(), old: Vec::new() }
    }

    /// Notes a row, and returns whether its value is too old: see [`Ages::end`].
    fn is_old(&mut self, key: &[u8], values: &[&[u8]], now: Instant) -> bool {
        let value = values.concat();
        let since = match self.seen.remove(key) {
            Some(age) if age.value == value => age.since,
            _ => now,
        };
        let age = Age { value, since };
        if now.duration_since(since) >= self.most {
            let values = values.iter().map(|value| value.to_vec()).collect();
            self.old.push(Old { key: key.into(), values, age });
            return true;
        }
        self.next.insert(key.into(), age);
        false
    }

    /// Ends a scrape, and returns the keys to delete: a series ends as a whole, as its value would go
    /// down otherwise. Adds other old rows to the metrics. Forgets keys that are not in the map any
    /// more.
    fn end(&mut self, metrics: &mut [Bound]) -> Vec<Box<[u8]>> {
        let mut old = std::mem::take(&mut self.old);
        let mut alive = vec![BTreeSet::new(); metrics.len()];
        if !old.is_empty() {
            for (metric, alive) in metrics.iter_mut().zip(&mut alive) {
                alive.extend(self.next.keys().filter_map(|key| metric.series_of(key)));
            }
        }
        loop {
            let before = old.len();
            let mut ended = Vec::with_capacity(before);
            for row in old {
                let series: Vec<_> = metrics.iter_mut().map(|metric| metric.series_of(&row.key)).collect();
                let lives = series
                    .iter()
                    .zip(&alive)
                    .any(|(series, alive)| series.as_ref().is_some_and(|series| alive.contains(series)));
                if !lives {
                    ended.push(row);
                    continue;
                }
                // What it shares with other metrics lives on too.
                alive.iter_mut().zip(series).for_each(|(alive, series)| alive.extend(series));
                let values: Vec<&[u8]> = row.values.iter().map(Vec::as_slice).collect();
                metrics.iter_mut().for_each(|metric| metric.add(&row.key, &values));
                self.next.insert(row.key, row.age);
            }
            old = ended;
            if old.len() == before {
                break;
            }
        }
        self.seen = std::mem::take(&mut self.next);
        old.into_iter().map(|row| row.key).collect()
    }
}

/// Reads the maps of one config.
#[derive(Debug)]
pub struct Reading {
    /// The config's name.
    pub config: String,
    /// Maps to read.
    pub maps: Vec<MapOf>,
    /// Counters of perf event arrays and ring buffers.
    pub events: Option<Arc<Events>>,
    /// Series that other configs may have too.
    pub shared: Arc<Shared>,
    /// Where spans of all configs go, for the one config that shows what became of them.
    pub spans: Option<Arc<Shipper>>,
    wrongs: Wrongs,
    scrape: u64,
    fills: Vec<Fill>,
}

impl Reading {
    /// Reads `maps` of `config`.
    pub fn new(config: &str, maps: Vec<MapOf>, events: Option<Arc<Events>>, shared: Arc<Shared>) -> Self {
        let (config, wrongs) = (config.to_owned(), Wrongs::default());
        Self { config, maps, events, shared, spans: None, wrongs, scrape: 0, fills: Vec::new() }
    }

    /// Adds the metrics of all maps that can be read. A map that cannot be read costs its own metrics
    /// only.
    pub fn read(&mut self, source: &dyn MapSource, families: &mut Families) -> Vec<(String, Vec<u8>)> {
        self.scrape += 1;
        self.fills.clear();
        let mut old = Vec::new();
        let now = Instant::now();
        for map in &mut self.maps {
            let mut entries = 0;
            map.metrics.iter_mut().for_each(Bound::begin);
            let MapOf { metrics, max_age, .. } = map;
            let mut row = |key: &[u8], values: &mut dyn Iterator<Item = &[u8]>| {
                entries += 1;
                let values: Vec<&[u8]> = values.collect();
                if max_age.as_mut().is_some_and(|ages| ages.is_old(key, &values, now)) {
                    return;
                }
                metrics.iter_mut().for_each(|metric| metric.add(key, &values));
            };
            let read = if map.is_percpu {
                source.for_each_cpu(&map.map, &mut row)
            } else {
                source.for_each(&map.map, &mut |key, value| row(key, &mut std::iter::once(value)))
            };
            if let Some(ages) = &mut map.max_age {
                let ended = ages.end(&mut map.metrics).into_iter();
                // Of a map that was read in part, the rest of a series may live.
                if read.is_ok() {
                    old.extend(ended.map(|key| (map.map.clone(), key.into_vec())));
                }
            }
            match read {
                Ok(()) if map.is_hash => {
                    let (map, capacity) = (map.map.clone(), map.capacity);
                    self.fills.push(Fill { map, entries, capacity });
                }
                Ok(()) => {}
                Err(error) => {
                    self.wrongs.note(&self.config, format!("{error:#}; its metrics are left out"));
                    map.metrics.iter_mut().for_each(Bound::discard);
                }
            }
            for metric in &mut map.metrics {
                metric.end(&self.config, &self.shared, self.scrape, &mut self.wrongs, families);
            }
        }
        if let Some(events) = &self.events {
            events.read(&self.shared, self.scrape, families);
        }
        old
    }
}

impl Source for Reading {
    fn extra(&mut self, live: &Live, families: &mut Families) -> Result<()> {
        for (map, key) in self.read(&live.maps, families) {
            if let Err(error) = live.maps.delete(&map, &key) {
                self.wrongs.note(&self.config, format!("{error:#}"));
            }
        }
        Ok(())
    }

    fn about_itself(&mut self, families: &mut Families) {
        for (reason, count) in self.events.iter().flat_map(|events| events.lost()) {
            self_metrics::lost(families, &self.config, reason, count);
        }
        if let Some(spans) = &self.spans {
            let Counts { sent, dropped, failed } = spans.counts();
            self_metrics::lost(families, PROCESS, "span_queue", dropped);
            self_metrics::lost(families, PROCESS, "span_export", failed);
            families.counter(
                "ebpf_exporter_spans_sent_total",
                "Spans that the collector accepted.",
                Labels::none(),
                Value::Integer(sent),
            );
        }
    }

    fn decoder_errors(&self) -> u64 {
        self.wrongs.count() + self.events.as_ref().map_or(0, |events| events.decoder_errors())
    }

    fn fill(&self) -> Option<Vec<Fill>> {
        Some(self.fills.clone())
    }

    fn page(&mut self, _: &str, live: &Live) -> Result<String> {
        let mut text = format!("## Config: {}\n\n", self.config);
        for map in &mut self.maps {
            for metric in &mut map.metrics {
                text.push_str(&metric.dump(&map.map, &live.maps)?);
            }
        }
        Ok(text)
    }
}

/// Where a value is: all of the 8 bytes, or a member.
pub const WHOLE: Field = Field { offset: 0, width: 8, length: 1, is_signed: false };

#[cfg(test)]
mod tests;
