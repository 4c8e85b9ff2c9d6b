// SPDX-License-Identifier: MIT OR Apache-2.0
//! One metric of a map: rows in, samples out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use anyhow::Result;
use common::exposition::metric::{Families, FamilyKind, Sample, Value};
use common::read::layout::{Field, number};
use common::read::maps::MapSource;

use super::buckets::{self, Bounds, Rows};
use crate::config::{Buckets, Metric, PREFIX};
use crate::shared::Shared;
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

/// Label values, and a value.
type Row = (Arc<[String]>, u64);

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
    pub(super) value: Field,
    cpu: Cpu,
    /// Rows of this scrape, of counters and gauges. Those with equal labels are added up when they are
    /// encoded, which sorts them anyway.
    rows: Vec<Row>,
    /// Histograms of this scrape, by label values without the bucket.
    series: BTreeMap<Vec<String>, Series>,
    pub(super) wrongs: Vec<Wrong>,
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
    /// The metric of a config, whose `value` is at a place in the map's values. `key_size` is that of
    /// the map.
    pub fn new(
        metric: &Metric,
        kind: Kind,
        labels: LabelSet,
        value: Field,
        key_size: usize,
        is_percpu: bool,
    ) -> Self {
        let names: Vec<String> = metric.labels.iter().map(|label| label.name.clone()).collect();
        let last = names.len().checked_sub(1);
        let is_cpu = |at: Option<usize>| at.is_some_and(|at| names[at] == CPU);
        let is_histogram = matches!(kind, Kind::Histogram(_));
        // Before the bucket, `cpu` may also be a member of the key itself, as in ebpf_exporter.
        let is_added = labels.size() == key_size + size_of::<u16>();
        let (cpu, bucket) = match last {
            Some(0) if is_percpu && is_cpu(last) => (Cpu::Only, None),
            Some(last) if is_percpu && is_cpu(Some(last)) => (Cpu::Last, last.checked_sub(1)),
            Some(last) if is_percpu && is_histogram && is_added && is_cpu(last.checked_sub(1)) => {
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

    /// Why it is a histogram that cannot be shown, which depends on whether its map is per CPU.
    pub fn fault(&self) -> Option<&'static str> {
        if !matches!(self.kind, Kind::Histogram(_)) {
            return None;
        }
        let Some(bucket) = self.bucket else {
            return Some("its only label is `cpu`, and none is the number of the bucket");
        };
        let has_le = self.names.iter().enumerate().any(|(at, name)| at != bucket && name == "le");
        has_le.then_some(
            "the label `le` is that of its buckets, and here the last label is the bucket's: rename it",
        )
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
        let at = |bytes: &[u8]| widened(value, bytes);
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
                // No more are counted, and there may be one for each of a million keys.
                if self.wrongs.len() < Wrongs::MOST {
                    self.wrongs.push(why);
                }
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

    /// Label values of the series that a key belongs to, of the first CPU if each has one; None if it
    /// belongs to none.
    pub fn series_of(&mut self, key: &[u8]) -> Option<Vec<String>> {
        if self.names.is_empty() {
            return Some(Vec::new());
        }
        let key = match self.cpu {
            Cpu::Sum => Cow::Borrowed(key),
            cpu => Cow::Owned(with_cpu(cpu, key, 0)?),
        };
        let mut values = self.cache.labels(&self.labels, &key).ok()?.to_vec();
        if let Some(bucket) = self.bucket {
            values.remove(bucket);
        }
        Some(values)
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
        let is_signed = self.value.is_signed;
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
        let claim = shared.of(scrape, name, config);
        let mut show = |values: &[String], value: Value, say: &mut dyn FnMut(String)| match claim
            .labels(&names, values)
        {
            Ok(labels) => family.samples.push(Sample { labels, value }),
            Err(why) => say(why),
        };
        let mut rows = std::mem::take(rows);
        let is_signed = is_signed && matches!(kind, Kind::Gauge);
        if is_signed {
            rows = added_up(rows);
        }
        for (values, value) in rows {
            let value = match value.cast_signed() {
                negative @ ..0 if is_signed => Value::Float(negative as f64),
                _ => Value::Integer(value),
            };
            show(&values, value, &mut say);
        }
        let Kind::Histogram(bounds) = kind else { return };
        for (values, series) in std::mem::take(series) {
            match series.wrong {
                Some(why) => say(format!("{why}; the series {values:?} is left out")),
                None => show(&values, bounds.histogram(&series.rows), &mut say),
            }
        }
    }

    /// The map's rows as text, in the form of ebpf_exporter's page /maps: for a map per CPU, a row for
    /// each CPU.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn dump(&mut self, map: &str, source: &dyn MapSource) -> Result<String> {
        let mut text = format!("### Map: {map}\n\n```\n");
        let (value, cpu, labels) = (self.value, self.cpu, &self.labels);
        source.for_each_cpu(map, &mut |key, values| {
            for (number, bytes) in values.enumerate() {
                let key = match cpu {
                    Cpu::Sum => Cow::Borrowed(key),
                    cpu => with_cpu(cpu, key, number as u16).map_or(Cow::Borrowed(key), Cow::Owned),
                };
                let shown: Vec<String> = key.iter().map(|byte| format!("0x{byte:x}")).collect();
                let decoded = match labels.decode(&key) {
                    Ok(decoded) => decoded.join(" "),
                    Err(Stop::Skip) => "skipped".to_owned(),
                    Err(Stop::Wrong(why)) => why,
                };
                let number = widened(value, bytes);
                // Writing to a String cannot fail.
                let _ = match value.is_signed {
                    true => writeln!(
                        text,
                        "[]byte{{{}}} (labels: [{decoded}]) -> {}",
                        shown.join(", "),
                        number.cast_signed()
                    ),
                    false => {
                        writeln!(text, "[]byte{{{}}} (labels: [{decoded}]) -> {number}", shown.join(", "))
                    }
                };
            }
        })?;
        text.push_str("```\n\n");
        Ok(text)
    }
}

/// A number of a value. A negative one is that of 64 bits.
fn widened(place: Field, value: &[u8]) -> u64 {
    let number = number(place.bytes(value));
    let unused = 64 - 8 * place.width.min(8) as u32;
    if place.is_signed && unused < 64 {
        return (number << unused).cast_signed().wrapping_shr(unused).cast_unsigned();
    }
    number
}

/// Rows with equal labels as one: a sum of numbers that have a sign is not what encoding adds up.
fn added_up(rows: Vec<Row>) -> Vec<Row> {
    let mut sums: BTreeMap<Arc<[String]>, u64> = BTreeMap::new();
    for (values, value) in rows {
        let sum = sums.entry(values).or_default();
        *sum = sum.wrapping_add(value);
    }
    sums.into_iter().collect()
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
