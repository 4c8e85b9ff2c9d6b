// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules for alerts, recording rules and the rows of the dashboards: names that exist, tests that say something, and
//! what Grafana's dashboard-linter asks of queries.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::assemble::metrics::goldens;
use crate::assemble::rules;
use crate::workspace::{files, root};

/// Checks all of them.
///
/// # Errors
/// When a file cannot be read.
pub fn check(breaches: &mut Vec<String>) -> Result<()> {
    let recorded = rules::recorded()?;
    names(&recorded, breaches)?;
    alerts(breaches)?;
    records(breaches)?;
    rows(breaches)
}

/// Every metric in a rule or a panel is in an exporter's golden file, or recorded.
fn names(recorded: &BTreeSet<String>, breaches: &mut Vec<String>) -> Result<()> {
    let mut metrics = BTreeSet::new();
    for path in goldens()? {
        let text = fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            let name = line.strip_prefix("# TYPE ").unwrap_or(line).split(['{', ' ']).next();
            metrics.extend(name.map(ToOwned::to_owned));
        }
    }
    for path in [files("alerts", ".yml")?, files("rules", ".yml")?, files("grafana/rows", ".json")?].concat()
    {
        for word in fs::read_to_string(&path)?.split(|c: char| !is_of_name(c)) {
            let word = word.trim_end_matches(':');
            let is_known = if word.contains(":ebpf_") {
                recorded.contains(word)
            } else {
                !word.starts_with("ebpf_") || word.starts_with("ebpf_exporter_") || metrics.contains(word)
            };
            if !is_known {
                breaches.push(format!("{}: nothing makes a metric {word}", shown(&path)));
            }
        }
    }
    Ok(())
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Every alert has a test in which it fires, and a runbook.
fn alerts(breaches: &mut Vec<String>) -> Result<()> {
    let runbooks = fs::read_to_string(root().join("docs/runbooks.md"))?;
    let documented: BTreeSet<&str> = runbooks
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .flat_map(|line| line.split(", "))
        .collect();
    for path in files("alerts", ".yml")? {
        let text = fs::read_to_string(&path)?;
        let tests = tests_of(&path)?;
        for alert in text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
            if !documented.contains(alert) {
                breaches.push(format!("docs/runbooks.md has nothing about {alert}"));
            }
            let cases = tests.split("- alertname: ").filter(|case| case.lines().next() == Some(alert));
            if !cases.into_iter().any(|case| case.contains("exp_labels")) {
                breaches.push(format!("{}: no test makes {alert} fire", shown(&path)));
            }
        }
    }
    Ok(())
}

/// Every recorded series is of hosts or of clusters, and has a test that knows its value.
fn records(breaches: &mut Vec<String>) -> Result<()> {
    for path in files("rules", ".yml")?.into_iter().filter(|path| !path.to_string_lossy().contains("/tests/"))
    {
        let tests = tests_of(&path)?;
        for record in rules::records(&fs::read_to_string(&path)?) {
            if !record.starts_with("instance") && !record.starts_with("cluster") {
                breaches.push(format!("{}: {record} is neither of hosts nor of clusters", shown(&path)));
            }
            if !tests.contains(&format!("- labels: '{record}{{")) {
                breaches.push(format!("{}: no test knows a value of {record}", shown(&path)));
            }
        }
    }
    Ok(())
}

/// The tests of a file with rules; nothing if there are none.
fn tests_of(path: &Path) -> Result<String> {
    let folder = path.parent().context("a file without folder")?;
    let name = path.file_name().context("a file without name")?;
    Ok(fs::read_to_string(folder.join("tests").join(name)).unwrap_or_default())
}

/// Every query of a panel follows the variables of its dashboard, and shows no counter as it is.
fn rows(breaches: &mut Vec<String>) -> Result<()> {
    for path in files("grafana/rows", ".json")? {
        let row: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        for (member, is_fleet) in [("panels", false), ("fleet", true)] {
            let panels = row[member].as_array().into_iter().flatten();
            let queries = panels.flat_map(|panel| panel["queries"].as_array().into_iter().flatten());
            for expr in queries.filter_map(|query| query["expr"].as_str()) {
                breaches.extend(
                    faults(expr, is_fleet).into_iter().map(|fault| format!("{}: {fault}", shown(&path))),
                );
            }
        }
    }
    Ok(())
}

/// What is wrong with a query.
fn faults(expr: &str, is_fleet: bool) -> Vec<String> {
    let mut found = Vec::new();
    for (before, name, selector) in selectors(expr) {
        // What is recorded of clusters is of no host.
        let hosts = !name.starts_with("cluster");
        for variable in ["cluster", "job", "instance"].into_iter().filter(|name| hosts || *name != "instance")
        {
            let matcher = format!("{variable}=~\"${variable}\"");
            if !selector.split(',').any(|part| part == matcher) {
                found.push(format!("{name} is asked without {matcher}"));
            }
        }
        let grows = ["rate(", "irate(", "increase("].iter().any(|function| before.ends_with(function));
        if name.ends_with("_total") && !grows {
            found.push(format!("{name} is a counter: ask for its rate or increase"));
        }
        if is_fleet && !name.contains(':') && name != "ALERTS" {
            found.push(format!("{name} is asked of all hosts: record it"));
        }
    }
    found
}

/// The metrics that a query asks for: what is before each, its name, and its matchers.
fn selectors(expr: &str) -> Vec<(&str, &str, &str)> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut is_quoted = false;
    while let Some(c) = expr[at..].chars().next() {
        let word = expr[at..].split(|c| !is_of_name(c)).next().unwrap_or_default();
        let is_metric = word.starts_with("ebpf_")
            || word.starts_with("process_")
            || word.contains(':')
            || ["ALERTS", "up"].contains(&word);
        if is_metric && !is_quoted {
            let after = &expr[at + word.len()..];
            let matchers = after.strip_prefix('{').and_then(|after| after.split('}').next());
            found.push((&expr[..at], word, matchers.unwrap_or_default()));
        }
        is_quoted ^= c == '"';
        at += word.len().max(c.len_utf8());
    }
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = r#"cluster=~"$cluster",job=~"$job",instance=~"$instance""#;

    #[test]
    fn queries_that_follow_all_variables_have_no_fault() {
        let rate =
            format!("sum by (ebpf) (rate(ebpf_a_total{{{HOST},x=\"ebpf_b\"}}[1m])) / process_x{{{HOST}}}");
        assert_eq!(faults(&rate, false), Vec::<String>::new());
        let recorded = format!("topk(10, instance:ebpf_a:rate5m{{{HOST}}})");
        assert_eq!(faults(&recorded, true), Vec::<String>::new());
        let of_cluster = r#"cluster:ebpf_a:rate5m{cluster=~"$cluster",job=~"$job"}"#;
        assert_eq!(faults(of_cluster, true), Vec::<String>::new());
    }

    #[test]
    fn a_selector_that_lacks_a_variable_is_a_fault() {
        let without = faults("ebpf_a{cluster=~\"$cluster\",job=~\"$job\"} + ebpf_b", false);
        let expected = [
            "ebpf_a is asked without instance=~\"$instance\"",
            "ebpf_b is asked without cluster=~\"$cluster\"",
            "ebpf_b is asked without job=~\"$job\"",
            "ebpf_b is asked without instance=~\"$instance\"",
        ];
        assert_eq!(without, expected);
    }

    #[test]
    fn raw_counters_and_raw_series_of_all_hosts_are_faults() {
        let raw = format!("ebpf_a_total{{{HOST}}}");
        assert_eq!(faults(&raw, false), ["ebpf_a_total is a counter: ask for its rate or increase"]);
        let all = format!("rate(ebpf_a_total{{{HOST}}}[5m])");
        assert_eq!(faults(&all, true), ["ebpf_a_total is asked of all hosts: record it"]);
    }
}
