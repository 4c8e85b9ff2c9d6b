// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scrape jobs, dashboards, rules and alerts with a real Prometheus, a busy machine, and real faults.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use live::block::{Device, direct_reads, null_blk};
use live::exporter::{try_get, unit_becomes};
use live::net::inside;
use live::wireguard::Tunnel;
use live::work::{Running, Stop};
use live::zpool::{DISKS, Pool};
use live::{sh, tell, wait_until};
use serde_json::Value;

use crate::together::load;
use crate::{exporters, folder_of_users};

const SHARE: &str = "/usr/share/ebpf-exporters";
const PORT: u16 = 9090;
const DATA: &str = "/tmp/prometheus";
const LOG: &str = "/tmp/prometheus.log";

/// Latency of the slow device, above the critical alert's 200 ms.
const SLOW_NS: u64 = 300_000_000;

/// Number of connections through a link that loses one segment in five.
const LOSING: usize = 16;

/// Starts Prometheus with a configuration and more flags, and without data of an earlier run.
pub fn prometheus(config: &str, flags: &[&str]) -> Running {
    let _ = std::fs::remove_dir_all(DATA);
    Running::start(
        Command::new("prometheus")
            .arg(format!("--config.file={config}"))
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
            .arg(format!("--storage.tsdb.path={DATA}"))
            .args(flags)
            .stderr(std::fs::File::create(LOG).unwrap()),
    )
}

/// `data` of an answer of Prometheus' API; null while Prometheus is not up.
pub fn ask(path: &str, query: Option<&str>) -> Value {
    let query = query.map_or(String::new(), |query| format!("?query={}", percent_encoded(query)));
    let Ok((_, answer)) = try_get(PORT, &format!("/api/v1/{path}{query}")) else { return Value::Null };
    let mut answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    // An invalid expression does not become valid by waiting.
    assert_ne!(answer["status"], "error", "{query:?}: {answer}");
    answer["data"].take()
}

/// A text as a parameter of a URL.
fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

/// Names of the alerts that fire.
fn firing() -> BTreeSet<String> {
    let data = ask("alerts", None);
    let alerts = data["alerts"].as_array().cloned().unwrap_or_default();
    let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
    firing.filter_map(|alert| Some(alert["labels"]["alertname"].as_str()?.to_owned())).collect()
}

/// All queries of the dashboards, each with the title of its panel and with its variables replaced; without
/// those about programs of users, of which there are none here, and about alerts, as none needs to fire.
fn queries() -> Vec<(String, String)> {
    let dashboard = |name| -> Value {
        let text = std::fs::read_to_string(format!("{SHARE}/grafana/{name}.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let dashboards = ["dashboard", "fleet"].map(dashboard);
    let mut queries = Vec::new();
    for panel in dashboards.iter().flat_map(|dashboard| dashboard["panels"].as_array().unwrap()) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().unwrap();
            let expr = expr
                .replace("$__rate_interval", "1m")
                .replace("$cluster", ".*")
                .replace("$job", ".+")
                .replace("$instance", ".+")
                .replace("$device", ".+")
                .replace("$pool", ".+");
            assert!(!expr.contains('$'), "{expr}");
            let exporter = expr.split_once("exporter=\"").and_then(|(_, rest)| rest.split('"').next());
            if exporter.is_some_and(|name| folder_of_users(name).is_some()) || expr.contains("ALERTS{") {
                continue;
            }
            queries.push((panel["title"].as_str().unwrap().to_owned(), expr));
        }
    }
    assert!(queries.len() > 85, "{}", queries.len());
    queries
}

/// The samples of an answer that are numbers.
pub fn numbers(answer: &Value) -> Vec<f64> {
    let samples = answer["result"].as_array().into_iter().flatten();
    let values = samples.filter_map(|sample| sample["value"][1].as_str()?.parse().ok());
    values.filter(|value: &f64| !value.is_nan()).collect()
}

/// Uses a slow disk, and TCP through a link that loses segments, until `stop` is set.
fn faults(stop: &AtomicBool, device: &Device) {
    let listener = inside("right", || TcpListener::bind("10.99.0.2:9").unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || std::io::copy(&mut &stream, &mut std::io::sink()));
        }
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(direct_reads(device, 3, 4096), 0);
            }
        });
        for _ in 0..LOSING {
            scope.spawn(|| {
                let mut stream = inside("left", || TcpStream::connect("10.99.0.2:9").unwrap());
                stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    // The buffer may stay full beyond the timeout.
                    let _ = stream.write(&[0; 16 << 10]);
                }
            });
        }
    });
}

#[live::test(module("zfs"), module("wireguard"), module("null_blk"), spare_disks, own_machine, once)]
fn the_dashboard_has_data_and_alerts_fire_for_real_faults() {
    let pool = Pool::create("tank", DISKS[0]);
    let tunnel = Tunnel::new("");
    let started = Instant::now();
    sh("systemctl enable --now ebpf-exporters.target 2> /dev/null");
    let exporters = exporters();
    for name in exporters.keys() {
        unit_becomes(&format!("ebpf-{name}-exporter"), "active");
    }
    tell(&format!("all units are active after {} s", started.elapsed().as_secs()));
    sh(&format!(
        "promtool check config {SHARE}/prometheus/prometheus.yml
         dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --port=53 --listen-address=127.0.0.53 \
            --bind-interfaces --address=/busy.example/192.0.2.1 --pid-file=/run/operators-dns.pid"
    ));
    let server = prometheus(&format!("{SHARE}/prometheus/prometheus.yml"), &[]);

    wait_for("all targets are up", || {
        let up = ask("query", Some("count(up{job=~\"ebpf-.+\"} == 1)"));
        numbers(&up) == [exporters.len() as f64]
    });
    tell(&format!("all targets are up after {} s", started.elapsed().as_secs()));

    // The dashboards: after everything was in use, each panel has data, and each rule has recorded some.
    let queries = queries();
    let mut empty: Vec<_> = queries.iter().collect();
    for _ in 0..8 {
        let stop = AtomicBool::new(false);
        let began = Instant::now();
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| load(&stop, &tunnel));
            // That of the round before may still be under way.
            sh("zpool scrub tank || zpool status tank | grep -q 'scrub in progress'");
            // Of two, the second shows by how much counters grew. The scrapes of earlier rounds help.
            wait_for("two scrapes of each", || {
                let seconds = began.elapsed().as_secs() + 1;
                let scrapes = format!("min(count_over_time(up{{job=~\"ebpf-.+\"}}[{seconds}s]))");
                numbers(&ask("query", Some(&scrapes))).iter().any(|scrapes| *scrapes >= 2.0)
            });
        });
        let asked = Instant::now();
        empty.retain(|(_, query)| numbers(&ask("query", Some(query))).is_empty());
        tell(&format!(
            "asked in {:?}, {} of {} queries without data",
            asked.elapsed(),
            empty.len(),
            queries.len()
        ));
        if empty.is_empty() {
            break;
        }
    }
    assert!(empty.is_empty(), "no data: {empty:#?}");
    let log = std::fs::read_to_string(LOG).unwrap();
    let warnings = log.lines().filter(|line| line.contains("level=warn") || line.contains("level=error"));
    let warnings: Vec<&str> = warnings.filter(|line| line.contains("scrape")).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    drop(server);

    // Alerts with the thresholds as shipped, but without the wait of minutes.
    let _ = std::fs::remove_dir_all("/tmp/operators");
    sh(&format!(
        "mkdir /tmp/operators; cp -r {SHARE}/prometheus {SHARE}/alerts {SHARE}/rules /tmp/operators
         sed -i 's/^\\( *for:\\).*/\\1 5s/' /tmp/operators/alerts/*.yml
         sed -i 's/_interval: 15s/_interval: 5s/' /tmp/operators/prometheus/prometheus.yml
         tc -n left qdisc replace dev cable root netem loss 20%
         ip -n right link set wg0 down"
    ));
    // As if the peer had been away for ten minutes.
    sh("date -s '+600 seconds'");
    let device = null_blk(SLOW_NS, "none");
    let server = prometheus("/tmp/operators/prometheus/prometheus.yml", &[]);
    let wanted = ["DiskLatencyP99Critical", "TcpRetransmitRateHigh", "WireguardHandshakeStale"];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| faults(&stop, &device));
        let mut seen = BTreeSet::new();
        wait_for("three alerts fire", || {
            seen.extend(firing());
            wanted.iter().all(|alert| seen.contains(*alert))
        });
        tell(&format!("alerts that fire: {seen:?}"));
    });
    drop(server);
    sh("systemctl disable --now ebpf-exporters.target 2> /dev/null; kill $(cat /run/operators-dns.pid)");
    drop((device, tunnel, pool));
}

fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    wait_until(what, Duration::from_secs(240), condition);
}
