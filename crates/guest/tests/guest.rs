// SPDX-License-Identifier: MIT OR Apache-2.0
//! All exporters of the package together, by their units, on a busy machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guest::exporter::get;
use guest::exposition::{Delta, Exposition};
use guest::net::snmp;
use guest::truth::{agrees, schedstat, stat};
use guest::work::{cold_file, ping_pong, processes};
use guest::{install_package, sh, wait_until};

/// What an exporter's process may need.
const MEMORY: f64 = 4.0 * 1024.0 * 1024.0;

/// How long the machine is busy.
const BUSY: Duration = Duration::from_secs(40);

/// Names and ports, from the scrape configuration in the package.
fn exporters() -> BTreeMap<String, u16> {
    let config = std::fs::read_to_string("/usr/share/ebpf-exporters/prometheus/prometheus.yml").unwrap();
    let jobs = config.split("job_name: ebpf-").skip(1);
    let job = |text: &str| {
        let name = text.lines().next()?.trim().to_owned();
        let port = text.split_once("localhost:")?.1.split('"').next()?.parse().ok()?;
        Some((name, port))
    };
    let exporters: BTreeMap<String, u16> = jobs.filter_map(job).collect();
    assert!(exporters.len() >= 9, "{exporters:?}");
    exporters
}

fn scrape(port: u16) -> Exposition {
    let (status, text) = get(port, "/metrics");
    assert_eq!(status, 200, "{text}");
    Exposition::parse(&text)
}

/// Everything at once, until told to stop.
fn load(stop: &AtomicBool) {
    let file = cold_file(2000);
    std::thread::scope(|scope| {
        let repeat = |work: &(dyn Fn() + Sync)| {
            while !stop.load(Ordering::Relaxed) {
                work();
            }
        };
        scope.spawn(move || repeat(&|| ping_pong(2, 500)));
        scope.spawn(move || repeat(&|| processes(20)));
        let copy =
            format!("dd if={0} of={0}.copy bs=64k conv=fsync status=none; rm {0}.copy", file.display());
        scope.spawn(move || repeat(&|| drop(sh(&copy))));
        scope.spawn(move || {
            repeat(&|| drop(sh("echo 3 > /proc/sys/vm/drop_caches; ls -lR /etc > /dev/null")))
        });
        scope.spawn(move || {
            repeat(&|| drop(sh("curl -so /dev/null http://localhost:9101/ http://[::1]:1/ || :")))
        });
        scope.spawn(move || {
            repeat(&|| drop(sh("dig @127.0.0.1 busy.example +tries=1 +timeout=1 > /dev/null || :")))
        });
    });
}

#[test]
fn they_run_together_on_a_busy_machine() {
    install_package();
    let exporters = exporters();
    sh("systemctl daemon-reload; systemctl start ebpf-exporters.target");
    for name in exporters.keys() {
        wait_until(name, Duration::from_secs(60), || {
            sh(&format!("systemctl is-active ebpf-{name}-exporter || :")) == "active"
        });
    }
    let stop = AtomicBool::new(false);
    let all =
        || exporters.iter().map(|(name, port)| (name.clone(), scrape(*port))).collect::<BTreeMap<_, _>>();
    let truth = || {
        let [waited, waits] = schedstat();
        let [retransmits] = snmp(["Tcp RetransSegs"]);
        [stat("processes"), waited, waits, retransmits]
    };
    let first_truth = truth();
    let first = all();
    let second_truth = truth();
    std::thread::scope(|scope| {
        scope.spawn(|| load(&stop));
        let deadline = Instant::now() + BUSY;
        let mut before = all();
        while Instant::now() < deadline {
            let mut now = all();
            for (name, earlier) in before {
                let delta = Delta(earlier, now.remove(&name).unwrap());
                assert_eq!(delta.went_down(), Vec::<String>::new(), "{name}");
                now.insert(name, delta.1);
            }
            before = now;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let third_truth = truth();
    let last = all();
    let last_truth = truth();
    let mut deltas = BTreeMap::new();
    for ((name, before), after) in first.into_iter().zip(last.into_values()) {
        let memory = after.get("process_resident_memory_bytes", &[]).unwrap();
        let delta = Delta(before, after);
        let lost: Vec<String> = delta
            .1
            .labels("ebpf_exporter_lost_events_total")
            .iter()
            .map(|labels| {
                (
                    labels["reason"].clone(),
                    delta.of("ebpf_exporter_lost_events_total", &[("reason", &labels["reason"])]),
                )
            })
            .filter(|(_, lost)| *lost > 0.0)
            .map(|(reason, lost)| format!("{lost} {reason}"))
            .collect();
        println!("{name}: {:.2} MiB, lost: {lost:?}", memory / 1024.0 / 1024.0);
        assert!(memory <= MEMORY, "{name} needs {memory} bytes");
        // What was on its way when it started has no beginning; nothing else is lost.
        assert!(lost.iter().all(|lost| lost.ends_with("no_start")), "{name}: {lost:?}");
        deltas.insert(name, delta);
    }
    let range = |n: usize| third_truth[n] - second_truth[n]..=last_truth[n] - first_truth[n];
    let of = |exporter: &str, name: &str| deltas[exporter].of(name, &[]);
    let forks = of("process", "ebpf_process_forks_total") + of("process", "ebpf_process_threads_total");
    assert!(agrees(forks, &range(0), 0.0), "{forks} forks and threads, /proc/stat {:?}", range(0));
    let waited = of("schedlat", "ebpf_sched_runqueue_latency_microseconds_sum") * 1e3;
    assert!(agrees(waited, &range(1), 0.005), "{waited} ns, schedstat {:?}", range(1));
    let waits = of("schedlat", "ebpf_sched_runqueue_latency_microseconds_count");
    assert!(agrees(waits, &range(2), 0.0), "{waits} waits, schedstat {:?}", range(2));
    let retransmits = of("tcp", "ebpf_tcp_retransmits_total");
    assert!(agrees(retransmits, &range(3), 0.0), "{retransmits} segments, snmp {:?}", range(3));
    // The same thing seen by two exporters: programs started are calls of execve that succeed.
    let execs = of("process", "ebpf_process_execs_total");
    let calls = deltas["syscall"].of("ebpf_syscalls_total", &[("syscall", "execve")]);
    assert!(execs > 100.0 && execs <= calls + 20.0, "{execs} execs, {calls} calls");
    sh("systemctl stop ebpf-exporters.target");
}
