// SPDX-License-Identifier: MIT OR Apache-2.0
//! One exporter in detail: its histograms and its greatest series.

use headlines::amount::{amount, safe};
use headlines::{Distribution, Interval, Kind, Labels, Selector, Unit};

use crate::history::History;

/// Series of a family that are shown.
const SERIES: usize = 10;

/// Characters of a label's value that are shown.
const LABEL: usize = 60;

/// Metrics of an exporter about itself.
const OWN: [&str; 2] = ["ebpf_exporter_", "process_"];

/// What is shown of an exporter.
#[derive(Debug, Default)]
pub struct Detail {
    /// For how many seconds its histograms were watched.
    pub seconds: f64,
    /// Histograms with observations in that time, those of a family from the one with most.
    pub histograms: Vec<Histogram>,
    /// The greatest series of each family of counters and gauges.
    pub series: Vec<Line>,
}

/// A histogram.
#[derive(Debug)]
pub struct Histogram {
    /// Name of the metric.
    pub name: String,
    /// Its labels.
    pub labels: String,
    /// What was observed.
    pub distribution: Distribution,
    /// Unit of the bounds.
    pub unit: Unit,
}

/// A line of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Name of the metric.
    pub name: String,
    /// Its labels.
    pub labels: String,
    /// Growth per second of a counter, since the last time it was asked.
    pub rate: String,
    /// The value.
    pub value: String,
}

impl Detail {
    /// What is known of an exporter.
    pub fn of(history: &History) -> Self {
        let Some((whole, seconds)) = history.whole() else { return Self::default() };
        let (Some(said), Some(recent)) = (history.last(), history.recent()) else { return Self::default() };
        let mut detail = Self { seconds, ..Self::default() };
        let mut families = Vec::new();
        let foreign = |(name, _): &(&str, Kind)| !OWN.iter().any(|own| name.starts_with(own));
        for (name, kind) in said.scrape.kinds().filter(foreign) {
            if kind == Kind::Histogram {
                let labels = said.scrape.labels(&format!("{name}_bucket"));
                let by: Vec<&str> = labels.into_iter().filter(|label| *label != "le").collect();
                detail.histograms.extend(histograms(name, &by, &whole));
            } else {
                let series = said.scrape.series(name).collect();
                families.push(lines(name, kind, series, &recent));
            }
        }
        // What grows first, then what may change, then what is only a name.
        families.sort_by_key(|(rank, _)| *rank);
        detail.series = families.into_iter().flat_map(|(_, lines)| lines).collect();
        detail
    }
}

fn histograms(name: &str, by: &[&str], whole: &Interval<'_>) -> Vec<Histogram> {
    let of = Selector { metric: name.to_owned().into(), labels: Default::default() };
    let all = whole.distributions(&of, by).unwrap_or_default();
    let seen = all.into_iter().filter(|(_, distribution)| distribution.count() > 0.0);
    let mut histograms: Vec<Histogram> = seen
        .map(|(values, distribution)| Histogram {
            name: safe(name, 2 * LABEL),
            labels: shown(by.iter().copied().zip(values.iter().map(String::as_str))),
            distribution,
            unit: Unit::of_metric(name),
        })
        .collect();
    histograms.sort_by(|a, b| b.distribution.count().total_cmp(&a.distribution.count()));
    histograms
}

/// The series of a family that grow most, then the greatest; and after how many other families they come.
fn lines(name: &str, kind: Kind, series: Vec<(&Labels, f64)>, recent: &Interval<'_>) -> (u8, Vec<Line>) {
    let rates = if kind == Kind::Counter { recent.rates(name) } else { None };
    let rate = |labels: &Labels| rates.as_ref().and_then(|rates| rates.get(labels)).copied();
    let mut series = series;
    series.sort_by(|(a, x), (b, y)| {
        let rates = rate(b).unwrap_or(0.0).total_cmp(&rate(a).unwrap_or(0.0));
        rates.then(y.total_cmp(x))
    });
    let unit = Unit::of_metric(name);
    let line = |(labels, value): (&Labels, f64)| Line {
        name: safe(name, 2 * LABEL),
        labels: shown(labels.iter().map(|(label, value)| (label.as_str(), value.as_str()))),
        rate: rate(labels).map(|rate| amount(rate, unit.per_second())).unwrap_or_default(),
        value: amount(value, unit),
    };
    let grows = rates.as_ref().is_some_and(|rates| rates.values().any(|rate| *rate > 0.0));
    let rank = match kind {
        _ if name.ends_with("_info") => 3,
        Kind::Counter => u8::from(!grows) * 2,
        _ => 1,
    };
    (rank, series.into_iter().take(SERIES).map(line).collect())
}

fn shown<'l>(labels: impl Iterator<Item = (&'l str, &'l str)>) -> String {
    let one = |(label, value): (&str, &str)| format!("{}={}", safe(label, LABEL), safe(value, LABEL));
    labels.map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::history;

    #[test]
    fn the_greatest_come_first() {
        let page = |a: u32, b: u32, n: u32| {
            format!(
                "# TYPE moved_bytes_total counter\nmoved_bytes_total{{device=\"a\"}} {a}\nmoved_bytes_total{{device=\"b\"}} {b}\n\
                 # TYPE lag_seconds histogram\nlag_seconds_bucket{{device=\"a\",le=\"1\"}} {n}\n\
                 lag_seconds_bucket{{device=\"a\",le=\"+Inf\"}} {n}\n\
                 lag_seconds_bucket{{device=\"b\",le=\"1\"}} 5\nlag_seconds_bucket{{device=\"b\",le=\"+Inf\"}} 5\n\
                 lag_seconds_sum{{device=\"a\"}} 1\nlag_seconds_count{{device=\"a\"}} {n}\n\
                 # TYPE size_bytes gauge\nsize_bytes 4096\n# TYPE process_open_fds gauge\nprocess_open_fds 9\n"
            )
        };
        let detail = Detail::of(&history("x", &[], &[&page(9000, 1, 0), &page(9000, 2001, 4)]));
        let lines: Vec<[&str; 4]> =
            detail.series.iter().map(|l| [&*l.name, &*l.labels, &*l.rate, &*l.value]).collect();
        assert_eq!(
            lines,
            [
                ["moved_bytes_total", "device=b", "1 kB/s", "2 kB"],
                ["moved_bytes_total", "device=a", "0 B/s", "9 kB"],
                ["size_bytes", "", "", "4.1 kB"],
            ]
        );
        let [lag] = &*detail.histograms else { panic!("{:?}", detail.histograms) };
        assert_eq!((lag.labels.as_str(), lag.distribution.count()), ("device=a", 4.0));
        assert_eq!(detail.seconds, 2.0);
    }

    #[test]
    fn a_name_of_another_host_is_made_harmless() {
        let page = "# TYPE a_total counter\na_total{b=\"\u{1b}[2J\"} 1\n";
        let detail = Detail::of(&history("x", &[], &[page, page]));
        assert_eq!(detail.series[0].labels, "b=\u{fffd}[2J");
    }
}
