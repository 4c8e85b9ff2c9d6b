// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many page faults there were.

use common::metric::{Families, Labels, Value};
use common::perf::{Counter, Event};

use crate::LATENCY;

/// Who counts minor and major faults.
#[derive(Default)]
pub enum Totals {
    /// The kernel, at no cost.
    Kernel { minor: Counter, major: Counter },
    /// The probe that measures their latency.
    Probe,
    /// Nobody: the kernel stopped to let us read them.
    #[default]
    Nobody,
}

impl Totals {
    /// Asks the kernel to count; `measured`: the probe is wanted.
    pub fn new(measured: bool) -> Self {
        let open = || Ok((Counter::open(Event::MinorFaults)?, Counter::open(Event::MajorFaults)?));
        let refused: anyhow::Error = match open() {
            Ok((minor, major)) => return Self::Kernel { minor, major },
            Err(refused) => refused,
        };
        if measured {
            log::info!("page faults are counted by the probe that measures them: {refused:#}");
            return Self::Probe;
        }
        log::warn!(
            "page faults are not counted: {refused:#}; set kernel.perf_event_paranoid to 2, add CAP_SYS_ADMIN, \
             or let --memory.fault-latency be true"
        );
        Self::Nobody
    }

    /// Adds both families, or none.
    pub fn add(&mut self, families: &mut Families) {
        let (minor, major) = match self {
            Self::Kernel { minor, major } => match (minor.read(), major.read()) {
                (Ok(minor), Ok(major)) => (minor, major),
                (Err(error), _) | (_, Err(error)) => {
                    log::error!("page faults are no longer counted, restart to count them again: {error:#}");
                    return *self = Self::Nobody;
                }
            },
            Self::Probe => match (measured("minor", families), measured("major", families)) {
                (Some(minor), Some(major)) => (minor, major),
                _ => return,
            },
            Self::Nobody => return,
        };
        show(minor, major, families);
    }
}

/// How many faults of `kind` have a latency.
fn measured(kind: &str, families: &Families) -> Option<u64> {
    let labels = Labels::of(&[("kind", kind)]);
    let samples = &families.get(LATENCY)?.samples;
    match &samples.iter().find(|sample| sample.labels == labels)?.value {
        Value::Histogram(histogram) => histogram.buckets.last().copied(),
        _ => None,
    }
}

/// Adds both families.
pub fn show(minor: u64, major: u64, families: &mut Families) {
    families.counter(
        "ebpf_page_faults_minor_total",
        "Page faults that needed no I/O and did not wait for any.",
        Labels::none(),
        Value::Integer(minor),
    );
    families.counter(
        "ebpf_page_faults_major_total",
        "Page faults that needed I/O, or waited for it; none of them is also minor.",
        Labels::none(),
        Value::Integer(major),
    );
}

#[cfg(test)]
mod tests {
    use common::hist::Unit;
    use common::metric::{FamilyKind, Histogram, Sample};

    use super::*;

    #[test]
    fn faults_are_counted_by_whoever_can() {
        let mut families = Families::default();
        Totals::Probe.add(&mut families);
        assert!(families.get("ebpf_page_faults_minor_total").is_none(), "absent, not zero");
        for (kind, count) in [("minor", 12), ("major", 3), ("failed", 1)] {
            let histogram = Histogram { unit: Unit::Seconds, buckets: vec![1, count], sum: 0 };
            let value = Value::Histogram(Box::new(histogram));
            families
                .family(LATENCY, "", FamilyKind::Histogram)
                .samples
                .push(Sample { labels: Labels::of(&[("kind", kind)]), value });
        }
        Totals::Nobody.add(&mut families);
        assert!(families.get("ebpf_page_faults_minor_total").is_none());
        Totals::Probe.add(&mut families);
        assert_eq!(families.total("ebpf_page_faults_minor_total"), Some(12));
        assert_eq!(families.total("ebpf_page_faults_major_total"), Some(3));
    }
}
