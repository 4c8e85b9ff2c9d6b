// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parses the text format.

use std::collections::BTreeMap;
use std::fmt;

use headlines::sample;

use crate::harness::passed_over;

const LOST: &str = "ebpf_exporter_lost_events_total";

/// The samples of one scrape.
#[derive(Clone, Default)]
pub struct Exposition(Vec<(String, BTreeMap<String, String>, f64)>);

impl Exposition {
    /// Parses text format 0.0.4.
    ///
    /// # Panics
    /// When a line is malformed.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = samples.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}")));
        let exposition = Self(samples.collect());
        if exposition.count(LOST, &[("reason", "recursion")]) > 0.0 {
            passed_over();
        }
        exposition
    }

    /// The value of a sample, by name and some of its labels. The sum if several match, None if
    /// none does.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |(n, l, _): &&(String, BTreeMap<String, String>, f64)| {
            n == name && labels.iter().all(|(name, value)| l.get(*name).is_some_and(|v| v == value))
        };
        self.0.iter().filter(fits).map(|(_, _, value)| *value).reduce(|a, b| a + b)
    }

    /// As [`Exposition::get`], with 0 for a series that does not exist yet.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or(0.0)
    }

    /// Name and labels of all samples.
    pub fn series(&self) -> impl Iterator<Item = (&str, Vec<(&str, &str)>)> {
        self.0.iter().map(|(name, labels, _)| {
            (name.as_str(), labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect())
        })
    }

    /// Labels and value of each sample of a name.
    pub fn samples<'e>(&'e self, name: &'e str) -> impl Iterator<Item = (&'e BTreeMap<String, String>, f64)> {
        self.0.iter().filter(move |(n, _, _)| n == name).map(|(_, labels, value)| (labels, *value))
    }

    /// The labels of all samples of a name.
    pub fn labels(&self, name: &str) -> Vec<&BTreeMap<String, String>> {
        self.0.iter().filter(|(n, _, _)| n == name).map(|(_, labels, _)| labels).collect()
    }
}

/// The difference between two scrapes. Printed without unchanged samples and without buckets,
/// because nobody finds the error in a whole exposition.
pub struct Delta(pub Exposition, pub Exposition);

impl Delta {
    /// The difference of a sample, as [`Exposition::count`].
    pub fn of(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.1.count(name, labels) - self.0.count(name, labels)
    }

    /// How much the counters of a name counted, as rates see it: a series that is new, or less than before, began
    /// from zero.
    pub fn increase(&self, name: &str) -> f64 {
        let before: BTreeMap<_, _> = self.0.samples(name).collect();
        let grown = |(labels, now): (&BTreeMap<String, String>, f64)| {
            now - before.get(labels).filter(|before| **before <= now).copied().unwrap_or_default()
        };
        self.1.samples(name).map(grown).sum()
    }

    /// Events that were lost, for any reason.
    pub fn lost(&self) -> f64 {
        self.of(LOST, &[])
    }

    /// Asserts that no event was lost and no counter went down.
    ///
    /// # Panics
    /// When an event was lost or a counter went down; the message says which.
    #[track_caller]
    pub fn assert_whole(&self) {
        self.assert_nothing_lost();
        self.assert_nothing_down();
    }

    /// Asserts that no event was lost.
    ///
    /// # Panics
    /// When events were lost; the message has the reasons.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        let lost: Vec<_> = self.grown().into_iter().filter(|line| line.starts_with(LOST)).collect();
        assert!(lost.is_empty(), "{}", lost.join("\n"));
    }

    /// Asserts that no counter or histogram went down or vanished.
    ///
    /// # Panics
    /// When one did; the message says which.
    #[track_caller]
    pub fn assert_nothing_down(&self) {
        let down = self.went_down();
        assert!(down.is_empty(), "less than before, or gone:\n{}", down.join("\n"));
    }

    /// Samples that changed, with the difference. Buckets are left out.
    fn grown(&self) -> Vec<String> {
        let before: BTreeMap<_, _> =
            self.0.0.iter().map(|(name, labels, value)| ((name, labels), *value)).collect();
        let grown = self.1.0.iter().filter(|(name, _, _)| !name.ends_with("_bucket"));
        let grown = grown.filter_map(|(name, labels, value)| {
            let by = value - before.get(&(name, labels)).unwrap_or(&0.0);
            (by != 0.0).then(|| format!("{name}{labels:?} {by:+}"))
        });
        grown.collect()
    }

    /// Names and labels of counters and histograms that went down or vanished.
    fn went_down(&self) -> Vec<String> {
        let counts =
            |name: &str| ["_total", "_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end));
        let after: BTreeMap<_, _> =
            self.1.0.iter().map(|(name, labels, value)| ((name, labels), *value)).collect();
        let before = self.0.0.iter().filter(|(name, _, _)| counts(name));
        let down =
            before.filter(|(name, labels, value)| after.get(&(name, labels)).is_none_or(|now| now < value));
        down.map(|(name, labels, value)| format!("{name}{labels:?} {value}")).collect()
    }
}

impl fmt::Debug for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.grown().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, labels, value) in self.0.iter().filter(|(_, _, value)| *value != 0.0) {
            writeln!(f, "{name}{labels:?} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unescaped() {
        let text = "# HELP a A.\na{b=\"x,\\\"y\\\\\",le=\"+Inf\"} 3\na 1e-05\nb_total{c=\"d\"} 2\nb_total{c=\"e\"} 5\n";
        let exposition = Exposition::parse(text);
        assert_eq!(exposition.get("a", &[("b", "x,\"y\\"), ("le", "+Inf")]), Some(3.0));
        assert_eq!(exposition.get("b_total", &[]), Some(7.0));
        assert_eq!(exposition.get("b_total", &[("c", "f")]), None);
    }

    #[test]
    fn a_delta_shows_what_changed() {
        let [before, after] =
            ["a_total 1\nb_total 2\nc_bucket{le=\"1\"} 0\n", "a_total 1\nb_total 5\nc_bucket{le=\"1\"} 9\n"]
                .map(Exposition::parse);
        let delta = Delta(before, after);
        assert_eq!(format!("{delta:?}"), "b_total{} +3\n");
        delta.assert_whole();
    }

    #[test]
    #[should_panic(expected = "{\"reason\": \"map_full\"} +2")]
    fn lost_events_are_told_with_their_reason() {
        let [before, after] =
            [3, 5].map(|n| Exposition::parse(&format!("{LOST}{{reason=\"map_full\"}} {n}\n")));
        Delta(before, after).assert_whole();
    }

    #[test]
    fn a_series_that_is_new_or_less_began_from_zero() {
        let [before, after] = [("a", 5, "b", 7), ("b", 2, "c", 3)].map(|(one, m, other, n)| {
            Exposition::parse(&format!(
                "x_total{{l=\"{one}\"}} {m}\nx_total{{l=\"{other}\"}} {n}\nx_total 4\n"
            ))
        });
        assert_eq!(Delta(before, after).increase("x_total"), 5.0);
    }

    #[test]
    #[should_panic(expected = "a_total{} 2")]
    fn a_counter_that_went_down_is_told() {
        Delta(Exposition::parse("a_total 2\n"), Exposition::parse("a_total 1\n")).assert_whole();
    }
}
