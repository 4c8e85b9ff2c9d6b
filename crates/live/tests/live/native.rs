// SPDX-License-Identifier: MIT OR Apache-2.0
//! Native histograms in a real Prometheus: the same counts, sums and quantiles as those of the text.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::Exposition;
use live::work::wait_for_no_signal;
use live::{Folder, sh, tell, wait_until};
use serde_json::Value;

use crate::prometheus::{ask, numbers, prometheus};

const LATENCY: &str = "ebpf_syscall_latency_microseconds";

/// A system call that nothing else on the machine makes.
const CALL: [(&str, &str); 1] = [("syscall", "rt_sigtimedwait")];

/// The greatest bound, 2^24 us.
const GREATEST: f64 = 16_777_216.0;

/// Time limit for what takes seconds here, on an emulated, busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// Durations of calls, each made [`TIMES`] times, in microseconds.
const DURATIONS: [u64; 11] = [0, 1, 3, 10, 70, 100, 150, 1000, 5000, 33_000, 200_000];
const TIMES: u32 = 23;

/// Quantiles that lie between two calls, so that one bucket has them, and the upper end.
const QUANTILES: [f64; 12] = [0.001, 0.01, 0.1, 0.25, 0.45, 0.55, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0];

/// What turns native histograms on in this Prometheus: a line of the configuration, and flags. None in one
/// that does not have them.
fn switch(config: &str) -> Option<(&'static str, &'static [&'static str])> {
    const LINE: &str = "  scrape_native_histograms: true\n";
    fs::write(config, format!("global:\n{LINE}")).unwrap();
    if sh(&format!("promtool check config {config} > /dev/null 2>&1 && echo valid || :")) == "valid" {
        return Some((LINE, &[]));
    }
    let flags = sh("prometheus --help 2>&1 || :");
    flags.contains("native-histograms").then_some(("", &["--enable-feature=native-histograms"]))
}

/// The classic histogram of a page: cumulative counts by bound, the sum and the count.
#[derive(Debug, PartialEq)]
struct Classic {
    buckets: Vec<(f64, f64)>,
    sum: f64,
    count: f64,
}

impl Classic {
    fn of(page: &Exposition) -> Self {
        let buckets = format!("{LATENCY}_bucket");
        let is_ours =
            |labels: &BTreeMap<String, String>| CALL.iter().all(|(name, value)| labels[*name] == *value);
        let buckets = page.samples(&buckets).filter(|(labels, _)| is_ours(labels));
        let number = |le: &str| le.replace("+Inf", "inf").parse().unwrap();
        let mut buckets: Vec<(f64, f64)> = buckets.map(|(labels, n)| (number(&labels["le"]), n)).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let [sum, count] = ["sum", "count"].map(|end| page.get(&format!("{LATENCY}_{end}"), &CALL).unwrap());
        Self { buckets, sum, count }
    }

    /// The bounds of the bucket in which a quantile lies, with room for rounding.
    fn bucket_of(&self, quantile: f64) -> RangeInclusive<f64> {
        let is_in = |(_, count): &(f64, f64)| *count >= quantile * self.count && *count > 0.0;
        let at = self.buckets.iter().position(is_in).unwrap();
        let lower = if at == 0 { 0.0 } else { self.buckets[at - 1].0 };
        lower * (1.0 - 1e-9)..=self.buckets[at].0 * (1.0 + 1e-9)
    }
}

/// The native histogram of an exporter in Prometheus; null while there is none.
fn native(port: u16) -> Value {
    let query = format!("{LATENCY}{{syscall=\"{}\",instance=~\".*:{port}\"}}", CALL[0].1);
    ask("query", Some(&query)).pointer("/result/0/histogram/1").cloned().unwrap_or_default()
}

/// Lower and upper bound and count of each bucket.
fn buckets(native: &Value) -> Vec<(f64, f64, f64)> {
    let number = |value: &Value| value.as_str().unwrap().parse::<f64>().unwrap();
    let bucket = |bucket: &Value| (number(&bucket[1]), number(&bucket[2]), number(&bucket[3]));
    native["buckets"].as_array().unwrap().iter().map(bucket).collect()
}

/// `histogram_quantile` of a series, for each of [`QUANTILES`]. A scrape that took too long leaves no series
/// until the next one.
fn quantiles(name: &str, port: u16) -> Vec<f64> {
    let series = format!("{name}{{syscall=\"{}\",instance=~\".*:{port}\"}}", CALL[0].1);
    let quantile = |quantile: &f64| {
        let query = format!("histogram_quantile({quantile}, {series})");
        let mut found = None;
        wait_until(&query, LIMIT, || {
            found = numbers(&ask("query", Some(&query))).first().copied();
            found.is_some()
        });
        found.unwrap()
    };
    QUANTILES.iter().map(quantile).collect()
}

#[live::test(tool("prometheus"), tool("promtool"), waits)]
fn native_histograms_in_prometheus_are_those_of_the_text() {
    let folder = Folder::new();
    let config = folder.path("prometheus.yml");
    let Some((line, switches)) = switch(&config) else {
        tell("this Prometheus has no native histograms");
        return;
    };
    let flags = |schema| ["--syscall.latency".to_owned(), format!("--web.native-histogram-schema={schema}")];
    let start = |schema| Exporter::start("syscall", &flags(schema).each_ref().map(String::as_str));
    let exporters: Vec<(i32, Exporter)> = (0..=3).map(|schema| (schema, start(schema))).collect();

    thread::scope(|scope| {
        // Above the greatest bound.
        scope.spawn(|| wait_for_no_signal(Duration::from_secs(17)));
        for us in DURATIONS {
            (0..TIMES).for_each(|_| wait_for_no_signal(Duration::from_micros(us)));
        }
    });
    let page = |exporter: &Exporter| Classic::of(&exporter.scrape());
    let pages: Vec<Classic> = exporters.iter().map(|(_, exporter)| page(exporter)).collect();

    let targets: Vec<String> =
        exporters.iter().map(|(_, exporter)| format!("\"127.0.0.1:{}\"", exporter.port())).collect();
    let jobs = format!(
        "scrape_configs:\n- job_name: syscall\n  static_configs:\n  - targets: [{}]\n",
        targets.join(", ")
    );
    let server = |line: &str, flags: &[&str]| {
        fs::write(&config, format!("global:\n  scrape_interval: 5s\n{line}{jobs}")).unwrap();
        prometheus(&config, flags)
    };

    let with_native = server(line, switches);
    let mut natives = Vec::new();
    wait_until("native histograms", LIMIT, || {
        natives = exporters.iter().map(|(_, exporter)| native(exporter.port())).collect();
        natives.iter().all(|native| !native.is_null())
    });
    let classic = ask("query", Some(&format!("{LATENCY}_bucket")));
    assert_eq!(classic["result"], Value::Array(vec![]), "it asked for protobuf");
    let mut found = Vec::new();
    for (((schema, exporter), classic), native) in exporters.iter().zip(&pages).zip(&natives) {
        let number = |name: &str| native[name].as_str().unwrap().parse::<f64>().unwrap();
        assert_eq!(classic.count, f64::from(DURATIONS.len() as u32 * TIMES + 1), "schema {schema}");
        assert_eq!((number("count"), number("sum")), (classic.count, classic.sum), "schema {schema}");
        let buckets = buckets(native);
        for (le, count) in &classic.buckets {
            let below = buckets.iter().filter(|(_, upper, _)| *upper <= *le).map(|(_, _, count)| count);
            let below: f64 = below.sum();
            assert_eq!(below, *count, "schema {schema}, up to {le}: {native}");
        }
        let width = 2f64.powf(1.0 / f64::from(1 << schema)) * 1.000_001;
        let wide = buckets.iter().find(|(lower, upper, _)| *lower > 0.0 && upper / lower > width);
        assert_eq!(wide, None, "schema {schema}");
        let last = buckets.last().unwrap();
        assert_eq!((last.0, last.2), (GREATEST, 1.0), "schema {schema}: the call of 17 s");
        tell(&format!("schema {schema}: {} calls in {} buckets", classic.count, buckets.len()));
        found.push(quantiles(LATENCY, exporter.port()));
    }
    drop(with_native);

    let without = server("", &[]);
    let bucket = format!("{LATENCY}_bucket");
    let buckets = format!("count by (instance) ({bucket}{{syscall=\"{}\"}})", CALL[0].1);
    let has_all = || numbers(&ask("query", Some(&buckets))).len() == exporters.len();
    wait_until("classic histograms", LIMIT, has_all);
    for (((schema, exporter), classic), native) in exporters.iter().zip(&pages).zip(found) {
        assert_eq!(page(exporter), *classic, "something else makes this system call");
        let by_buckets = quantiles(&bucket, exporter.port());
        for ((quantile, native), by_buckets) in QUANTILES.iter().zip(native).zip(by_buckets) {
            let said = format!("schema {schema}, {quantile}: native {native}, classic {by_buckets}");
            let bounds = classic.bucket_of(*quantile);
            assert!(bounds.contains(&native) && bounds.contains(&by_buckets), "{said}, in {bounds:?}");
            // Above the greatest bound, both stay near it.
            assert!(native <= 2.0 * GREATEST && by_buckets <= GREATEST, "{said}");
        }
    }
    drop(without);
}
