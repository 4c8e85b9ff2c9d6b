// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits families to their largest series; the rest is added up.

use std::collections::BTreeMap;

use crate::exposition::metric::{Families, FamilyKind, Labels, Sample, Value};
use crate::read::decode::OTHER;
use crate::spec::Top;

/// State of a family, so that no counter goes down. A counter that was once shown separately is
/// always shown separately. Its value before that stays in "other".
#[derive(Debug)]
pub struct Ranking {
    top: Top,
    /// Value of a series when it was first shown separately.
    placed: BTreeMap<Labels, u64>,
    /// Values of the previous scrape.
    before: BTreeMap<Labels, u64>,
    /// What "other" had of series that have ended or begun again.
    ended: u64,
    first: bool,
}

impl Ranking {
    /// The state before the first scrape.
    pub fn new(top: Top) -> Self {
        Self { top, placed: BTreeMap::new(), before: BTreeMap::new(), ended: 0, first: true }
    }

    /// Reduces the family in `families`: a counter to the series that grew most since the previous
    /// scrape and those already shown separately, a gauge to the largest.
    pub fn apply(&mut self, families: &mut Families) {
        let Some(family) = families.get_mut(&self.top.family) else { return };
        let Some(first) = family.samples.first() else { return };
        let names: Vec<(&str, &str)> = first.labels.pairs().map(|(name, _)| (name, OTHER)).collect();
        let other = Labels::of(&names);
        let counter = family.kind == FamilyKind::Counter;
        let mut values: BTreeMap<Labels, u64> = BTreeMap::new();
        let mut nanoseconds = false;
        for sample in family.samples.drain(..) {
            let value = match sample.value {
                Value::Integer(n) => n,
                Value::Nanoseconds(n) => {
                    nanoseconds = true;
                    n
                }
                Value::Float(_) | Value::Histogram(_) => continue,
            };
            *values.entry(sample.labels).or_default() += value;
        }
        let rest = values.remove(&other).unwrap_or_default();
        if counter {
            self.end(&values);
        }
        let weight = |labels: &Labels, value: u64| match counter {
            true => value - self.before.get(labels).copied().unwrap_or_default().min(value),
            false => value,
        };
        let mut order: Vec<(u64, &Labels)> =
            values.iter().map(|(labels, value)| (weight(labels, *value), labels)).collect();
        order.sort_by_key(|(weight, labels)| (std::cmp::Reverse(*weight), *labels));
        let best = order.into_iter().take(self.top.n).filter(|(weight, _)| *weight > 0);
        let best: Vec<Labels> = best.map(|(_, labels)| labels.clone()).collect();
        if !counter {
            self.placed.clear();
        }
        for labels in best {
            // At the first scrape, series start with their full value: "other" has not been shown
            // yet, so it cannot go down.
            let had = if self.first || !counter {
                0
            } else {
                self.before.get(&labels).copied().unwrap_or_default()
            };
            self.placed.entry(labels).or_insert(had);
        }
        let number = |n| if nanoseconds { Value::Nanoseconds(n) } else { Value::Integer(n) };
        let mut others = rest + self.ended;
        for (labels, value) in &values {
            match self.placed.get(labels) {
                Some(had) => {
                    others += had;
                    let value = number(value - (*had).min(*value));
                    family.samples.push(Sample { labels: labels.clone(), value });
                }
                None => others += value,
            }
        }
        family.samples.push(Sample { labels: other, value: number(others) });
        self.before = values;
        self.first = false;
    }

    /// Keeps what "other" showed of counters that are gone, or count from zero again.
    fn end(&mut self, values: &BTreeMap<Labels, u64>) {
        self.before.retain(|labels, before| {
            let now = values.get(labels).copied();
            if now.is_some_and(|now| now >= *before) {
                return true;
            }
            self.ended += match (self.placed.get_mut(labels), now) {
                (Some(had), Some(_)) => std::mem::take(had),
                (Some(_), None) => self.placed.remove(labels).unwrap_or_default(),
                (None, _) => *before,
            };
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(ranking: &mut Ranking, kind: FamilyKind, values: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let mut families = Families::default();
        let family = families.family("f", "F.", kind);
        for (name, value) in values {
            let labels = Labels::of(&[("process", name)]);
            family.samples.push(Sample { labels, value: Value::Integer(*value) });
        }
        ranking.apply(&mut families);
        let samples = families.get("f").expect("it was added").samples.iter();
        let name = |labels: &Labels| labels.as_str().split('"').nth(1).unwrap_or_default().to_owned();
        samples
            .map(|sample| match sample.value {
                Value::Integer(n) => (name(&sample.labels), n),
                _ => panic!("not a number"),
            })
            .collect()
    }

    fn shown(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn counters_never_go_down_and_add_up() {
        let mut ranking = Ranking::new(Top { family: "f".into(), n: 2 });
        let mut of = |values: &[(&str, u64)]| scrape(&mut ranking, FamilyKind::Counter, values);
        assert_eq!(of(&[("a", 10), ("b", 5), ("c", 1)]), shown(&[("a", 10), ("b", 5), ("other", 1)]));
        // c grows most and is shown separately from now on. Its earlier value stays in "other".
        assert_eq!(
            of(&[("a", 11), ("b", 5), ("c", 100)]),
            shown(&[("a", 11), ("b", 5), ("c", 99), ("other", 1)])
        );
        // Idle series stay separate. Events that the program counted as "other" are added to the rest.
        assert_eq!(
            of(&[("a", 11), ("b", 6), ("c", 100), ("d", 1), ("e", 1), ("other", 7)]),
            shown(&[("a", 11), ("b", 6), ("c", 99), ("d", 1), ("other", 9)])
        );
    }

    #[test]
    fn other_keeps_what_it_had_of_counters_that_end() {
        let mut ranking = Ranking::new(Top { family: "f".into(), n: 1 });
        let mut of = |values: &[(&str, u64)]| scrape(&mut ranking, FamilyKind::Counter, values);
        assert_eq!(of(&[("a", 10), ("b", 5), ("c", 1)]), shown(&[("a", 10), ("other", 6)]));
        assert_eq!(of(&[("a", 10), ("b", 9), ("c", 1)]), shown(&[("a", 10), ("b", 4), ("other", 6)]));
        // All three end. b had 5 in "other", c had 1.
        assert_eq!(of(&[("d", 2)]), shown(&[("d", 2), ("other", 6)]));
        // They are there again, from zero.
        assert_eq!(of(&[("b", 3), ("c", 1), ("d", 2)]), shown(&[("b", 3), ("d", 2), ("other", 7)]));
        // Between two scrapes they ended and were there again.
        assert_eq!(of(&[("b", 1), ("c", 0), ("d", 2)]), shown(&[("b", 1), ("d", 2), ("other", 7)]));
    }

    #[test]
    fn other_has_all_labels() {
        let mut families = Families::default();
        let family = families.family("f", "F.", FamilyKind::Counter);
        for (labels, value) in [(["a", "/x"], 7), (["a", "/y"], 2), (["other", "other"], 1)] {
            let labels = Labels::of(&[("process", labels[0]), ("cgroup", labels[1])]);
            family.samples.push(Sample { labels, value: Value::Integer(value) });
        }
        Ranking::new(Top { family: "f".into(), n: 1 }).apply(&mut families);
        let samples = &families.get("f").expect("it was added").samples;
        let shown: Vec<_> =
            samples.iter().map(|sample| (sample.labels.as_str(), sample.value.clone())).collect();
        assert_eq!(
            shown,
            [
                ("process=\"a\",cgroup=\"/x\"", Value::Integer(7)),
                ("process=\"other\",cgroup=\"other\"", Value::Integer(3)),
            ]
        );
    }

    #[test]
    fn gauges_show_the_greatest_of_now() {
        let mut ranking = Ranking::new(Top { family: "f".into(), n: 1 });
        let mut of = |values: &[(&str, u64)]| scrape(&mut ranking, FamilyKind::Gauge, values);
        assert_eq!(of(&[("a", 10), ("b", 5)]), shown(&[("a", 10), ("other", 5)]));
        assert_eq!(of(&[("a", 1), ("b", 5)]), shown(&[("b", 5), ("other", 1)]));
    }
}
