// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks what a config's file says, and makes a [`Config`] of it.
//!
//! What ends ebpf_exporter at start is an error. What it notices at each scrape only, where it leaves a
//! family out, is a finding, and the family is left out from the start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::raw::{self, Raw};
use super::types::{
    Buckets, CgroupIdMap, CgroupMapKind, Config, Finding, Histogram, Label, Metric, Source, Span,
};
use super::walk::shown;
use super::yaml::Wrong;

/// Decoders that a label may name.
pub const DECODERS: &[&str] = &[
    "cgroup",
    "container",
    "dname",
    "errno",
    "hex",
    "ifname",
    "inet_ip",
    "ksym",
    "kstack",
    "majorminor",
    "pci_class",
    "pci_device",
    "pci_subclass",
    "pci_vendor",
    "regexp",
    "static_map",
    "string",
    "syscall",
    "syscall_name",
    "uint",
];

/// Most buckets of a histogram. Each is a series.
const BUCKETS: u64 = 4096;

/// After how long the series of a perf event array are forgotten, unless the file says it.
const FLUSH: Duration = Duration::from_secs(3600);

/// Checks a config.
///
/// # Errors
/// When the process cannot start with it.
pub fn check(name: &str, raw: Raw, findings: Vec<Finding>) -> Result<(Config, Vec<Finding>), Wrong> {
    let Raw { metrics, tracing, kaddrs, cgroup_id_map } = raw;
    let raw::Metrics { counters, gauges, histograms } = metrics;
    let is_empty = counters.is_none() && gauges.is_none() && histograms.is_none();
    if is_empty && tracing.spans.is_none() {
        return Err(wrong(
            1,
            "it has neither metrics (counters, gauges, histograms) nor tracing (spans): add one of these lists",
        ));
    }
    let mut checker = Checker { findings };
    let mut config = Config { name: name.to_owned(), ..Config::default() };
    for raw in counters.into_iter().flatten() {
        let counter = Described::check("counter", &raw, &raw.labels)?;
        config.counters.extend(checker.metric(&counter, raw)?);
    }
    for raw in gauges.into_iter().flatten() {
        let gauge = Described::check("gauge", &raw, &raw.labels)?;
        config.gauges.extend(checker.metric(&gauge, raw)?);
    }
    for raw in histograms.into_iter().flatten() {
        let histogram = Described::check("histogram", &raw, of_series(&raw.labels))?;
        config.histograms.extend(checker.histogram(&histogram, raw)?);
    }
    for (at, span) in tracing.spans.into_iter().flatten().enumerate() {
        config.spans.extend(checker.span(at, span)?);
    }
    for kaddr in kaddrs {
        if kaddr.value.is_empty() {
            return Err(wrong(kaddr.line, "kaddrs: expected the name of a kernel symbol, found nothing"));
        }
        config.kaddrs.push(kaddr.value);
    }
    config.cgroup_id_map = checker.cgroup_id_map(cgroup_id_map)?;
    ages(&config)?;
    checker.findings.sort_by_key(|finding| finding.line);
    Ok((config, checker.findings))
}

/// The labels of a histogram's series: all but the bucket's, which is the last, or the one before `cpu`.
pub fn of_series(labels: &[Label]) -> impl Iterator<Item = &Label> {
    let last = labels.len().saturating_sub(1);
    let is_cpu = last > 0 && labels.get(last).is_some_and(|label| label.name == "cpu");
    let bucket = last - usize::from(is_cpu);
    labels.iter().enumerate().filter(move |(at, _)| *at != bucket).map(|(_, label)| label)
}

/// Checks that the metrics of a map state one `max_age`: it is that of the map's entries.
fn ages(config: &Config) -> Result<(), Wrong> {
    let mut ages: BTreeMap<&str, (Duration, u64)> = BTreeMap::new();
    for metric in config.metrics() {
        let Some(age) = metric.max_age else { continue };
        let (first, line) = *ages.entry(metric.map()).or_insert((age, metric.line));
        if first != age {
            let (map, name) = (shown(metric.map()), shown(&metric.name));
            return Err(wrong(
                metric.line,
                format!(
                    "metric `{name}`: map `{map}` has a `max_age` of {first:?} at line {line} already, not \
                     {age:?}: state the same, or it once"
                ),
            ));
        }
    }
    Ok(())
}

fn wrong(line: u64, message: impl Into<String>) -> Wrong {
    Wrong { line, message: message.into() }
}

/// A metric by the words that messages use for it. Its names are valid.
struct Described(String);

impl Described {
    fn check<'l>(
        kind: &str,
        raw: &raw::Metric,
        labels: impl IntoIterator<Item = &'l Label>,
    ) -> Result<Self, Wrong> {
        if raw.name.is_empty() {
            return Err(wrong(raw.line, format!("a {kind} has no name: add `name`")));
        }
        let shown_name = shown(&raw.name);
        if !raw.name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':')) {
            let allowed = "a name of a metric has letters, digits, `_` and `:`";
            return Err(wrong(raw.line, format!("{kind} `{shown_name}`: not a valid name: {allowed}")));
        }
        let described = format!("{kind} `{shown_name}`");
        if raw.help.is_empty() {
            return Err(wrong(raw.line, format!("{described} has no help text: add `help`")));
        }
        let mut names = BTreeSet::new();
        for label in labels {
            let name = shown(&label.name);
            let is_valid = label.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && label.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !label.name.starts_with("__");
            if !is_valid {
                let allowed =
                    "a name of a label has letters, digits and `_`, no digit first, and no `__` first";
                return Err(wrong(label.line, format!("{described}: label `{name}`: {allowed}")));
            }
            if !names.insert(&label.name) {
                return Err(wrong(label.line, format!("{described} has two labels `{name}`: rename one")));
            }
        }
        Ok(Self(described))
    }
}

struct Checker {
    findings: Vec<Finding>,
}

impl Checker {
    /// Adds a finding for which the family is left out.
    fn leave_out(&mut self, line: u64, what: &Described, why: &str) {
        let message = format!("{}: {why}; it is left out", what.0);
        self.findings.push(Finding { line, message, fatal_when_strict: true });
    }

    fn metric(&mut self, what: &Described, raw: raw::Metric) -> Result<Option<Metric>, Wrong> {
        let has_labels = self.labels(what, &raw.labels);
        let source = source(what, &raw)?;
        let raw::Metric { line, name, help, max_age, labels, .. } = raw;
        let max_age = Some(Duration::from_nanos(max_age)).filter(|age| !age.is_zero());
        Ok(has_labels.then_some(Metric { name, help, source, labels, max_age, line }))
    }

    fn histogram(&mut self, what: &Described, raw: raw::Metric) -> Result<Option<Histogram>, Wrong> {
        let multiplier = if raw.bucket_multiplier == 0.0 { 1.0 } else { raw.bucket_multiplier };
        let line = raw.line;
        let buckets = buckets(&raw, multiplier);
        let has_label = !raw.labels.is_empty();
        if !has_label {
            self.leave_out(line, what, "it has no label, the last of which is the number of the bucket");
        }
        let le = of_series(&raw.labels).find(|label| label.name == "le").map(|label| label.line);
        if let Some(line) = le {
            self.leave_out(line, what, "the label `le` is that of its buckets: rename it");
        }
        if let Err(why) = &buckets {
            self.leave_out(line, what, why);
        }
        let metric = self.metric(what, raw)?.filter(|_| has_label && le.is_none());
        let histogram = metric.zip(buckets.ok());
        Ok(histogram.map(|(metric, buckets)| Histogram { metric, buckets, multiplier }))
    }

    fn span(&mut self, at: usize, span: Span) -> Result<Option<Span>, Wrong> {
        if span.ringbuf.is_empty() {
            let message =
                format!("tracing.spans[{at}] has no ring buffer: add `ringbuf`, the name of its map");
            return Err(wrong(span.line, message));
        }
        let what = Described(format!("span of ring buffer `{}`", shown(&span.ringbuf)));
        for label in &span.labels {
            if label.name.is_empty() {
                return Err(wrong(label.line, format!("{}: a label has no name: add `name`", what.0)));
            }
        }
        Ok(self.labels(&what, &span.labels).then_some(span))
    }

    /// Whether all labels can be decoded.
    fn labels(&mut self, what: &Described, labels: &[Label]) -> bool {
        let before = self.findings.len();
        let mut bytes: u64 = 0;
        for label in labels {
            let name = shown(&label.name);
            if label.size == 0 {
                let why = format!("label `{name}` has size 0: write how many bytes of the key it takes");
                self.leave_out(label.line, what, &why);
            }
            if label.decoders.is_empty() {
                self.leave_out(label.line, what, &format!("label `{name}` has no decoders, such as `uint`"));
            }
            for decoder in &label.decoders {
                let decoder_name = shown(&decoder.name);
                if !DECODERS.contains(&decoder.name.as_str()) {
                    let known = DECODERS.join(", ");
                    let why =
                        format!("label `{name}` has an unknown decoder `{decoder_name}`; known are {known}");
                    self.leave_out(decoder.line, what, &why);
                }
                if decoder.name == "regexp" && decoder.regexps.is_none() {
                    let why = format!("the decoder `regexp` of label `{name}` has no list `regexps`");
                    self.leave_out(decoder.line, what, &why);
                }
            }
            bytes = bytes.saturating_add(label.size).saturating_add(label.padding);
        }
        if u32::try_from(bytes).is_err() {
            let line = labels.first().map_or(1, |label| label.line);
            self.leave_out(line, what, &format!("its labels take {bytes} bytes, more than any key has"));
        }
        self.findings.len() == before
    }

    fn cgroup_id_map(&mut self, raw: raw::CgroupIdMap) -> Result<Option<CgroupIdMap>, Wrong> {
        let raw::CgroupIdMap { line, name, kind, regexps } = raw;
        if name.is_empty() {
            if line > 0 && !(kind.is_empty() && regexps.is_empty()) {
                let message =
                    "cgroup_id_map has no name and is ignored: add `name`, the name of its map".into();
                self.findings.push(Finding { line, message, fatal_when_strict: true });
            }
            return Ok(None);
        }
        let kind = match kind.as_str() {
            "" | "hash" => CgroupMapKind::Hash,
            "cgrp_storage" => CgroupMapKind::CgrpStorage,
            other => {
                let message =
                    format!("cgroup_id_map.type: expected hash or cgrp_storage, found `{}`", shown(other));
                return Err(wrong(line, message));
            }
        };
        Ok(Some(CgroupIdMap { map: name, kind, regexps, line }))
    }
}

fn source(what: &Described, raw: &raw::Metric) -> Result<Source, Wrong> {
    let map = if raw.map.is_empty() { raw.name.clone() } else { raw.map.clone() };
    let member = Some(raw.member.clone()).filter(|member| !member.is_empty());
    let events = match (raw.perf_event_array, raw.ring_buffer) {
        (false, false) => return Ok(Source::Map { map, member }),
        (true, true) => {
            let why = "perf_event_array and ring_buffer exclude each other: keep the one that the map is";
            return Err(wrong(raw.line, format!("{}: {why}", what.0)));
        }
        (true, false) => "perf_event_array",
        (false, true) => "ring_buffer",
    };
    for (key, is_set) in [("member", member.is_some()), ("max_age", raw.max_age > 0)] {
        if is_set {
            let why =
                format!("`{key}` is for values of a map, and with {events} each record adds 1: remove it");
            return Err(wrong(raw.line, format!("{}: {why}", what.0)));
        }
    }
    Ok(if raw.ring_buffer {
        Source::Ring { map }
    } else {
        let flush = Some(Duration::from_nanos(raw.flush_interval)).filter(|flush| !flush.is_zero());
        Source::Perf { map, flush: flush.unwrap_or(FLUSH) }
    })
}

fn buckets(raw: &raw::Metric, multiplier: f64) -> Result<Buckets, String> {
    let (min, max) = (raw.bucket_min, raw.bucket_max);
    let buckets = match raw.bucket_type.as_str() {
        "exp2" => Buckets::Exp2 { min, max },
        "exp2zero" => Buckets::Exp2Zero { min, max },
        "linear" => Buckets::Linear { min, max },
        "fixed" => Buckets::Fixed(raw.bucket_keys.clone()),
        other => {
            let found = match other {
                "" => "nothing".to_owned(),
                other => format!("`{}`", shown(other)),
            };
            return Err(format!("bucket_type: expected exp2, exp2zero, linear or fixed, found {found}"));
        }
    };
    let (count, largest) = match &buckets {
        Buckets::Fixed(keys) if keys.is_empty() => {
            return Err("bucket_keys: expected the bounds of the buckets, found none".to_owned());
        }
        Buckets::Fixed(keys) => {
            let largest = keys.iter().map(|key| key.abs()).fold(0.0, f64::max);
            let is_number = keys.iter().all(|key| key.is_finite());
            (keys.len() as u64, if is_number { largest } else { f64::INFINITY })
        }
        _ if max <= min => {
            return Err(format!("bucket_max ({max}) must be greater than bucket_min ({min})"));
        }
        Buckets::Linear { .. } => (max.abs_diff(min), min.unsigned_abs().max(max.unsigned_abs()) as f64),
        _ => (max.abs_diff(min), (max as f64).exp2()),
    };
    if count > BUCKETS {
        return Err(format!("it has {count} buckets, more than {BUCKETS}: set bucket_max lower"));
    }
    if !(largest * multiplier).is_finite() {
        return Err(
            "a bound of its buckets is not a finite number: see bucket_max and bucket_multiplier".into()
        );
    }
    Ok(buckets)
}
