// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers of a headline, from two scrapes.

use std::collections::BTreeMap;

use crate::amount::{amount, safe};
use crate::headline::{Headline, Measure, Selector, VALUE};
use crate::histogram::Distribution;
use crate::scrape::{Labels, Scrape};

/// What stands for all that found no room of its own.
const OTHER: &str = "other";

/// Characters of a label that a headline shows.
const LABEL: usize = 40;

/// Two scrapes of one exporter.
#[derive(Clone, Copy, Debug)]
pub struct Interval<'s> {
    before: Option<&'s Scrape>,
    after: &'s Scrape,
    seconds: f64,
}

/// What a headline says.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// A number, and the labels of the greatest.
    Value(f64, Vec<String>),
    /// There was no event.
    Nothing,
    /// It is not known yet: there is no earlier scrape of the same process.
    NotYet,
    /// The exporter does not have the metric: it runs without eBPF, or lacks a probe.
    NotMeasured,
}

impl<'s> Interval<'s> {
    /// `before` was scraped `seconds` before `after`. If the exporter was started anew in between, it
    /// is as if there had been no earlier scrape.
    pub fn new(before: Option<&'s Scrape>, after: &'s Scrape, seconds: f64) -> Self {
        let before = before.filter(|before| seconds > 0.0 && !restarted(before, after));
        Self { before, after, seconds }
    }

    /// Whether growth is known.
    pub fn is_known(&self) -> bool {
        self.before.is_some()
    }

    /// What a number of a headline is.
    pub fn read(&self, headline: &Headline) -> Reading {
        // A gauge may be absent because there is nothing to tell of.
        let counts = !matches!(headline.measure, Measure::Gauge { .. } | Measure::Share { .. });
        if counts && headline.selectors().iter().any(|of| !self.after.has(&of.metric)) {
            return Reading::NotMeasured;
        }
        let by = headline.labels();
        let growth = |of| self.growth(of, &by);
        let values = match &headline.measure {
            Measure::Gauge { of } => Some(self.now(of, &by)),
            Measure::Share { part, whole } => {
                Some(divided(&self.now(part, &by), whole.iter().map(|of| self.now(of, &by))))
            }
            Measure::Rate { of } => growth(of).map(|grown| {
                let events = grown.into_iter().filter(|(_, by)| *by > 0.0);
                events.map(|(labels, by)| (labels, by / self.seconds)).collect()
            }),
            Measure::Ratio { part, whole } => {
                let whole: Option<Vec<_>> = whole.iter().map(growth).collect();
                whole.and_then(|whole| Some(divided(&growth(part)?, whole)))
            }
            Measure::Quantile { of, q } => self.distributions(of, &by).map(|all| {
                all.into_iter().filter_map(|(labels, d)| Some((labels, d.quantile(*q)?))).collect()
            }),
        };
        match values {
            None => Reading::NotYet,
            Some(values) => greatest(values).map_or(Reading::Nothing, |(labels, value)| {
                Reading::Value(
                    value,
                    labels.into_iter().zip(by).map(|(v, l)| self.named(headline, l, v)).collect(),
                )
            }),
        }
    }

    /// What is shown of a number: `read p99 1.3 ms on nvme0n1`, `no reads`. `None` for a number that is not
    /// known.
    pub fn text(&self, headline: &Headline) -> Option<String> {
        match self.read(headline) {
            Reading::Value(value, labels) => Some(filled(headline, value, &labels)),
            Reading::Nothing => Some(safe(&headline.none, 2 * LABEL)).filter(|text| !text.is_empty()),
            Reading::NotYet | Reading::NotMeasured => None,
        }
    }

    /// How many observations of a histogram were made between the scrapes, by the values of these
    /// labels. `None` if that is not known.
    pub fn distributions(&self, of: &Selector, by: &[&str]) -> Option<BTreeMap<Vec<String>, Distribution>> {
        let name = format!("{}_bucket", of.metric);
        let selector = Selector { metric: name.into(), labels: of.labels.clone() };
        let mut all: BTreeMap<Vec<String>, Distribution> = BTreeMap::new();
        for (labels, grown) in self.grown(&selector)? {
            let Some(bound) = labels.get("le").and_then(|le| le.parse().ok()) else { continue };
            all.entry(group(labels, by)).or_default().add(bound, grown);
        }
        Some(all)
    }

    /// Growth per second of each series of a counter. `None` if that is not known.
    pub fn rates(&self, counter: &str) -> Option<BTreeMap<&'s Labels, f64>> {
        let of = Selector { metric: counter.to_owned().into(), labels: BTreeMap::new() };
        Some(self.grown(&of)?.into_iter().map(|(labels, grown)| (labels, grown / self.seconds)).collect())
    }

    /// Growth of a counter, by the values of these labels. `None` if that is not known.
    fn growth(&self, of: &Selector, by: &[&str]) -> Option<BTreeMap<Vec<String>, f64>> {
        Some(sums(self.grown(of)?, by))
    }

    /// Growth of each series. One that was not there before counts from 0. If one went down, the exporter
    /// counts anew, and nothing is known.
    fn grown(&self, of: &Selector) -> Option<Vec<(&'s Labels, f64)>> {
        let before = self.before?;
        let of_each = |(labels, value)| {
            let grown = value - before.value(&of.metric, labels).unwrap_or(0.0);
            (grown >= 0.0).then_some((labels, grown))
        };
        chosen(self.after, of).map(of_each).collect()
    }

    /// Values of a gauge, by the values of these labels.
    fn now(&self, of: &Selector, by: &[&str]) -> BTreeMap<Vec<String>, f64> {
        sums(chosen(self.after, of), by)
    }

    /// The value of a label, or a better name for it.
    fn named(&self, headline: &Headline, label: &str, value: String) -> String {
        let Some(alias) = headline.alias.as_ref().filter(|alias| alias.label == label) else { return value };
        let mut others = self.after.series(&alias.metric);
        let same = others.find(|(labels, _)| labels.get(label) == Some(&value));
        let name = same.and_then(|(labels, _)| labels.get(&*alias.name)).filter(|name| !name.is_empty());
        name.cloned().unwrap_or(value)
    }
}

const MODE: &str = "ebpf_exporter_mode";

/// Whether another process answers, or the same has executed itself anew.
fn restarted(before: &Scrape, after: &Scrape) -> bool {
    let both = |name| Some((before.first(name)?, after.first(name)?));
    both("process_start_time_seconds").is_some_and(|(before, after)| before != after)
        || both("ebpf_exporter_scrapes_total").is_some_and(|(before, after)| after <= before)
        || before.label(MODE, "mode") != after.label(MODE, "mode")
}

fn chosen<'s>(scrape: &'s Scrape, of: &Selector) -> impl Iterator<Item = (&'s Labels, f64)> {
    let fits = |labels: &Labels| {
        of.labels.iter().all(|(name, value)| labels.get(&**name).is_some_and(|v| v == value))
    };
    scrape.series(&of.metric).filter(move |(labels, value)| !value.is_nan() && fits(labels))
}

fn group(labels: &Labels, by: &[&str]) -> Vec<String> {
    by.iter().map(|name| labels.get(*name).cloned().unwrap_or_default()).collect()
}

fn sums<'s>(series: impl IntoIterator<Item = (&'s Labels, f64)>, by: &[&str]) -> BTreeMap<Vec<String>, f64> {
    let mut sums = BTreeMap::new();
    for (labels, value) in series {
        *sums.entry(group(labels, by)).or_default() += value;
    }
    sums
}

/// Quotients of groups. There is none where the divisor is 0.
fn divided(
    part: &BTreeMap<Vec<String>, f64>,
    whole: impl IntoIterator<Item = BTreeMap<Vec<String>, f64>>,
) -> BTreeMap<Vec<String>, f64> {
    let mut divisors: BTreeMap<Vec<String>, f64> = BTreeMap::new();
    for (labels, value) in whole.into_iter().flatten() {
        *divisors.entry(labels).or_default() += value;
    }
    let quotient = |(labels, divisor): (Vec<String>, f64)| {
        let part = part.get(&labels).copied().unwrap_or_default();
        (divisor > 0.0).then(|| (labels, part / divisor))
    };
    divisors.into_iter().filter_map(quotient).collect()
}

/// The greatest value. What found no room of its own comes last: it is several.
fn greatest(values: BTreeMap<Vec<String>, f64>) -> Option<(Vec<String>, f64)> {
    let is_one = |labels: &[String]| !labels.iter().any(|label| label == OTHER);
    values.into_iter().reduce(|best, next| {
        let order = is_one(&next.0).cmp(&is_one(&best.0)).then(next.1.total_cmp(&best.1));
        if order.is_gt() { next } else { best }
    })
}

/// The text with its values.
fn filled(headline: &Headline, value: f64, labels: &[String]) -> String {
    let mut labels = labels.iter();
    let mut text = String::new();
    let mut rest = headline.text.as_ref();
    while let Some((words, (name, after))) =
        rest.split_once('{').and_then(|(words, rest)| Some((words, rest.split_once('}')?)))
    {
        text += &safe(words, 2 * LABEL);
        text += &match name {
            VALUE => amount(value, headline.unit),
            _ => labels.next().map(|label| safe(label, LABEL)).unwrap_or_default(),
        };
        rest = after;
    }
    text + &safe(rest, 2 * LABEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(text: &str) -> Scrape {
        Scrape::parse(text).expect("samples")
    }

    /// What a headline says of two pages that are two seconds apart.
    fn said(headline: &Headline, before: &str, after: &str) -> Option<String> {
        // Of a metric without series, an exporter tells the type.
        let types = "# TYPE cpu_seconds_total counter\n# TYPE hits_total counter\n\
                     # TYPE misses_total counter\n# TYPE io_microseconds histogram\n";
        let (before, after) = (scrape(before), scrape(&format!("{types}{after}")));
        Interval::new(Some(&before), &after, 2.0).text(headline)
    }

    #[test]
    fn a_rate_is_of_the_series_that_grows_most() {
        let top = Headline::rate("top: {process} {value} CPUs", "cpu_seconds_total").or("all idle");
        let before = "cpu_seconds_total{process=\"sh\",core=\"0\"} 100\ncpu_seconds_total{process=\"postgres\",core=\"0\"} 1\n\
                      cpu_seconds_total{process=\"other\",core=\"0\"} 1\n";
        let after = "cpu_seconds_total{process=\"sh\",core=\"0\"} 101\ncpu_seconds_total{process=\"postgres\",core=\"0\"} 2\n\
                     cpu_seconds_total{process=\"postgres\",core=\"1\"} 1.4\ncpu_seconds_total{process=\"other\",core=\"0\"} 9\n";
        assert_eq!(said(&top, before, after).as_deref(), Some("top: postgres 1.2 CPUs"));
        assert_eq!(said(&top, after, after).as_deref(), Some("all idle"));
        assert_eq!(said(&top, "", "").as_deref(), Some("all idle"));
        let all = Headline::rate("{value} in all", "cpu_seconds_total");
        assert_eq!(said(&all, before, after).as_deref(), Some("5.7 in all"));
        let others = "cpu_seconds_total{process=\"other\"} 8\n";
        assert_eq!(said(&top, "", others).as_deref(), Some("top: other 4 CPUs"));
    }

    #[test]
    fn a_quantile_is_of_what_was_observed_in_between() {
        let p99 = Headline::quantile("read p99 {value} on {device}", 0.99, "io_microseconds")
            .only("operation", "read")
            .or("no reads");
        let page = |device: &str, operation: &str, counts: [u32; 3]| {
            let line = |le: &str, n| {
                format!(
                    "io_microseconds_bucket{{device=\"{device}\",operation=\"{operation}\",le=\"{le}\"}} {n}\n"
                )
            };
            line("1024", counts[0]) + &line("2048", counts[1]) + &line("+Inf", counts[2])
        };
        let before = page("sda", "read", [50, 50, 50]) + &page("sda", "write", [0, 0, 5]);
        let after = page("sda", "read", [51, 51, 51])
            + &page("sda", "write", [0, 0, 50])
            + &page("sdb", "read", [0, 100, 100]);
        assert_eq!(said(&p99, &before, &after).as_deref(), Some("read p99 2 ms on sdb"));
        assert_eq!(said(&p99, &after, &after).as_deref(), Some("no reads"));
    }

    #[test]
    fn a_ratio_without_events_is_not_a_number() {
        let hits = Headline::ratio("hit ratio {value}", "hits_total", &["hits_total", "misses_total"])
            .or("no look-ups");
        let page = |hits: u32, misses: u32| format!("hits_total {hits}\nmisses_total {misses}\n");
        assert_eq!(said(&hits, &page(100, 100), &page(197, 103)).as_deref(), Some("hit ratio 97 %"));
        assert_eq!(said(&hits, &page(100, 100), &page(100, 103)).as_deref(), Some("hit ratio 0 %"));
        assert_eq!(said(&hits, &page(100, 100), &page(100, 100)).as_deref(), Some("no look-ups"));
        assert_eq!(said(&hits, "", "").as_deref(), Some("no look-ups"));
    }

    #[test]
    fn a_gauge_is_its_value_and_has_the_better_name() {
        let age = Headline::gauge("{interface} {peer}: handshake {value} ago", "age_seconds")
            .alias("peer", "peer_info", "name")
            .or("no handshake");
        let page =
            "age_seconds{interface=\"wg0\",peer=\"AQ\"} 34\nage_seconds{interface=\"wg0\",peer=\"BQ\"} 3\n";
        let info = "peer_info{peer=\"BQ\",name=\"bob\"} 1\npeer_info{peer=\"AQ\",name=\"alice\"} 1\n";
        assert_eq!(said(&age, "", page).as_deref(), Some("wg0 AQ: handshake 34 s ago"));
        assert_eq!(
            said(&age, "", &format!("{page}{info}")).as_deref(),
            Some("wg0 alice: handshake 34 s ago")
        );
        let unnamed = format!("{page}peer_info{{peer=\"AQ\",name=\"\"}} 1\n");
        assert_eq!(said(&age, "", &unnamed).as_deref(), Some("wg0 AQ: handshake 34 s ago"));
        assert_eq!(said(&age, page, "").as_deref(), Some("no handshake"));
        assert_eq!(
            said(&age, "", "age_seconds{interface=\"w\",peer=\"p\"} NaN\n").as_deref(),
            Some("no handshake")
        );
        let full = Headline::share("{pool} {value} full", "used_bytes", &["used_bytes", "free_bytes"])
            .or("no pools");
        assert_eq!(
            said(&full, "", "used_bytes{pool=\"tank\"} 1\nfree_bytes{pool=\"tank\"} 3\n").as_deref(),
            Some("tank 25 % full")
        );
        assert_eq!(said(&full, "", "").as_deref(), Some("no pools"));
        let open = Headline::gauge("{value} connections", "open");
        assert_eq!(said(&open, "", "open 0\n").as_deref(), Some("0 connections"));
    }

    #[test]
    fn after_a_restart_there_is_no_rate() {
        let calls = Headline::rate("{value} calls/s", "calls_total").or("no calls");
        let page = |start: u32, scrapes: u32, mode: &str, calls: u32| {
            format!(
                "process_start_time_seconds {start}\nebpf_exporter_scrapes_total {scrapes}\n\
                 ebpf_exporter_mode{{mode=\"{mode}\"}} 1\ncalls_total {calls}\n"
            )
        };
        let first = page(7, 3, "ebpf", 10);
        assert_eq!(said(&calls, &first, &page(7, 4, "ebpf", 20)).as_deref(), Some("5 calls/s"));
        for restarted in
            [page(8, 4, "ebpf", 20), page(7, 1, "ebpf", 20), page(7, 4, "waiting", 20), page(7, 4, "ebpf", 9)]
        {
            assert_eq!(said(&calls, &first, &restarted), None, "{restarted}");
        }
        let (one, two) = (scrape("calls_total 1\n"), scrape("calls_total 2\n"));
        assert_eq!(Interval::new(None, &two, 2.0).read(&calls), Reading::NotYet);
        assert_eq!(Interval::new(Some(&one), &two, 0.0).read(&calls), Reading::NotYet);
    }

    #[test]
    fn what_is_not_measured_is_not_called_nothing() {
        let calls = Headline::rate("{value} calls/s", "calls_total").or("no calls");
        let p99 = Headline::quantile("p99 {value}", 0.99, "io_seconds").or("no I/O");
        let waits = Headline::rate("{value} waits/s", "wait_seconds_count").or("no waits");
        let open = Headline::gauge("{value} open", "open").or("none open");
        let page = scrape("ebpf_exporter_mode{mode=\"fallback\"} 1\nopen 3\n# TYPE wait_seconds histogram\n");
        let interval = Interval::new(Some(&page), &page, 2.0);
        assert_eq!(interval.read(&calls), Reading::NotMeasured);
        assert_eq!(interval.read(&p99), Reading::NotMeasured);
        assert_eq!(interval.read(&waits), Reading::Nothing);
        assert_eq!(interval.text(&open).as_deref(), Some("3 open"));
    }

    #[test]
    fn hostile_labels_do_not_reach_the_terminal() {
        let top = Headline::rate("top: {p} {value}/s", "n_total");
        let name = format!("\u{1b}]0;title\u{7}{{value}}\u{202e}{}", "x".repeat(300));
        let text = said(&top, "", &format!("n_total{{p=\"{name}\"}} 2\n")).expect("a number");
        assert!(
            text.starts_with("top: \u{fffd}]0;title\u{fffd}{value}\u{fffd}x") && text.ends_with("… 1/s"),
            "{text}"
        );
        assert!(text.chars().count() < 60, "{text}");
        // A text from an exporter of another version may have anything in it.
        let odd = Headline { text: "{value} {".into(), ..top };
        assert_eq!(said(&odd, "", "n_total 2\n").as_deref(), Some("1 {"));
    }
}
