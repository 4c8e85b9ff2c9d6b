// SPDX-License-Identifier: MIT OR Apache-2.0
//! One metric of a map: rows in, samples out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use anyhow::Result;
use common::exposition::metric::{Families, FamilyKind, Labels, Sample, Value};
use common::read::layout::{Field, number};
use common::read::maps::MapSource;

use super::buckets::{self, Bounds, Rows};
use super::shared::Shared;
use crate::config::{Buckets, Metric, PREFIX};
use crate::steps::Stop;
use crate::steps::cache::Cache;
use crate::steps::labels::LabelSet;
use crate::wrongs::Wrongs;

/// Name of the label that a per-CPU map fills with the number of the CPU.
const CPU: &str = "cpu";

/// Type of a metric.
#[derive(Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// The last label but `cpu` is the number of the bucket.
    Histogram(Bounds),
}

impl Kind {
    /// The histogram that a config states.
    pub fn histogram(buckets: &Buckets, multiplier: f64) -> Self {
        Self::Histogram(Bounds::new(buckets, multiplier))
    }
}

/// What the number of the CPU does to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cpu {
    /// Values of all CPUs are added up.
    Sum,
    /// It is appended to the key.
    Last,
    /// It stands before the last label, which has so many bytes.
    BeforeLast(usize),
    /// It replaces a key of four zero bytes.
    Only,
}

/// Why a row is not shown.
pub type Wrong = String;

/// A metric whose labels and value are found in the rows of a map.
#[derive(Debug)]
pub struct Bound {
    name: String,
    help: String,
    kind: Kind,
    names: Vec<String>,
    /// Place of the bucket among the labels.
    bucket: Option<usize>,
    labels: LabelSet,
    cache: Cache,
    value: Field,
    cpu: Cpu,
    /// Rows of this scrape, of counters and gauges. Those with equal labels are added up when they are
    /// encoded, which sorts them anyway.
    rows: Vec<(Arc<[String]>, u64)>,
    /// Histograms of this scrape, by label values without the bucket.
    series: BTreeMap<Vec<String>, Series>,
    wrongs: Vec<Wrong>,
    /// Why the whole family is left out of this scrape.
    without: Option<Wrong>,
    is_discarded: bool,
}

#[derive(Debug, Default)]
struct Series {
    rows: Rows,
    /// A bucket's label that is no number.
    wrong: Option<Wrong>,
}

impl Bound {
    /// The metric of a config, whose `value` is at a place in the map's values.
    pub fn new(metric: &Metric, kind: Kind, labels: LabelSet, value: Field, is_percpu: bool) -> Self {
        let names: Vec<String> = metric.labels.iter().map(|label| label.name.clone()).collect();
        let last = names.len().checked_sub(1);
        let is_cpu = |at: Option<usize>| at.is_some_and(|at| names[at] == CPU);
        let is_histogram = matches!(kind, Kind::Histogram(_));
        let (cpu, bucket) = match last {
            Some(0) if is_percpu && is_cpu(last) => (Cpu::Only, None),
            Some(last) if is_percpu && is_cpu(Some(last)) => (Cpu::Last, last.checked_sub(1)),
            Some(last) if is_percpu && is_histogram && is_cpu(last.checked_sub(1)) => {
                let bytes = metric.labels[last].size + metric.labels[last].padding;
                (Cpu::BeforeLast(bytes as usize), Some(last))
            }
            last => (Cpu::Sum, last),
        };
        Self {
            name: format!("{PREFIX}{}", metric.name),
            help: metric.help.clone(),
            bucket: bucket.filter(|_| is_histogram),
            names,
            kind,
            labels,
            cache: Cache::default(),
            value,
            cpu,
            rows: Vec::new(),
            series: BTreeMap::new(),
            wrongs: Vec::new(),
            without: None,
            is_discarded: false,
        }
    }

    /// Bytes of the keys that the labels fit.
    pub fn key_size(&self) -> usize {
        match self.cpu {
            Cpu::Only => 4,
            _ if self.names.is_empty() => 4,
            Cpu::Sum => self.labels.size(),
            Cpu::Last | Cpu::BeforeLast(_) => self.labels.size().saturating_sub(size_of::<u16>()),
        }
    }

    /// Begins a scrape.
    pub fn begin(&mut self) {
        self.rows.clear();
        self.series.clear();
        self.wrongs.clear();
        (self.without, self.is_discarded) = (None, false);
        self.cache.begin();
    }

    /// Leaves the family out of this scrape, as its map could not be read.
    pub fn discard(&mut self) {
        self.is_discarded = true;
    }

    /// Adds a row: its key, and one value or that of each CPU.
    pub fn add(&mut self, key: &[u8], values: &[&[u8]]) {
        let value = self.value;
        let at = |bytes: &[u8]| number(value.bytes(bytes));
        match self.cpu {
            Cpu::Sum => {
                self.add_one(key, values.iter().fold(0, |sum, value| u64::wrapping_add(sum, at(value))))
            }
            cpu => {
                for (number, value) in values.iter().enumerate() {
                    match with_cpu(cpu, key, number as u16) {
                        Some(key) => self.add_one(&key, at(value)),
                        None => self.without = Some(not_zero(key)),
                    }
                }
            }
        }
    }

    fn add_one(&mut self, key: &[u8], value: u64) {
        if self.names.is_empty() {
            if key != [0; 4] {
                self.without = Some(not_zero(key));
                return;
            }
            self.rows.push((Arc::default(), value));
            return;
        }
        let decoded = match self.cache.labels(&self.labels, key) {
            Ok(decoded) => decoded,
            Err(Stop::Skip) => return,
            Err(Stop::Wrong(why)) => {
                self.wrongs.push(why);
                return;
            }
        };
        let Some(bucket) = self.bucket else {
            self.rows.push((decoded, value));
            return;
        };
        let mut rest = decoded.to_vec();
        let text = rest.remove(bucket);
        let series = self.series.entry(rest).or_default();
        match buckets::number(&text) {
            Some(number) => {
                let row = series.rows.entry(number).or_default();
                *row = row.wrapping_add(value);
            }
            None => series.wrong = Some(format!("bucket {text:?} is no number")),
        }
    }

    /// Ends a scrape: adds the family.
    pub fn end(
        &mut self,
        config: &str,
        shared: &Shared,
        scrape: u64,
        wrongs: &mut Wrongs,
        families: &mut Families,
    ) {
        self.cache.end();
        let Self { name, help, kind, names, bucket, rows, series, .. } = self;
        let mut say = |what: String| wrongs.note(config, format!("metric {name}: {what}"));
        self.wrongs.drain(..).for_each(&mut say);
        if let Some(why) = self.without.take() {
            say(format!("{why}; the metric is left out"));
            self.is_discarded = true;
        }
        if self.is_discarded {
            rows.clear();
            series.clear();
            return;
        }
        let family = families.family(
            name,
            help,
            match kind {
                Kind::Counter => FamilyKind::Counter,
                Kind::Gauge => FamilyKind::Gauge,
                Kind::Histogram(_) => FamilyKind::Histogram,
            },
        );
        let names: Vec<&str> = names
            .iter()
            .enumerate()
            .filter(|(at, _)| Some(*at) != *bucket)
            .map(|(_, n)| n.as_str())
            .collect();
        let is_shared = shared.names.contains(name);
        let mut show = |values: &[String], value: Value, say: &mut dyn FnMut(String)| {
            let labels = Labels::zip(&names, values);
            if is_shared && let Some(other) = shared.owner(scrape, name, &labels, config) {
                say(format!(
                    "config {other} has the series {{{}}} too, and that one is shown",
                    labels.as_str()
                ));
                return;
            }
            family.samples.push(Sample { labels, value });
        };
        for (values, value) in std::mem::take(rows) {
            show(&values, Value::Integer(value), &mut say);
        }
        let Kind::Histogram(bounds) = kind else { return };
        for (values, series) in std::mem::take(series) {
            match series.wrong {
                Some(why) => say(format!("{why}; the series {values:?} is left out")),
                None => show(&values, bounds.histogram(&series.rows), &mut say),
            }
        }
    }

    /// The map's rows as text, in the form of ebpf_exporter's page /maps.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn dump(&mut self, map: &str, source: &dyn MapSource) -> Result<String> {
        let mut text = format!("### Map: {map}\n\n```\n");
        let (value, labels) = (self.value, &self.labels);
        source.for_each(map, &mut |key, bytes| {
            let shown: Vec<String> = key.iter().map(|byte| format!("0x{byte:x}")).collect();
            let decoded = match labels.decode(key) {
                Ok(decoded) => decoded.join(" "),
                Err(Stop::Skip) => "skipped".to_owned(),
                Err(Stop::Wrong(why)) => why,
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "[]byte{{{}}} (labels: [{decoded}]) -> {}",
                shown.join(", "),
                number(value.bytes(bytes))
            );
        })?;
        text.push_str("```\n\n");
        Ok(text)
    }
}

fn not_zero(key: &[u8]) -> Wrong {
    format!("the key {key:?} is not the four zero bytes that a metric without labels needs")
}

/// The key with the number of the CPU in its place; None if the key is not what that needs.
fn with_cpu(cpu: Cpu, key: &[u8], number: u16) -> Option<Vec<u8>> {
    let number = number.to_ne_bytes();
    match cpu {
        Cpu::Only => {
            let rest = key.strip_prefix(&[0; 4])?;
            Some([rest, &number].concat())
        }
        Cpu::BeforeLast(bytes) => {
            let (before, last) = key.split_at(key.len().saturating_sub(bytes));
            Some([before, &number, last].concat())
        }
        Cpu::Sum | Cpu::Last => Some([key, &number].concat()),
    }
}
