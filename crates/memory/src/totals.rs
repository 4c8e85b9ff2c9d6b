// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers of page faults.

use common::exposition::metric::{Families, Labels, Value};
use common::kernel::perf::{Counter, Event};
use common::kernel::refusal::Obstacles;

/// The histogram that the latency probe makes: its counts are the probe's numbers of faults.
pub const LATENCY: &str = "ebpf_page_fault_latency_seconds";

/// Minor and major faults.
type Faults = [u64; 2];

/// Counts minor and major faults: with the kernel's own counters, at no cost, or with the latency
/// probe if the kernel refuses.
#[derive(Default)]
pub struct Totals {
    /// None if the kernel refuses.
    kernel: Option<[Counter; 2]>,
    /// The last reading of the kernel's counters.
    counted: Faults,
    /// The last reading of the probe; None if there is none.
    measured: Option<Faults>,
    /// None once faults went uncounted for a while: the total would be wrong.
    shown: Option<Faults>,
}

impl Totals {
    /// Opens the kernel's counters. `measured`: whether the latency probe is enabled.
    pub fn new(measured: bool) -> Self {
        let open = || Ok([Counter::open(Event::MinorFaults)?, Counter::open(Event::MajorFaults)?]);
        let kernel: Result<_, anyhow::Error> = open();
        match &kernel {
            Ok(_) => {}
            Err(refused) if measured => {
                log::info!(
                    "page faults are counted by the probe that measures their latency, not by \
                     the kernel: {refused:#}"
                );
            }
            Err(refused) => {
                let why = Obstacles::now().explain(&format!("{refused:#}"));
                log::warn!("page faults are not counted: {why}");
            }
        }
        Self {
            shown: (kernel.is_ok() || measured).then_some([0, 0]),
            kernel: kernel.ok(),
            counted: [0, 0],
            measured: measured.then_some([0, 0]),
        }
    }

    /// Adds both families, or none.
    pub fn add(&mut self, families: &mut Families) {
        let kernel = match self.kernel.as_mut().map(read).transpose() {
            Ok(reading) => reading,
            Err(error) => {
                self.kernel = None;
                log::warn!("failed to read the kernel's page fault counters: {error:#}");
                None
            }
        };
        let measured = match [measured("minor", families), measured("major", families)] {
            [Some(minor), Some(major)] => Some([minor, major]),
            _ => None,
        };
        if let Some([minor, major]) = self.next(kernel, measured) {
            show(minor, major, families);
        }
    }

    /// The totals to show. `kernel`: its counters, and whether they cover all CPUs. `measured`: the
    /// counts of the probe.
    fn next(&mut self, kernel: Option<(Faults, bool)>, measured: Option<Faults>) -> Option<Faults> {
        let growth = |now: Faults, before: Faults| {
            [now[0].saturating_sub(before[0]), now[1].saturating_sub(before[1])]
        };
        let by_kernel = kernel.map(|(now, whole)| (growth(now, self.counted), whole));
        let by_probe = measured.zip(self.measured).map(|(now, before)| growth(now, before));
        let grown = match (by_kernel, by_probe) {
            (Some((grown, true)), _) | (_, Some(grown)) => Some(grown),
            (Some((grown, false)), None) => {
                log::warn!("page faults on a CPU that came online were not counted until now");
                Some(grown)
            }
            (None, None) => None,
        };
        self.counted = kernel.map_or(self.counted, |(now, _)| now);
        self.measured = measured;
        if self.shown.is_some() && grown.is_none() {
            log::error!("page faults are no longer counted: restart the exporter to count them again");
        }
        self.shown = self.shown.zip(grown).map(|(shown, grown)| [shown[0] + grown[0], shown[1] + grown[1]]);
        self.shown
    }
}

/// The kernel's counters, and whether they cover all CPUs.
fn read(counters: &mut [Counter; 2]) -> anyhow::Result<(Faults, bool)> {
    let [minor, major] = counters;
    let (minor, major) = (minor.read()?, major.read()?);
    Ok(([minor.total, major.total], minor.whole && major.whole))
}

/// The number of latencies observed for faults of `kind`.
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
        "Minor page faults: they needed no I/O and did not wait for any. A fault that the kernel retries \
         counts once.",
        Labels::none(),
        Value::Integer(minor),
    );
    families.counter(
        "ebpf_page_faults_major_total",
        "Major page faults: they needed I/O or waited for it, such as a read from a file or from swap. \
         They are not counted as minor.",
        Labels::none(),
        Value::Integer(major),
    );
}

#[cfg(test)]
mod tests {
    use common::exposition::hist::Unit;
    use common::exposition::metric::{FamilyKind, Histogram, Sample, Scale};

    use super::*;

    fn by_probe() -> Totals {
        Totals { measured: Some([0, 0]), shown: Some([0, 0]), ..Totals::default() }
    }

    #[test]
    fn faults_are_counted_by_whoever_can() {
        let mut families = Families::default();
        by_probe().add(&mut families);
        assert!(families.get("ebpf_page_faults_minor_total").is_none(), "absent, not zero");
        for (kind, count) in [("minor", 12), ("major", 3), ("failed", 1)] {
            let (scale, buckets) = (Scale::Unit(Unit::Seconds), vec![1, count]);
            let histogram = Histogram { scale, buckets, sum: 0, native: None };
            let value = Value::Histogram(Box::new(histogram));
            families
                .family(LATENCY, "", FamilyKind::Histogram)
                .samples
                .push(Sample { labels: Labels::of(&[("kind", kind)]), value });
        }
        Totals::default().add(&mut families);
        assert!(families.get("ebpf_page_faults_minor_total").is_none());
        by_probe().add(&mut families);
        assert_eq!(families.total("ebpf_page_faults_minor_total"), Some(12));
        assert_eq!(families.total("ebpf_page_faults_major_total"), Some(3));
    }

    #[test]
    fn the_probe_counts_while_a_cpu_comes_and_goes() {
        let mut totals = by_probe();
        assert_eq!(totals.next(Some(([10, 1], true)), Some([9, 1])), Some([10, 1]));
        // Of 20 faults, the kernel counted 5: a CPU went offline and came back.
        assert_eq!(totals.next(Some(([15, 1], false)), Some([29, 2])), Some([30, 2]));
        assert_eq!(totals.next(Some(([18, 1], true)), Some([32, 2])), Some([33, 2]));
        // The kernel refuses to open a counter on a CPU that came online later.
        assert_eq!(totals.next(None, Some([40, 4])), Some([41, 4]));
        assert_eq!(totals.next(None, Some([41, 4])), Some([42, 4]));
    }

    #[test]
    fn without_a_probe_they_are_absent_once_nobody_counts() {
        let mut totals = Totals { measured: None, ..by_probe() };
        assert_eq!(totals.next(Some(([10, 1], true)), None), Some([10, 1]));
        assert_eq!(totals.next(Some(([15, 1], false)), None), Some([15, 1]), "it counts again");
        assert_eq!(totals.next(None, None), None);
        assert_eq!(totals.next(None, Some([50, 4])), None, "not a part of them");
    }
}
