// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules for metrics that have one name, in one config or in several.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::check::of_series;
use super::types::{Config, Metric, Source};

/// Prefix of the names of all metrics.
pub const PREFIX: &str = "ebpf_exporter_";

/// Metrics of the exporter itself, without the prefix.
const OWN: &[&str] = &[
    "build_info",
    "decoder_errors_total",
    "ebpf_program_attached",
    "ebpf_program_info",
    "ebpf_program_run_count_total",
    "ebpf_program_run_time_seconds",
    "ebpf_program_run_time_seconds_total",
    "enabled_configs",
    "events_total",
    "folded_events_total",
    "lost_events_total",
    "map_capacity",
    "map_entries",
    "mode",
    "scrape_duration_seconds",
    "scrapes_total",
    "spans_sent_total",
];

/// What all metrics of one name must share.
struct Family<'c> {
    kind: &'static str,
    help: &'c str,
    labels: BTreeSet<&'c str>,
    /// File and line of the first one.
    place: String,
}

/// Config, metric, and the map and member that it is read from.
type Read<'c> = (&'c str, &'c str, &'c str, Option<&'c str>);

fn read<'c>(config: &'c Config, metric: &'c Metric) -> Read<'c> {
    let member = match &metric.source {
        Source::Map { member, .. } => member.as_deref(),
        _ => None,
    };
    (&config.name, &metric.name, metric.map(), member)
}

/// Checks that metrics of one name have one type, help text and set of labels, and that none has the name
/// of a metric of the exporter itself, or of a series of a histogram. Two maps may so fill one family.
///
/// # Errors
/// When one differs; names both places.
pub fn check_together(configs: &[Config]) -> Result<()> {
    check(configs, |config, line| format!("{}.yaml:{line}", config.name))
}

/// As [`check_together`], with the text of a line's place in messages.
pub fn check(configs: &[Config], place: impl Fn(&Config, u64) -> String) -> Result<()> {
    let mut families: BTreeMap<&str, Family> = BTreeMap::new();
    let mut places: BTreeMap<Read<'_>, String> = BTreeMap::new();
    for config in configs {
        for (kind, metric, labels) in metrics(config) {
            let place = place(config, metric.line);
            let name = &metric.name;
            if OWN.contains(&name.as_str()) {
                bail!("{place}: {PREFIX}{name} is a metric of the exporter itself: choose another name");
            }
            let twice = places.insert(read(config, metric), place.clone());
            let family = Family { kind, help: &metric.help, labels, place };
            let Some(first) = families.get(name.as_str()) else {
                families.insert(name, family);
                continue;
            };
            let difference = if first.kind != family.kind {
                format!("is a {}, and a {} in {}", family.kind, first.kind, first.place)
            } else if first.labels != family.labels {
                let (these, those) = (list(&family.labels), list(&first.labels));
                format!("has {these}, and {those} in {}", first.place)
            } else if first.help != family.help {
                format!("has another help text in {}", first.place)
            } else if let Some(first) = twice {
                let map = metric.map();
                bail!(
                    "{}: {PREFIX}{name} is read from map `{map}` in {first} already: remove one",
                    family.place
                );
            } else {
                continue;
            };
            bail!("{}: {PREFIX}{name} {difference}: make them the same, or rename one", family.place);
        }
    }
    for (name, histogram) in families.iter().filter(|(_, family)| family.kind == "histogram") {
        for suffix in ["_bucket", "_sum", "_count"] {
            if let Some(other) = families.get(format!("{name}{suffix}").as_str()) {
                let of = format!("one of the series of histogram {PREFIX}{name} in {}", histogram.place);
                bail!("{}: {PREFIX}{name}{suffix} is {of}: rename one", other.place);
            }
        }
    }
    Ok(())
}

/// The metrics of a config, with the labels of their series.
fn metrics(config: &Config) -> impl Iterator<Item = (&'static str, &Metric, BTreeSet<&str>)> {
    let counters = config.counters.iter().map(|metric| ("counter", metric, all(metric)));
    let gauges = config.gauges.iter().map(|metric| ("gauge", metric, all(metric)));
    let histograms = config.histograms.iter().map(|histogram| {
        let labels = of_series(&histogram.metric.labels).map(|label| label.name.as_str()).collect();
        ("histogram", &histogram.metric, labels)
    });
    counters.chain(gauges).chain(histograms)
}

fn all(metric: &Metric) -> BTreeSet<&str> {
    metric.labels.iter().map(|label| label.name.as_str()).collect()
}

fn list(labels: &BTreeSet<&str>) -> String {
    match labels.len() {
        0 => "no labels".to_owned(),
        1 => format!("the label {}", labels.iter().copied().collect::<String>()),
        _ => format!("the labels {}", labels.iter().copied().collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The names of metrics that a folder's Rust files have as whole string literals.
    fn literals(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                literals(&path, names);
                continue;
            }
            let text = fs::read_to_string(path).expect("read");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            names.extend(code.split('"').filter_map(|word| word.strip_prefix(PREFIX)).map(ToOwned::to_owned));
        }
    }

    #[test]
    fn metrics_of_the_exporter_itself_are_known() {
        let mut names = BTreeSet::new();
        literals(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/src"), &mut names);
        assert!(names.contains("build_info") && names.contains("scrapes_total"), "{names:?}");
        let is_name = |name: &&String| name.ends_with(|c: char| c.is_ascii_lowercase());
        let missing: Vec<_> =
            names.iter().filter(is_name).filter(|name| !OWN.contains(&name.as_str())).collect();
        assert_eq!(missing, Vec::<&String>::new());
    }
}
