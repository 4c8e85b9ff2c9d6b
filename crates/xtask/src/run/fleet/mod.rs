// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make fleet-bench`: one Prometheus, and one VictoriaMetrics, that scrape many hosts. The hosts are simulated by
//! one process, this one; the servers are real.

mod engine;
mod hosts;
mod server;

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::assemble::{dashboard, mixin};
pub use crate::run::fleet::engine::Kind;
use crate::run::fleet::engine::{Engine, Usage};
use crate::run::fleet::hosts::Page;
use crate::run::fleet::server::Hosts;
use crate::workspace::{exporters, root};

/// The interval between scrapes that counters move as if there were. Where scrapes are more or less often, time
/// goes faster or slower on the hosts.
const AS_IF: f64 = 15.0;

/// Interval between scrapes for so many hosts: what two processors can do, and enough samples of each series where
/// there are few.
fn interval(hosts: usize) -> u64 {
    match hosts {
        ..=10 => 1,
        11..=100 => 5,
        101..=300 => 15,
        _ => 60,
    }
}

/// Measures each server with each number of hosts, for at least `seconds` each, and prints two tables.
///
/// # Errors
/// When the pages of the hosts cannot be read.
pub fn run(servers: &[Kind], sizes: &[usize], seconds: u64) -> Result<()> {
    let pages = exporters()?.into_iter().filter(|exporter| exporter.built_in);
    let pages: Arc<Vec<Page>> =
        Arc::new(pages.map(|exporter| Page::of(&exporter.name)).collect::<Result<_>>()?);
    println!(
        "a host: {} exporters, {} series in text",
        pages.len(),
        pages.iter().map(Page::series).sum::<usize>()
    );
    let mut queries = String::new();
    println!(
        "| server | hosts | scraped each | series | samples/s | CPU | ms of CPU for 1000 samples | memory | kB of memory for a series | bytes of disk for a sample | time in rules |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (kind, hosts) in servers.iter().flat_map(|kind| sizes.iter().map(move |hosts| (*kind, *hosts))) {
        match measure(kind, hosts, seconds, &pages) {
            Ok(asked) => queries += &asked,
            // What was measured of others is of use.
            Err(error) => println!("{}, {hosts} hosts: not measured: {error:#}", kind.name()),
        }
    }
    println!(
        "\n| server | hosts | dashboard of all hosts, by rules | the same without rules | slowest of these | dashboard of one host |"
    );
    println!("|---|---|---|---|---|---|\n{queries}");
    println!("the process of the simulated hosts had at most {} kB", peak()?);
    Ok(())
}

fn measure(kind: Kind, hosts: usize, seconds: u64, pages: &Arc<Vec<Page>>) -> Result<String> {
    let interval = interval(hosts);
    let server = Hosts::start(pages, AS_IF / interval as f64)?;
    let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
    let engine = Engine::start(kind, hosts, interval, server.port, &names)?;
    let targets = (hosts * names.len()) as f64;
    let long = Duration::from_secs(600);
    engine.wait("scrape of each target", long, || Ok(engine.number("count(up == 1)")? == targets))?;
    let (before, began) = (engine.usage()?, Instant::now());
    thread::sleep(Duration::from_secs(seconds.max(2 * interval)));
    let (after, took) = (engine.usage()?, began.elapsed().as_secs_f64());
    let series = engine.series()?;
    if kind != Kind::Victoria {
        for query in recorded_queries()? {
            engine.wait(&query, long, || Ok(!engine.ask(&query)?.0.is_empty()))?;
        }
    }
    let asked = questions(&engine, kind)?;
    let (bytes, samples) = engine.disk()?;
    print_costs(kind, hosts, interval, series, &before, &after, took, bytes / samples);
    Ok(format!("| {} | {hosts} | {asked} |\n", kind.name()))
}

#[expect(clippy::too_many_arguments, reason = "a row has many cells")]
fn print_costs(
    kind: Kind,
    hosts: usize,
    interval: u64,
    series: f64,
    before: &Usage,
    after: &Usage,
    took: f64,
    disk: f64,
) {
    let samples = after.samples - before.samples;
    let cpu = after.cpu - before.cpu;
    println!(
        "| {} | {hosts} | {interval} s | {series} | {:.0} | {:.2} | {:.2} | {:.0} MB | {:.1} | {disk:.2} | {:.3} s/s |",
        kind.name(),
        samples / took,
        cpu / took,
        1e6 * cpu / samples,
        after.memory / 1e6,
        after.memory / series / 1e3,
        (after.rules - before.rules) / took,
    );
}

/// How long the queries of the dashboards take, in cells of a table.
fn questions(engine: &Engine, kind: Kind) -> Result<String> {
    let rules = rules()?;
    let (mut recorded, mut raw, mut slowest) = (0.0, 0.0, (0.0, String::new()));
    for query in queries(dashboard::FLEET)? {
        let Some((record, expr)) = rules.iter().find(|(record, _)| query.contains(record.as_str())) else {
            continue;
        };
        if kind != Kind::Victoria {
            let (found, seconds) = engine.ask(&query)?;
            if found.is_empty() {
                bail!("{query} has no data");
            }
            recorded += seconds;
        }
        let asked = without_rules(expr, &rules);
        // VictoriaMetrics has no native histograms, Prometheus with them no others.
        let sides: Vec<&str> = asked.split("\nor ").collect();
        let side = if kind == Kind::Native { sides.last() } else { sides.first() };
        let (found, seconds) = engine.ask(side.context("no query")?)?;
        if found.is_empty() {
            bail!("{record} has no data without its rule");
        }
        raw += seconds;
        if seconds > slowest.0 {
            slowest = (seconds, record.clone());
        }
    }
    let mut host = 0.0;
    for query in queries(dashboard::HOST)? {
        // A rate needs two scrapes, which may be a minute apart.
        let query = query.replace("instance=~\".+\"", "instance=~\"host-7\"").replace("[1m]", "[5m]");
        let (found, seconds) = engine.ask(&query)?;
        // A simulated host runs no programs of users, in a Prometheus with native histograms there are no others, and
        // VictoriaMetrics leaves out NaN: quantiles of nothing.
        if found.is_empty() && kind == Kind::Classic && !query.contains("exporter=\"custom\"") {
            bail!("{query} has no data");
        }
        host += seconds;
    }
    let recorded =
        if kind == Kind::Victoria { "not measured".to_owned() } else { format!("{recorded:.2} s") };
    Ok(format!("{recorded} | {raw:.2} s | {:.2} s, `{}` | {host:.2} s", slowest.0, slowest.1))
}

/// The queries of a dashboard, for everything.
fn queries(path: &str) -> Result<Vec<String>> {
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(root().join(path))?)?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    Ok(targets.filter_map(|target| target["expr"].as_str()).map(dashboard::filled).collect())
}

/// Those of the dashboard of all hosts that ask for what is recorded: all but those about alerts.
fn recorded_queries() -> Result<Vec<String>> {
    let all = queries(dashboard::FLEET)?;
    Ok(all.into_iter().filter(|query| !query.contains("ALERTS{")).collect())
}

/// Names and expressions of all recording rules; the longest names first, as some begin others.
fn rules() -> Result<Vec<(String, String)>> {
    let sources: Value = serde_json::from_str(&fs::read_to_string(root().join(mixin::FILE))?)?;
    let mut found = Vec::new();
    for file in sources["rules"].as_object().context("no rules")?.values() {
        let groups = file["groups"].as_array().into_iter().flatten();
        for rule in groups.flat_map(|group| group["rules"].as_array().into_iter().flatten()) {
            if let (Some(record), Some(expr)) = (rule["record"].as_str(), rule["expr"].as_str()) {
                found.push((record.to_owned(), expr.to_owned()));
            }
        }
    }
    found.sort_by_key(|(record, _)| std::cmp::Reverse(record.len()));
    Ok(found)
}

/// An expression in which recorded series are written out.
fn without_rules(expr: &str, rules: &[(String, String)]) -> String {
    let mut expr = expr.trim().to_owned();
    while let Some((record, inner)) = rules.iter().find(|(record, _)| expr.contains(record.as_str())) {
        expr = expr.replace(record.as_str(), &format!("({})", inner.trim()));
    }
    expr
}

/// The most memory that this process had, in kB.
fn peak() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").to_owned())
}
