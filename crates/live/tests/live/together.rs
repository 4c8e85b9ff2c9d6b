// SPDX-License-Identifier: MIT OR Apache-2.0
//! All exporters together on a busy machine, compared with the kernel's own counters and with each
//! other.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use live::exporter::{get, unit_becomes, until};
use live::exposition::{Delta, Exposition};
use live::needs::preempts_programs;
use live::net::snmp;
use live::truth::{agrees, schedstat, stat};
use live::wireguard::Tunnel;
use live::work::{Stop, cold_file, ping_pong, processes};
use live::zpool::{DISKS, Pool, kstat};
use live::{sh, tell};

use crate::{MEMORY, exporters};

/// How long the machine is busy.
const BUSY: Duration = Duration::from_secs(20);

/// How many programs must at least be started meanwhile.
const ENOUGH: f64 = 100.0;

/// How many of hundreds of thousands of events may be missed if the kernel preempts programs.
const RARELY: f64 = 100.0;

const EXECS: &str = "ebpf_process_execs_total";

fn scrape(port: u16) -> Exposition {
    let (status, text) = get(port, "/metrics");
    assert_eq!(status, 200, "{text}");
    Exposition::parse(&text)
}

/// Load for all exporters at once, until `stop` is set.
pub fn load(stop: &AtomicBool, tunnel: &Tunnel) {
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
        scope.spawn(move || repeat(&|| tunnel.exchange("left", "right", "10.98.0.2", 20)));
        scope.spawn(move || {
            repeat(&|| drop(sh("dd if=/dev/urandom of=/tank/file bs=64k count=50 conv=fsync status=none; cat /tank/file > /dev/null")))
        });
        scope.spawn(move || {
            repeat(&|| drop(sh("echo 3 > /proc/sys/vm/drop_caches; ls -lR /etc > /dev/null")))
        });
        scope.spawn(move || {
            repeat(&|| drop(sh("curl -so /dev/null http://localhost:9101/ http://[::1]:1/ || :")))
        });
        scope.spawn(move || {
            repeat(&|| drop(sh("dig @127.0.0.53 busy.example +tries=1 +timeout=1 > /dev/null || :")))
        });
    });
}

#[live::test(module("zfs"), module("wireguard"), spare_disks, own_machine)]
fn they_run_together_on_a_busy_machine() {
    let exporters = exporters();
    let _pool = Pool::create("tank", DISKS[0]);
    let tunnel = Tunnel::new("");
    let began = Instant::now();
    let phase = |what: &str| tell(&format!("{what} after {} s", began.elapsed().as_secs()));
    sh("systemctl daemon-reload; systemctl start ebpf-exporters.target");
    for name in exporters.keys() {
        unit_becomes(&format!("ebpf-{name}-exporter"), "active");
    }
    for (name, port) in &exporters {
        until(*port, name, |text| text.get("ebpf_exporter_mode", &[("mode", "ebpf")]).is_some());
    }
    phase("all units are active");
    let hidden = sh("journalctl -b --no-pager -u 'ebpf-*' | grep kallsyms || :");
    assert_eq!(hidden, "", "the units see symbols");
    let stop = AtomicBool::new(false);
    let all =
        || exporters.iter().map(|(name, port)| (name.clone(), scrape(*port))).collect::<BTreeMap<_, _>>();
    let truth = || {
        let [waited, waits] = schedstat();
        let [retransmits] = snmp(["Tcp RetransSegs"]);
        [
            stat("processes"),
            waited,
            waits,
            retransmits,
            kstat("arcstats", "hits"),
            kstat("arcstats", "misses"),
        ]
    };
    let first_truth = truth();
    let first = all();
    let second_truth = truth();
    std::thread::scope(|scope| {
        let stopped = Stop(&stop);
        scope.spawn(|| load(&stop, &tunnel));
        let start = Instant::now();
        let mut before = all();
        // Longer if the machine is slow, but not until the next handshake is due.
        let done = |now: &BTreeMap<String, Exposition>| {
            let started = |all: &BTreeMap<_, Exposition>| all["process"].count(EXECS, &[]);
            started(now) - started(&first) > ENOUGH || start.elapsed() > 2 * BUSY
        };
        while start.elapsed() < BUSY || !done(&before) {
            let mut now = all();
            for (name, earlier) in before {
                let delta = Delta(earlier, now.remove(&name).unwrap());
                delta.assert_nothing_down();
                now.insert(name, delta.1);
            }
            before = now;
        }
        drop(stopped);
        phase("the load is told to end");
    });
    phase("it has ended");
    let third_truth = truth();
    let last = all();
    let last_truth = truth();
    let (mut deltas, mut missed) = (BTreeMap::new(), BTreeMap::new());
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
        let events = delta.of("ebpf_exporter_events_total", &[]);
        println!("{name}: {:.2} MiB, {events} events, lost: {lost:?}", memory / 1024.0 / 1024.0);
        assert!(events > 0.0, "{name} has counted nothing");
        assert!(memory <= MEMORY, "{name} needs {memory} bytes");
        // Operations in progress at the start have no known beginning. If the kernel preempts
        // programs, all copies miss a few events.
        let recursion = delta.of("ebpf_exporter_lost_events_total", &[("reason", "recursion")]);
        let most = if preempts_programs() { RARELY } else { 0.0 };
        assert!(recursion <= most, "{name}: {events} events, {lost:?}");
        assert!(lost.iter().all(|l| l.ends_with("no_start") || l.ends_with("recursion")), "{name}: {lost:?}");
        missed.insert(name.clone(), recursion);
        deltas.insert(name, delta);
    }
    let range = |n: usize| third_truth[n] - second_truth[n]..=last_truth[n] - first_truth[n];
    let of = |exporter: &str, name: &str| deltas[exporter].of(name, &[]);
    let agrees = |exporter: &str, ours: f64, range: &RangeInclusive<f64>, tolerance: f64| {
        agrees(ours, range, tolerance + missed[exporter] / ours.max(1.0))
    };
    let forks = of("process", "ebpf_process_forks_total") + of("process", "ebpf_process_threads_total");
    assert!(agrees("process", forks, &range(0), 0.0), "{forks} forks and threads, /proc/stat {:?}", range(0));
    let waited = of("schedlat", "ebpf_sched_runqueue_latency_microseconds_sum") * 1e3;
    assert!(agrees("schedlat", waited, &range(1), 0.005), "{waited} ns, schedstat {:?}", range(1));
    let waits = of("schedlat", "ebpf_sched_runqueue_latency_microseconds_count");
    assert!(agrees("schedlat", waits, &range(2), 0.0), "{waits} waits, schedstat {:?}", range(2));
    let retransmits = of("tcp", "ebpf_tcp_retransmits_total");
    assert!(agrees("tcp", retransmits, &range(3), 0.0), "{retransmits} segments, snmp {:?}", range(3));
    // Both ends are on this machine, so each handshake counts twice.
    assert_eq!(of("wireguard", "ebpf_wireguard_handshake_success_total"), 2.0);
    let hits = of("zfs-arc", "ebpf_zfs_arc_hits_total");
    assert!(agrees("zfs-arc", hits, &range(4), 0.0), "{hits} hits, arcstats {:?}", range(4));
    let misses = of("zfs-arc", "ebpf_zfs_arc_misses_total");
    assert!(agrees("zfs-arc", misses, &range(5), 0.0), "{misses} misses, arcstats {:?}", range(5));
    // Two exporters count the same thing: started programs are successful calls of execve.
    let execs = of("process", EXECS);
    let calls = deltas["syscall"].of("ebpf_syscalls_total", &[("syscall", "execve")]);
    assert!(execs > ENOUGH && execs <= calls + missed["syscall"] + 20.0, "{execs} execs, {calls} calls");
    sh("systemctl stop ebpf-exporters.target");
}
