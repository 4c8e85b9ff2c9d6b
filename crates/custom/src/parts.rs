// SPDX-License-Identifier: MIT OR Apache-2.0
//! Joins a config and its loaded object: which maps are read, and which records are taken.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use common::read::layout::{self, Field};
use common::read::live::Live;
use common::read::maps::LiveMaps;
use common::words::counted;
use libbpf_rs::{MapCore, Object};
use log::warn;

use crate::config::{Config, Label, Metric, Source, Span};
use crate::events::{Buffers, Events, Taker};
use crate::render::{Ages, Bound, Kind, MapOf, Reading, WHOLE};
use crate::shared::Shared;
use crate::spans::record::{self, Clocks, SpanData};
use crate::spans::shipper::Shipper;
use crate::steps::Stop;
use crate::steps::labels::LabelSet;
use crate::steps::world::World;

/// What all configs share.
pub struct Opened<'o> {
    /// What decoders look names up in.
    pub world: &'o World,
    /// Buffers to read.
    pub buffers: &'o mut Buffers,
    /// Pages of memory for each perf event array and CPU.
    pub pages: usize,
    /// Where spans go, if a config has spans.
    pub spans: &'o Option<Arc<Shipper>>,
}

/// Removes the metrics and spans whose labels cannot be decoded, with a warning each, and returns how
/// many these were.
pub fn check(config: &mut Config, dir: &Path, world: &World) -> usize {
    let mut mistakes = 0;
    let path = dir.join(format!("{}.yaml", config.name));
    let mut is_right = |what: &str, name: &str, labels: &[Label]| match LabelSet::new(labels, world) {
        Ok(_) => true,
        Err((line, why)) => {
            warn!("{}:{line}: {why}; {what} {name} is left out", path.display());
            mistakes += 1;
            false
        }
    };
    let mut metric = |metric: &Metric| is_right("metric", &metric.name, &metric.labels);
    config.counters.retain(&mut metric);
    config.gauges.retain(&mut metric);
    config.histograms.retain(|histogram| metric(&histogram.metric));
    config.spans.retain(|span| is_right("ring buffer", &span.ringbuf, &span.labels));
    mistakes
}

/// What reads `config` and the maps that it reads, and how many metrics are left out, with a warning
/// each, because their labels do not fit the map's key.
///
/// # Errors
/// When a map is missing or of another type, or a buffer cannot be opened.
pub fn reading(
    config: &Config,
    object: &Object,
    shared: &Arc<Shared>,
    opened: &mut Opened<'_>,
) -> Result<(Reading, Live, usize)> {
    let mut mistakes = 0;
    let mut maps: BTreeMap<String, MapOf> = BTreeMap::new();
    let plain = |metrics: &[Metric], kind: fn() -> Kind| -> Vec<(Metric, Kind)> {
        metrics.iter().map(|metric| (metric.clone(), kind())).collect()
    };
    let mut metrics = plain(&config.counters, || Kind::Counter);
    metrics.extend(plain(&config.gauges, || Kind::Gauge));
    metrics.extend(config.histograms.iter().map(|histogram| {
        (histogram.metric.clone(), Kind::histogram(&histogram.buckets, histogram.multiplier))
    }));
    for (metric, kind) in metrics {
        let Source::Map { map, member } = &metric.source else { continue };
        let labels = labels(&metric.labels, opened.world)?;
        let found = map_named(object, map)?;
        let is_percpu = found.map_type().is_percpu();
        let value = match member {
            Some(member) => member_of(object, map, member)
                .with_context(|| format!("metric {} at {}.yaml:{}", metric.name, config.name, metric.line))?,
            None if matches!(kind, Kind::Gauge) => whole_of(object, map),
            None => WHOLE,
        };
        let has = found.key_size() as usize;
        let bound = Bound::new(&metric, kind, labels, value, has, is_percpu);
        if let Some(why) = bound.fault() {
            warn!(
                "{}.yaml:{}: histogram {}: {why}; the metric is left out",
                config.name, metric.line, metric.name
            );
            mistakes += 1;
            continue;
        }
        let needed = bound.key_size();
        if needed != has {
            warn!(
                "{}.yaml:{}: the labels of metric {} take {}, and the keys of map `{map}` have {has}; the metric \
                 is left out",
                config.name,
                metric.line,
                metric.name,
                counted(needed, "byte")
            );
            mistakes += 1;
            continue;
        }
        let entry = maps.entry(map.clone()).or_insert_with(|| MapOf {
            map: map.clone(),
            is_hash: found.map_type().is_hash_map(),
            capacity: found.max_entries().into(),
            is_percpu,
            metrics: Vec::new(),
            max_age: None,
        });
        if let Some(age) = metric.max_age {
            entry.max_age = Some(Ages::new(age));
        }
        entry.metrics.push(bound);
    }
    let names: BTreeSet<&str> = maps.keys().map(String::as_str).collect();
    let live = Live { maps: LiveMaps::raw(object, &names)?, ..Live::default() };
    let events = records(config, object, opened)?;
    let maps = maps.into_values().collect();
    Ok((Reading::new(&config.name, maps, events, Arc::clone(shared)), live, mistakes))
}

/// Labels that [`check`] found right.
fn labels(labels: &[Label], world: &World) -> Result<LabelSet> {
    LabelSet::new(labels, world).map_err(|(line, why)| anyhow!("line {line}: {why}"))
}

fn map_named<'o>(object: &'o Object, name: &str) -> Result<libbpf_rs::Map<'o>> {
    let found = object.maps().find(|map| map.name().to_str() == Some(name));
    found.ok_or_else(|| {
        let known: Vec<String> = object.maps().map(|map| map.name().to_string_lossy().into_owned()).collect();
        anyhow!("the object has no map `{name}`; there are: {}", known.join(", "))
    })
}

fn member_of(object: &Object, map: &str, member: &str) -> Result<Field> {
    let layout = layout::value_of(object, map).and_then(|layout| layout.field(member));
    let field = layout.with_context(|| format!("map `{map}`, member `{member}`"))?;
    if field.length != 1 || field.width > size_of::<u64>() {
        let (length, bits) = (field.length, 8 * field.width);
        bail!("map `{map}`, member `{member}`: it is {length} numbers of {bits} bits, not one of up to 64");
    }
    Ok(field)
}

/// The whole value, with its sign if the object tells the type.
fn whole_of(object: &Object, map: &str) -> Field {
    let layout = layout::value_of(object, map).and_then(|layout| layout.field(""));
    layout.ok().filter(|field| (field.width, field.length) == (8, 1)).unwrap_or(WHOLE)
}

/// Opens the buffers of a config; None if it has none.
fn records(config: &Config, object: &Object, opened: &mut Opened<'_>) -> Result<Option<Arc<Events>>> {
    let mut counters: Vec<(&Metric, LabelSet, Option<Duration>)> = Vec::new();
    let mut has_perf = false;
    for metric in &config.counters {
        let flush = match &metric.source {
            Source::Map { .. } => continue,
            Source::Perf { flush, .. } => Some(*flush),
            Source::Ring { .. } => None,
        };
        let labels = labels(&metric.labels, opened.world)?;
        has_perf |= flush.is_some();
        counters.push((metric, labels, flush));
    }
    if counters.is_empty() && config.spans.is_empty() {
        return Ok(None);
    }
    let sources: Vec<(String, bool)> =
        counters.iter().map(|(metric, _, flush)| (metric.map().to_owned(), flush.is_some())).collect();
    let events = Arc::new(Events::new(&config.name, counters, has_perf));
    // A map has one buffer, whose records go to all that name the map: of two buffers, one would get
    // nothing.
    let (mut perf, mut rings) =
        (BTreeMap::<String, Vec<Taker>>::new(), BTreeMap::<String, Vec<Taker>>::new());
    for (at, (map, is_perf)) in sources.into_iter().enumerate() {
        let counted = Arc::clone(&events);
        let takers = if is_perf { &mut perf } else { &mut rings };
        takers.entry(map).or_default().push(Box::new(move |record| counted.count(at, record)));
    }
    for span in &config.spans {
        let Some(spans) = opened.spans else { continue };
        let labels = labels(&span.labels, opened.world)?;
        let (spans, noting) = (Arc::clone(spans), Arc::clone(&events));
        let (name, span) = (config.name.clone(), span.clone());
        let takers = rings.entry(span.ringbuf.clone()).or_default();
        takers.push(Box::new(move |record| match span_of(&name, &span, &labels, record) {
            Ok(data) => spans.offer(data),
            Err(Stop::Skip) => {}
            Err(Stop::Wrong(why)) => noting.note(format!("ring buffer {}: {why}", span.ringbuf)),
        }));
    }
    for (map, takers) in perf {
        let losing = Arc::clone(&events);
        let lose = move |records| losing.lose(records);
        opened.buffers.perf(&map_named(object, &map)?, opened.pages, all(takers), lose)?;
    }
    for (map, takers) in rings {
        opened.buffers.ring(&map_named(object, &map)?, all(takers))?;
    }
    Ok(Some(events))
}

fn all(mut takers: Vec<Taker>) -> Taker {
    Box::new(move |record| takers.iter_mut().for_each(|take| take(record)))
}

fn span_of(config: &str, span: &Span, labels: &LabelSet, record: &[u8]) -> Result<SpanData, Stop> {
    let values = labels.decode_prefix(record)?;
    let names = span.labels.iter().map(|label| label.name.as_str());
    let pairs: Vec<(&str, &str)> = names.zip(values.iter().map(String::as_str)).collect();
    let source = record::Source { config, name: &span.name, service: &span.service, ringbuf: &span.ringbuf };
    record::record(&pairs, &source, Clocks::now(), &mut record::random).map_err(Stop::Wrong)
}
