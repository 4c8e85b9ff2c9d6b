// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metric families between reading and encoding.
//!
//! The `prometheus` crate's model has no exact integer sums, no OpenMetrics text and no native
//! histograms. [`Families::collect`] converts its collectors.

use std::borrow::Cow;
use std::iter;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::proto::MetricType;

use crate::exposition::hist::Unit;
use crate::exposition::native::Native;

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Histogram.
    Histogram,
}

/// All samples of one metric name.
#[derive(Clone, Debug)]
pub struct Family {
    /// Full name, as in text format 0.0.4.
    pub name: String,
    /// Help, not escaped.
    pub help: String,
    /// Type.
    pub kind: FamilyKind,
    /// Samples in any order; equal label sets are added up when encoding.
    pub samples: Vec<Sample>,
}

/// One label set and its value.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Labels, see [`Labels`].
    pub labels: Labels,
    /// Value.
    pub value: Value,
}

/// A sample's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number, written exactly.
    Integer(u64),
    /// Nanoseconds, written exactly as seconds.
    Nanoseconds(u64),
    /// Anything else.
    Float(f64),
    /// A histogram.
    Histogram(Box<Histogram>),
}

/// Cumulative buckets and exact sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// What bounds and sum mean.
    pub scale: Scale,
    /// Cumulative; the last is `+Inf` and so the count.
    pub buckets: Vec<u64>,
    /// Sum of the observed values, in whole numbers of [`Scale`].
    pub sum: u64,
    /// The same values in the buckets of a native histogram, if they were asked for and are exact.
    pub native: Option<Box<Native>>,
}

impl Histogram {
    /// Changes the counts and the sum by those of `other`.
    fn combine(&mut self, other: &Self, change: impl Fn(u64, u64) -> u64) {
        for (a, b) in self.buckets.iter_mut().zip(&other.buckets) {
            *a = change(*a, *b);
        }
        self.sum = change(self.sum, other.sum);
        let natives = self.native.as_ref().zip(other.native.as_ref());
        self.native = natives.and_then(|(a, b)| a.combine(b, change)).map(Box::new);
    }
}

/// The bounds of a histogram's buckets, and how its sum is shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Those of a `struct hist`; the sum is in nanoseconds, or in whole numbers for [`Unit::Whole`].
    Unit(Unit),
    /// Others, in ascending order and without `+Inf`; the sum is multiplied by `multiplier`.
    Bounds {
        /// Upper bounds, inclusive.
        bounds: Arc<[f64]>,
        /// Factor of the sum.
        multiplier: f64,
    },
}

/// Label pairs in exposition syntax, without braces; the sorting key of a sample.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels(String);

impl Labels {
    /// No labels.
    pub fn none() -> Self {
        Self::default()
    }

    /// The given pairs, in this order.
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let mut labels = Self::none();
        for (name, value) in pairs {
            labels.push(name, value);
        }
        labels
    }

    /// Names and their values, in this order.
    pub fn zip(names: &[&str], values: &[String]) -> Self {
        // Two quotes, `=` and a comma.
        let length = |(name, value): (&&str, &String)| name.len() + value.len() + 4;
        let mut labels = Self(String::with_capacity(names.iter().zip(values).map(length).sum()));
        names.iter().zip(values).for_each(|(name, value)| labels.push(name, value));
        labels
    }

    /// Adds a pair, escaping the value.
    pub fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        // Most values have nothing to escape, and are copied at once.
        for piece in value.split_inclusive(['\\', '"', '\n']) {
            let plain = piece.trim_end_matches(['\\', '"', '\n']);
            self.0.push_str(plain);
            match &piece[plain.len()..] {
                "\\" => self.0.push_str("\\\\"),
                "\"" => self.0.push_str("\\\""),
                "\n" => self.0.push_str("\\n"),
                _ => {}
            }
        }
        self.0.push('"');
    }

    /// Whether there is a pair of that name.
    fn has(&self, name: &str) -> bool {
        let pair = format!("{name}=\"");
        self.0.starts_with(&pair) || self.0.contains(&format!(",{pair}"))
    }

    /// Names and their values, not escaped.
    ///
    /// ```
    /// use common::exposition::metric::Labels;
    /// let labels = Labels::of(&[("a", "say \"hi\","), ("b", "x\\y\n")]);
    /// let pairs: Vec<_> = labels.pairs().collect();
    /// assert_eq!(pairs, [("a", "say \"hi\",".into()), ("b", "x\\y\n".into())]);
    /// ```
    pub fn pairs(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        let mut rest = self.0.as_str();
        iter::from_fn(move || {
            let (name, after) = rest.split_once("=\"")?;
            let mut is_escaped = false;
            let is_end = |byte: u8| {
                let is_end = byte == b'"' && !is_escaped;
                is_escaped = byte == b'\\' && !is_escaped;
                is_end
            };
            let (value, after) = after.split_at(after.bytes().position(is_end)?);
            rest = after.strip_prefix("\",").unwrap_or_default();
            Some((name, unescaped(value)))
        })
    }

    /// As in the exposition, without braces.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The value that [`Labels::push`] escaped.
fn unescaped(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return value.into();
    }
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next().map(|c| if c == 'n' { '\n' } else { c })),
            c => plain.push(c),
        }
    }
    plain.into()
}

impl Value {
    /// Adds the value of an equal label set; values of different kinds do not add.
    pub fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) | (Self::Nanoseconds(a), Self::Nanoseconds(b)) => {
                *a = a.wrapping_add(*b);
            }
            (Self::Float(a), Self::Float(b)) => *a += b,
            (Self::Histogram(a), Self::Histogram(b)) => a.combine(b, u64::wrapping_add),
            _ => {}
        }
    }

    /// Subtracts an earlier value of the same counter; 0 if that is greater.
    pub fn reduce(&mut self, earlier: &Self) {
        match (self, earlier) {
            (Self::Integer(a), Self::Integer(b)) | (Self::Nanoseconds(a), Self::Nanoseconds(b)) => {
                *a = a.saturating_sub(*b);
            }
            (Self::Float(a), Self::Float(b)) => *a = (*a - b).max(0.0),
            (Self::Histogram(a), Self::Histogram(b)) => a.combine(b, u64::saturating_sub),
            _ => {}
        }
    }
}

/// The families of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Families {
    list: Vec<Family>,
}

impl Families {
    /// The family of that name, created if missing.
    pub fn family(&mut self, name: &str, help: &str, kind: FamilyKind) -> &mut Family {
        let at = self.list.iter().position(|family| family.name == name).unwrap_or_else(|| {
            self.list.push(Family { name: name.into(), help: help.into(), kind, samples: Vec::new() });
            self.list.len() - 1
        });
        &mut self.list[at]
    }

    /// Adds one counter sample.
    pub fn counter(&mut self, name: &str, help: &str, labels: Labels, value: Value) {
        self.family(name, help, FamilyKind::Counter).samples.push(Sample { labels, value });
    }

    /// Adds one gauge sample.
    pub fn gauge(&mut self, name: &str, help: &str, labels: Labels, value: Value) {
        self.family(name, help, FamilyKind::Gauge).samples.push(Sample { labels, value });
    }

    /// The family of that name, if there is one.
    pub fn get(&self, name: &str) -> Option<&Family> {
        self.list.iter().find(|family| family.name == name)
    }

    /// Like [`Families::get`], mutable.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Family> {
        self.list.iter_mut().find(|family| family.name == name)
    }

    /// The sum of the samples of a family, if they are integers; of a histogram the sum of counts.
    pub fn total(&self, name: &str) -> Option<u64> {
        let value = |sample: &Sample| match &sample.value {
            Value::Integer(n) => Some(*n),
            Value::Histogram(histogram) => histogram.buckets.last().copied(),
            _ => None,
        };
        self.get(name)?.samples.iter().map(value).sum()
    }

    /// Adds the counters and gauges of a collector of the `prometheus` crate, except those named
    /// `without`.
    pub fn collect(&mut self, collector: &dyn Collector, without: &str) {
        for family in collector.collect().into_iter().filter(|family| family.name() != without) {
            for metric in family.get_metric() {
                let mut labels = Labels::none();
                for pair in metric.get_label() {
                    labels.push(pair.name(), pair.value());
                }
                match family.get_field_type() {
                    MetricType::COUNTER => {
                        let value = Value::Float(metric.get_counter().get_value());
                        self.counter(family.name(), family.help(), labels, value);
                    }
                    MetricType::GAUGE => {
                        let value = Value::Float(metric.get_gauge().get_value());
                        self.gauge(family.name(), family.help(), labels, value);
                    }
                    other => log::debug!("{}: cannot convert a {other:?}", family.name()),
                }
            }
        }
    }

    /// Adds the samples of `others`.
    pub fn append(&mut self, others: Self) {
        for family in others.list {
            self.family(&family.name, &family.help, family.kind).samples.extend(family.samples);
        }
    }

    /// Prepares metrics about an exporter itself for a file beside those of other exporters. Adds the
    /// label `config` where there is none. Removes `process_*`: node_exporter, which reads the file,
    /// has its own.
    pub fn set_apart(&mut self, config: &str) {
        self.list.retain(|family| !family.name.starts_with("process_"));
        for sample in self.list.iter_mut().flat_map(|family| &mut family.samples) {
            if !sample.labels.has("config") {
                sample.labels.push("config", config);
            }
        }
    }

    /// The families sorted by name and their samples by labels; equal label sets are added up.
    pub fn into_sorted(mut self) -> Vec<Family> {
        self.list.sort_by(|a, b| a.name.cmp(&b.name));
        for family in &mut self.list {
            family.samples.sort_by(|a, b| a.labels.cmp(&b.labels));
            family.samples.dedup_by(|later, first| {
                let equal = later.labels == first.labels;
                if equal {
                    first.value.merge(&later.value);
                }
                equal
            });
        }
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let labels = Labels::of(&[("a", "x\"y\\z\n"), ("b", "ü")]);
        assert_eq!(labels.as_str(), r#"a="x\"y\\z\n",b="ü""#);
    }

    #[test]
    fn exporters_in_one_folder_are_told_apart() {
        let mut families = Families::default();
        families.counter("ebpf_exporter_scrapes_total", "", Labels::none(), Value::Integer(1));
        families.gauge("ebpf_exporter_mode", "", Labels::of(&[("mode", "ebpf")]), Value::Integer(1));
        families.counter("ebpf_exporter_x_total", "", Labels::of(&[("config", "a")]), Value::Integer(1));
        families.counter("process_cpu_seconds_total", "", Labels::none(), Value::Integer(1));
        families.set_apart("a");
        let labels = |family: &Family| family.samples[0].labels.as_str().to_owned();
        let labels: Vec<String> = families.into_sorted().iter().map(labels).collect();
        assert_eq!(labels, ["mode=\"ebpf\",config=\"a\"", "config=\"a\"", "config=\"a\""]);
    }

    #[test]
    fn equal_label_sets_are_added_up() {
        let mut families = Families::default();
        for n in [1, 2, 4] {
            families.counter("a_total", "A.", Labels::of(&[("x", "y")]), Value::Integer(n));
        }
        families.counter("a_total", "A.", Labels::of(&[("x", "a")]), Value::Integer(9));
        let sorted = families.into_sorted();
        assert_eq!(sorted.len(), 1);
        assert_eq!(sorted[0].samples.len(), 2);
        assert_eq!(sorted[0].samples[0].value, Value::Integer(9));
        assert_eq!(sorted[0].samples[1].value, Value::Integer(7));
    }
}
