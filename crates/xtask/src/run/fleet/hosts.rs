// SPDX-License-Identifier: MIT OR Apache-2.0
//! Simulated hosts. The series of a host are those of the golden pages; what is made up is how they move. Nothing is
//! kept of a host: a value follows from the host, the series and the time, and a counter never goes down.

use std::f64::consts::TAU;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Context, Result};
use common::exposition::hist::{BUCKETS, PER_OCTAVE, SLOTS, Unit, cumulative, steps};
use common::exposition::metric::{Families, FamilyKind, Histogram, Labels, Sample, Scale, Value};
use common::exposition::native::{Native, Schema};

use crate::workspace::root;

/// Seconds from one rush to the next. In between a host does a fifth of its mean, in the rush nine fifths.
const RUSH: f64 = 3600.0;

/// What an exporter says of itself, recorded from schedlat. Golden pages do not have it.
const ITSELF: &str = include_str!("exporter.prom");

/// A page of an exporter.
pub struct Page {
    /// NAME of the exporter.
    pub name: String,
    families: Vec<Shape>,
}

/// A family, and what is known of its samples.
struct Shape {
    name: String,
    help: String,
    kind: FamilyKind,
    /// Of a histogram.
    unit: Option<Unit>,
    samples: Vec<(Labels, f64)>,
}

impl Page {
    /// The golden page of an exporter, and what it says of itself.
    ///
    /// # Errors
    /// When there is none, or a sample has no number.
    pub fn of(name: &str) -> Result<Self> {
        let path = root().join(format!("crates/{name}/tests/golden/metrics.prom"));
        let golden = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::read(name, &(golden + &ITSELF.replace("schedlat", name)))
    }

    /// Reads a page.
    fn read(name: &str, text: &str) -> Result<Self> {
        let mut families: Vec<Shape> = Vec::new();
        let mut help = String::new();
        for line in text.lines() {
            if let Some(said) = line.strip_prefix("# HELP ") {
                said.split_once(' ').map_or("", |(_, help)| help).clone_into(&mut help);
            } else if let Some(typed) = line.strip_prefix("# TYPE ") {
                let (name, kind) = typed.split_once(' ').context("a type without name")?;
                let kind = match kind {
                    "counter" => FamilyKind::Counter,
                    "histogram" => FamilyKind::Histogram,
                    _ => FamilyKind::Gauge,
                };
                families.push(Shape {
                    name: name.to_owned(),
                    help: help.clone(),
                    kind,
                    unit: None,
                    samples: vec![],
                });
            } else if let Some(family) = families.last_mut() {
                family.read(line).with_context(|| format!("{name}: {line}"))?;
            }
        }
        Ok(Self { name: name.to_owned(), families })
    }

    /// Series of its text.
    pub fn series(&self) -> usize {
        let of = |family: &Shape| {
            family.samples.len() * if family.kind == FamilyKind::Histogram { family.buckets() + 2 } else { 1 }
        };
        self.families.iter().map(of).sum()
    }

    /// The page of a host at a time, in seconds since it booted. With native histograms if there is a schema.
    pub fn at(&self, host: usize, seconds: f64, schema: Option<Schema>) -> Families {
        let mut families = Families::default();
        let load = seconds + 0.8 * RUSH / TAU * (TAU * (seconds / RUSH + noise(&host))).sin();
        for shape in &self.families {
            let samples = shape.samples.iter().map(|(labels, golden)| {
                let of = noise(&(host, &shape.name, labels.as_str()));
                let value = match shape.kind {
                    FamilyKind::Counter if *golden == 0.0 => Value::Integer(0),
                    FamilyKind::Counter => {
                        Value::Integer(grown(rate(of), load, &(host, &shape.name, labels.as_str())))
                    }
                    FamilyKind::Histogram => {
                        Value::Histogram(Box::new(shape.histogram(of, load, host, labels, schema)))
                    }
                    // An information, or the number of something.
                    FamilyKind::Gauge if *golden <= 1.0 && golden.fract() == 0.0 => Value::Float(*golden),
                    FamilyKind::Gauge => Value::Float(
                        (golden * (0.8 + 0.2 * noise(&(of.to_bits(), load as u64))) * 1e3).round() / 1e3,
                    ),
                };
                Sample { labels: labels.clone(), value }
            });
            families.family(&shape.name, &shape.help, shape.kind).samples = samples.collect();
        }
        families
    }
}

impl Shape {
    /// Takes up a sample; of a histogram each label set once, and what its unit is.
    fn read(&mut self, line: &str) -> Result<()> {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let value = value.parse().context("no number")?;
        let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
        if self.kind == FamilyKind::Histogram {
            // The first bound tells the others.
            if let Some(bound) = labels.split("le=\"").nth(1).filter(|_| self.unit.is_none()) {
                self.unit = Some(match bound.trim_end_matches('"').parse::<f64>()? {
                    0.0 => Unit::Whole,
                    bound if bound == Unit::LongSeconds.bound(0) => Unit::LongSeconds,
                    bound if bound == Unit::Seconds.bound(0) => Unit::Seconds,
                    _ => Unit::Microseconds,
                });
            }
            if !name.ends_with("_count") {
                return Ok(());
            }
        }
        let mut parsed = Labels::none();
        for (name, value) in pairs(labels) {
            parsed.push(&name, &value);
        }
        self.samples.push((parsed, value));
        Ok(())
    }

    fn buckets(&self) -> usize {
        if self.unit == Some(Unit::Whole) { 12 } else { BUCKETS }
    }

    /// Times around a median that the series has, each twice as far from it a fourth as often.
    fn histogram(
        &self,
        of: f64,
        load: f64,
        host: usize,
        labels: &Labels,
        schema: Option<Schema>,
    ) -> Histogram {
        let events = rate(of);
        let unit = self.unit.unwrap_or(Unit::Microseconds);
        let key = (host, &self.name, labels.as_str());
        if unit == Unit::Whole {
            let slots: Vec<u64> = (0..self.buckets())
                .map(|slot| grown(events / 3f64.powi(slot as i32), load, &(slot, key)))
                .collect();
            let (buckets, sum) = steps(&slots);
            return Histogram { scale: Scale::Unit(unit), buckets, sum, native: None };
        }
        let median = PER_OCTAVE as f64 * (4.0 + 10.0 * noise(&(1, key)));
        let mut sum = 0.0;
        let slots: Vec<u64> = (0..SLOTS)
            .map(|slot| {
                let octaves = (slot as f64 - median) / PER_OCTAVE as f64;
                let share = (-octaves * octaves / 4.0).exp() / (PER_OCTAVE as f64 * 3.5);
                let count = if share < 1e-5 { 0 } else { grown(events * share, load, &(slot, key)) };
                sum += count as f64 * (slot as f64 / PER_OCTAVE as f64).exp2() * 1000.0;
                count
            })
            .collect();
        let native = schema.and_then(|schema| Native::new(&slots, unit, schema)).map(Box::new);
        let buckets = cumulative(&slots).unwrap_or_default();
        Histogram { scale: Scale::Unit(unit), buckets, sum: sum as u64, native }
    }
}

/// Pairs of labels as they are written, with values that are not escaped.
fn pairs(labels: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = labels;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut is_escaped = false;
        let end = after.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        let (value, after) = after.split_at(end.unwrap_or(after.len()));
        let value = value.replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\");
        found.push((name.trim_start_matches(',').to_owned(), value));
        rest = after.trim_start_matches('"');
    }
    found
}

/// Events a second of a series: from one in 100 s to 100, as often of each order of magnitude.
fn rate(of: f64) -> f64 {
    10f64.powf(4.0 * of - 2.0)
}

/// What a counter has grown to. A second's events come at any time of it, so differences vary as they do in reality.
fn grown(rate: f64, load: f64, key: &impl Hash) -> u64 {
    (rate * (load.floor() + noise(&(key, load as u64)))) as u64
}

/// A number from 0 to 1 that belongs to `key`.
fn noise(key: &impl Hash) -> f64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use common::exposition::encode::{Format, encode};

    use super::*;
    use crate::workspace::exporters;

    fn pages() -> Vec<Page> {
        let built_in = exporters().expect("crates").into_iter().filter(|exporter| exporter.built_in);
        built_in.map(|exporter| Page::of(&exporter.name).expect("a page")).collect()
    }

    /// Samples of a text: series and value.
    fn samples(text: &str) -> Vec<(String, f64)> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pair = |line: &str| {
            line.rsplit_once(' ').map(|(series, value)| (series.to_owned(), value.parse().expect("a number")))
        };
        lines.map(|line| pair(line).expect("a sample")).collect()
    }

    #[test]
    fn a_host_has_the_series_of_the_golden_pages() {
        for page in pages() {
            let path = root().join(format!("crates/{}/tests/golden/metrics.prom", page.name));
            let series = |text: &str| -> BTreeSet<String> {
                samples(text).into_iter().map(|(series, _)| series).collect()
            };
            let golden = series(&fs::read_to_string(path).expect("a page"));
            let made = series(&encode(page.at(3, 5000.0, None), Format::Text));
            assert_eq!(made.len(), page.series(), "{}", page.name);
            assert_eq!(golden.difference(&made).collect::<Vec<_>>(), Vec::<&String>::new(), "{}", page.name);
            let is_of_itself =
                |series: &&String| series.starts_with("ebpf_exporter_") || series.starts_with("process_");
            assert!(made.difference(&golden).all(|series| is_of_itself(&series)), "{}", page.name);
        }
    }

    #[test]
    fn no_counter_goes_down_and_most_move() {
        for page in pages() {
            let at = |seconds| samples(&encode(page.at(7, seconds, None), Format::Text));
            let (mut before, mut moved) = (at(9000.0), 0);
            for step in 1..40 {
                let now = at(9000.0 + 15.0 * f64::from(step));
                for ((series, old), (_, new)) in before.iter().zip(&now) {
                    let is_gauge = !series.contains("_total")
                        && !series.contains("_bucket")
                        && !series.contains("_count");
                    assert!(is_gauge || new >= old, "{series}: {old}, then {new}");
                    moved += usize::from(new > old);
                }
                before = now;
            }
            assert!(moved > 0, "{}", page.name);
        }
    }
}
