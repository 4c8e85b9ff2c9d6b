// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contents of users' maps to metric families.

mod buckets;
mod metric;
mod shared;

use std::collections::BTreeMap;
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
pub use self::shared::Shared;
use crate::events::Events;
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
    seen: BTreeMap<Box<[u8]>, (Vec<u8>, Instant)>,
    next: BTreeMap<Box<[u8]>, (Vec<u8>, Instant)>,
}

impl Ages {
    /// Nothing was seen yet.
    pub fn new(most: Duration) -> Self {
        Self { most, seen: BTreeMap::new(), next: BTreeMap::new() }
    }

    /// Notes a value, and returns whether it is too old.
    fn is_old(&mut self, key: &[u8], value: &[u8], now: Instant) -> bool {
        let since = match self.seen.remove(key) {
            Some((before, since)) if before == value => since,
            _ => now,
        };
        if now.duration_since(since) >= self.most {
            return true;
        }
        self.next.insert(key.into(), (value.to_vec(), since));
        false
    }

    /// Forgets keys that are not in the map any more.
    fn end(&mut self) {
        self.seen = std::mem::take(&mut self.next);
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
                if let Some(ages) = max_age
                    && ages.is_old(key, &values.concat(), now)
                {
                    old.push((map.map.clone(), key.to_vec()));
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
                ages.end();
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
            events.read(&self.config, &mut self.wrongs, families);
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
        self.wrongs.count()
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
