// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ratios of two counters over a window, independent of scrape times.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::exposition::metric::{Families, FamilyKind, Labels, Sample, Value};
use crate::spec::Ratio;

/// Length of the window.
pub const WINDOW: Duration = Duration::from_secs(60);

/// How often to record the counters. The actual window is up to two steps longer.
pub const STEP: Duration = Duration::from_secs(5);

/// Earlier values of a ratio's counters.
#[derive(Debug)]
pub struct Window {
    ratio: Ratio,
    /// Time, numerator and denominator; oldest first.
    past: VecDeque<(Instant, u64, u64)>,
}

impl Window {
    /// An empty window.
    pub fn new(ratio: Ratio) -> Self {
        Self { ratio, past: VecDeque::new() }
    }

    fn counters(&self, families: &Families) -> Option<(u64, u64)> {
        let (part, rest) = (families.total(&self.ratio.part)?, families.total(&self.ratio.rest)?);
        Some((part, part + rest))
    }

    /// Records the counters in `families` at time `now`, and drops records that are too old.
    pub fn remember(&mut self, families: &Families, now: Instant) {
        let Some((part, sum)) = self.counters(families) else { return };
        // Keep one record that is at least a window old.
        while self.past.get(1).is_some_and(|(then, _, _)| now.duration_since(*then) >= WINDOW) {
            self.past.pop_front();
        }
        if self.past.back().is_none_or(|(then, _, _)| now.duration_since(*then) >= STEP / 2) {
            self.past.push_back((now, part, sum));
        }
    }

    /// Drops all records, because the counters come from another source now.
    pub fn forget(&mut self) {
        self.past.clear();
    }

    /// Adds the gauge. It has no sample if neither counter grew. Adds nothing if a counter is missing
    /// or none was recorded before.
    pub fn add(&self, families: &mut Families) {
        let Some((part, sum)) = self.counters(families) else { return };
        let Some((_, old_part, old_sum)) = self.past.front() else { return };
        let (part, sum) = (part.saturating_sub(*old_part), sum.saturating_sub(*old_sum));
        let family = families.family(&self.ratio.name, &self.ratio.help, FamilyKind::Gauge);
        if sum > 0 {
            let value = Value::Float(part as f64 / sum as f64);
            family.samples.push(Sample { labels: Labels::none(), value });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(hits: u64, misses: u64) -> Families {
        let mut families = Families::default();
        families.counter("hits_total", "H.", Labels::none(), Value::Integer(hits));
        families.counter("misses_total", "M.", Labels::none(), Value::Integer(misses));
        families
    }

    #[test]
    fn the_last_minute_counts_whoever_scrapes() {
        let ratio = Ratio {
            name: "ratio".into(),
            help: "R.".into(),
            part: "hits_total".into(),
            rest: "misses_total".into(),
        };
        let mut window = Window::new(ratio);
        let start = Instant::now();
        let shown = |window: &Window, mut families: Families| {
            window.add(&mut families);
            families.get("ratio").and_then(|family| family.samples.first().map(|s| s.value.clone()))
        };
        window.remember(&families(1000, 1000), start);
        assert_eq!(shown(&window, families(1000, 1000)), None, "nothing was looked up");
        assert_eq!(shown(&window, families(1003, 1001)), Some(Value::Float(0.75)));
        // 10 hits in the first minute, then 10 misses; the first minute is forgotten.
        for second in (5..=60).step_by(5) {
            window.remember(&families(1010, 1000), start + Duration::from_secs(second));
        }
        for second in (65..=120).step_by(5) {
            window.remember(&families(1010, 1010), start + Duration::from_secs(second));
        }
        assert_eq!(shown(&window, families(1010, 1010)), Some(Value::Float(0.0)));
        window.remember(&families(1010, 1010), start + Duration::from_secs(125));
        assert_eq!(shown(&window, families(1010, 1010)), None);
        assert!(window.past.len() <= 14, "{}", window.past.len());
    }
}
