// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parses the text format, version 0.0.4.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Labels of a series, by name.
pub type Labels = BTreeMap<String, String>;

/// The series of one sample name.
type Series = BTreeMap<Labels, f64>;

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A counter.
    Counter,
    /// A gauge.
    Gauge,
    /// A classic histogram.
    Histogram,
    /// A summary, or a family without a type.
    Other,
}

/// The samples of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    kinds: BTreeMap<String, Kind>,
    samples: BTreeMap<String, Series>,
}

/// A line that is not a sample.
#[derive(Debug, PartialEq, Eq)]
pub struct NotASample(pub String);

impl fmt::Display for NotASample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a sample: {}", crate::amount::safe(&self.0, 80))
    }
}

impl std::error::Error for NotASample {}

impl Scrape {
    /// Parses an answer to `GET /metrics`.
    ///
    /// # Errors
    /// When a line is malformed, as in the answer of something that is not an exporter.
    pub fn parse(text: &str) -> Result<Self, NotASample> {
        let mut scrape = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.split_whitespace();
                if let (Some("TYPE"), Some(name), Some(kind)) = (words.next(), words.next(), words.next()) {
                    scrape.kinds.insert(name.to_owned(), kind_of(kind));
                }
                continue;
            }
            let (name, labels, value) = sample(line).ok_or_else(|| NotASample(line.to_owned()))?;
            scrape.samples.entry(name).or_default().insert(labels, value);
        }
        Ok(scrape)
    }

    /// Names and types of the families.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.kinds.iter().map(|(name, kind)| (name.as_str(), *kind))
    }

    /// Whether the exporter has that metric, even if it has no series yet: then its type is told.
    pub fn has(&self, metric: &str) -> bool {
        let family = metric.strip_suffix("_count").unwrap_or(metric);
        [metric, family].iter().any(|name| self.kinds.contains_key(*name))
            || self.samples.contains_key(metric)
    }

    /// Labels and value of each sample of a name.
    pub fn series(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        self.samples.get(name).into_iter().flatten().map(|(labels, value)| (labels, *value))
    }

    /// The value of one series.
    pub fn value(&self, name: &str, labels: &Labels) -> Option<f64> {
        self.samples.get(name)?.get(labels).copied()
    }

    /// The value of a sample without labels, or of the first.
    pub fn first(&self, name: &str) -> Option<f64> {
        self.series(name).next().map(|(_, value)| value)
    }

    /// The value of a label of the first sample of a name.
    pub fn label(&self, name: &str, label: &str) -> Option<&str> {
        self.series(name).next()?.0.get(label).map(String::as_str)
    }

    /// Names of the labels that samples of a name have.
    pub fn labels(&self, name: &str) -> BTreeSet<&str> {
        self.series(name).flat_map(|(labels, _)| labels.keys().map(String::as_str)).collect()
    }
}

fn kind_of(word: &str) -> Kind {
    match word {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "histogram" => Kind::Histogram,
        _ => Kind::Other,
    }
}

/// Name, labels and value of a line that is no comment; `None` if it is malformed. A time after the value
/// is left out.
pub fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let well_formed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if name.is_empty() || !name.chars().all(well_formed) {
        return None;
    }
    let mut labels = Labels::new();
    let mut rest = rest.trim_start();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once('=')?;
            let (text, after) = quoted(after.trim_start())?;
            labels.insert(label.trim().to_owned(), text);
            rest = after.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
    }
    Some((name.to_owned(), labels, number(rest.split_whitespace().next()?)?))
}

/// Reads a quoted text, and returns what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut read = String::new();
    let mut rest = text.strip_prefix('"')?.chars();
    loop {
        match rest.next()? {
            '"' => return Some((read, rest.as_str())),
            '\\' => match rest.next()? {
                'n' => read.push('\n'),
                c => read.push(c),
            },
            c => read.push(c),
        }
    }
}

fn number(word: &str) -> Option<f64> {
    // Rust also reads `inf`, `infinity` and `nan` in any case.
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_and_numbers_are_read() {
        let text = "# HELP a A.\n# TYPE a gauge\na{b=\"x,\\\"y\\\\\\n}\",le=\"+Inf\"} 3\na 1e-05\n\
                    b{c=\"\",} +Inf 1700000000\nd NaN\ne -2\n";
        let scrape = Scrape::parse(text).expect("samples");
        assert_eq!(scrape.value("a", &labels(&[("b", "x,\"y\\\n}"), ("le", "+Inf")])), Some(3.0));
        assert_eq!(scrape.value("a", &Labels::new()), Some(1e-5));
        assert_eq!(scrape.value("b", &labels(&[("c", "")])), Some(f64::INFINITY));
        assert!(scrape.first("d").is_some_and(f64::is_nan));
        assert_eq!(scrape.first("e"), Some(-2.0));
        assert_eq!(scrape.kinds().collect::<Vec<_>>(), [("a", Kind::Gauge)]);
    }

    #[test]
    fn what_is_not_an_exposition_is_refused() {
        for text in ["<!doctype html>", "a", "a{b=\"c} 1", "a{b} 1", "a x", "{} 1", "a{b=\"\\", "é 1"] {
            assert_eq!(Scrape::parse(text).expect_err(text), NotASample(text.to_owned()));
        }
    }

    #[test]
    fn a_message_about_a_line_is_short_and_harmless() {
        let line = format!("\u{1b}[31m{}", "x".repeat(300));
        let message = Scrape::parse(&line).expect_err("no sample").to_string();
        assert!(!message.contains('\u{1b}') && message.chars().count() < 100, "{message}");
    }
}
