// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ebpf-exporters run` with real exporters: what all say against what each says, exporters that are killed,
//! stuck or not supported while it is scraped, and what is left of it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

#[path = "live/pods.rs"]
mod pods;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::exposition::message::MetricFamily;
use common::exposition::protobuf;
use libbpf_rs::query::ProgInfoIter;
use live::exporter::{Exporter, get, try_get};
use live::exposition::Exposition;
use live::work::processes;
use live::{Folder, sh, wait_until};
use prost::Message;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

/// Time limit for what takes seconds here, on an emulated, busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Maximum memory of the supervisor's process.
const MEMORY: f64 = 6.0 * 1024.0 * 1024.0;

/// Exporters that run on all kernels of the tests.
const THREE: [&str; 3] = ["process", "schedlat", "syscall"];

const UP: &str = "ebpf_exporters_up";
const RESTARTS: &str = "ebpf_exporters_restarts_total";

/// A running supervisor.
struct Suite(Exporter);

impl Suite {
    fn start(arguments: &[&str]) -> Self {
        Self::spawn(Command::new("ebpf-exporters").arg("run").args(arguments))
    }

    fn spawn(command: &mut Command) -> Self {
        let suite = Self(Exporter::spawn(command));
        wait_until("all are started", LIMIT, || !suite.get("/-/ready").1.starts_with("starting"));
        suite
    }

    fn get(&self, path: &str) -> (u16, String) {
        get(self.0.port(), path)
    }

    fn scrape(&self) -> Exposition {
        self.0.scrape()
    }

    /// Process ids of the exporters.
    fn exporters(&self) -> BTreeMap<String, Pid> {
        exporters(self.0.pid())
    }

    fn kill(&self, name: &str, signal: Signal) {
        kill_process(self.exporters()[name], signal).unwrap();
    }

    fn is_up(&self, name: &str) -> Option<f64> {
        self.scrape().get(UP, &[("exporter", name)])
    }
}

/// Processes whose parent is this one, dead ones too.
fn children(of: u32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        parent.is_some_and(|parent| parent == of.to_string())
    };
    pids.filter(is_child).collect()
}

/// Process ids of the exporters that a supervisor started.
fn exporters(of: u32) -> BTreeMap<String, Pid> {
    let exporters = children(of).into_iter().filter_map(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let name = line.split('\0').next()?.rsplit_once("/ebpf-")?.1.strip_suffix("-exporter")?;
        Some((name.to_owned(), Pid::from_raw(pid)?))
    });
    exporters.collect()
}

fn exists(pid: Pid) -> bool {
    fs::exists(format!("/proc/{}", pid.as_raw_nonzero())).unwrap()
}

/// Head and body of an answer to a request with this header.
fn ask_with(port: u16, path: &str, header: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n{header}\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap(), body)
}

/// Labels of a series, with the one that tells exporters apart where it is about an exporter itself.
fn apart<'s>(name: &str, labels: &[(&'s str, &'s str)], exporter: &'s str) -> Vec<(&'s str, &'s str)> {
    let mut labels = labels.to_vec();
    let of_itself = name.starts_with("ebpf_exporter_") || name.starts_with("process_");
    if of_itself && !labels.iter().any(|(name, _)| *name == "exporter") {
        labels.push(("exporter", exporter));
    }
    labels
}

#[live::test]
fn all_together_say_what_each_says() {
    let suite = Suite::start(&THREE);
    processes(23);
    let each = || THREE.map(|name| Exposition::parse(&suite.get(&format!("/metrics/{name}")).1));
    let before = each();
    processes(23);
    let (status, page) = suite.get("/metrics");
    assert_eq!(status, 200, "{page}");
    processes(23);
    let after = each();
    let all = Exposition::parse(&page);
    let mut compared = 0;
    for ((name, before), after) in THREE.iter().zip(&before).zip(&after) {
        assert_eq!(all.get(UP, &[("exporter", name)]), Some(1.0));
        for (metric, labels) in before.series() {
            let counts = ["_total", "_bucket", "_sum", "_count"].iter().any(|end| metric.ends_with(end));
            if !counts {
                continue;
            }
            let [least, most] = [before, after].map(|page| page.get(metric, &labels).unwrap());
            let labels = apart(metric, &labels, name);
            let ours = all.get(metric, &labels).unwrap_or_else(|| panic!("no {metric}{labels:?} of {name}"));
            assert!(least <= ours && ours <= most, "{metric}{labels:?}: {least} {ours} {most}");
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared} series");
    let forks = "ebpf_process_forks_total";
    let [least, most] = [&before, &after].map(|pages| pages[0].count(forks, &[]));
    assert!(all.count(forks, &[]) - least >= 23.0 && most - all.count(forks, &[]) >= 23.0);
    // One head for each family, and no series twice.
    for start in ["# HELP ", "# TYPE "] {
        let mut heads: Vec<&str> =
            page.lines().filter_map(|line| line.strip_prefix(start)?.split(' ').next()).collect();
        let total = heads.len();
        heads.dedup();
        assert!(heads.is_sorted() && heads.len() == total, "{heads:?}");
    }
    let mut series: Vec<String> = all.series().map(|(name, labels)| format!("{name}{labels:?}")).collect();
    let total = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), total);
}

#[live::test(once)]
fn protobuf_has_the_families_of_the_text() {
    let suite = Suite::start(&THREE);
    let accept = format!("Accept: {}", protobuf::CONTENT_TYPE.replace(' ', ""));
    let (head, body) = ask_with(suite.0.port(), "/metrics", &accept);
    assert!(head.contains(&format!("Content-Type: {}", protobuf::CONTENT_TYPE)), "{head}");
    let (mut rest, mut found) = (body.as_slice(), BTreeMap::new());
    while !rest.is_empty() {
        let family = MetricFamily::decode_length_delimited(&mut rest).unwrap();
        let metrics = family.metric.len();
        assert_eq!(found.insert(family.name().to_owned(), metrics), None, "twice");
    }
    let text = suite.get("/metrics").1;
    let heads = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let heads: Vec<&str> = heads.filter(|name| found.contains_key(*name)).collect();
    assert_eq!(heads, found.keys().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(found["ebpf_exporter_mode"], THREE.len());
    assert_eq!(found["process_open_fds"], THREE.len() + 1);
}

#[live::test]
fn one_that_is_killed_costs_its_own_part_and_comes_back_later_and_later() {
    let suite = Suite::start(&THREE);
    let stop = AtomicBool::new(false);
    let scrapes = thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut scrapes = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                scrapes.push(suite.scrape());
            }
            scrapes
        });
        for wait in [1, 2] {
            suite.kill("schedlat", Signal::KILL);
            let killed = Instant::now();
            wait_until("it is missed", LIMIT, || suite.is_up("schedlat") == Some(0.0));
            wait_until("it is back", LIMIT, || suite.is_up("schedlat") == Some(1.0));
            let took = killed.elapsed();
            assert!(took >= Duration::from_secs(wait), "back after {took:?}, not {wait} s");
        }
        stop.store(true, Ordering::Relaxed);
        scraper.join().unwrap()
    });
    let ups = |name: &str| {
        scrapes.iter().map(|page| page.get(UP, &[("exporter", name)]).unwrap()).collect::<Vec<_>>()
    };
    let of = "ebpf_sched_runqueue_latency_microseconds_count";
    for (page, up) in scrapes.iter().zip(ups("schedlat")) {
        assert_eq!(page.get(of, &[]).is_some(), up == 1.0);
        assert!(page.get("ebpf_process_forks_total", &[]).is_some());
        assert!(page.count("ebpf_syscalls_total", &[]) > 0.0);
    }
    assert!(ups("schedlat").contains(&0.0), "{} scrapes", scrapes.len());
    assert!(["process", "syscall"].iter().all(|name| !ups(name).contains(&0.0)));
    let last = suite.scrape();
    let restarts = THREE.map(|name| last.get(RESTARTS, &[("exporter", name)]));
    assert_eq!(restarts, [Some(0.0), Some(2.0), Some(0.0)]);
}

#[live::test(once)]
fn one_that_hangs_is_waited_for_no_longer_than_prometheus_waits() {
    let suite = Suite::start(&["process", "syscall"]);
    suite.kill("syscall", Signal::STOP);
    let began = Instant::now();
    let (_, body) = ask_with(suite.0.port(), "/metrics", "X-Prometheus-Scrape-Timeout-Seconds: 1.5");
    let took = began.elapsed();
    assert!((Duration::from_millis(1300)..Duration::from_secs(5)).contains(&took), "{took:?}");
    let page = Exposition::parse(&String::from_utf8(body).unwrap());
    let up = ["process", "syscall"].map(|name| page.get(UP, &[("exporter", name)]));
    assert_eq!(up, [Some(1.0), Some(0.0)]);
    assert!(page.get("ebpf_process_forks_total", &[]).is_some());
    suite.kill("syscall", Signal::CONT);
    wait_until("it is back", LIMIT, || suite.is_up("syscall") == Some(1.0));
    assert_eq!(suite.scrape().get(RESTARTS, &[("exporter", "syscall")]), Some(0.0));
}

#[live::test(once)]
fn what_cannot_run_is_named_and_tried_again_on_request() {
    let arguments =
        ["syscall", "schedlat", "process", "--arg=schedlat=--ebpf=off", "--arg=syscall=--nonsense"];
    let suite = Suite::start(&arguments);
    let reason = "cannot run without eBPF: schedlat has no other source for its metrics";
    let check = || {
        let page = suite.scrape();
        let why = [("exporter", "schedlat"), ("reason", reason)];
        assert_eq!(page.get("ebpf_exporters_unsupported", &why), Some(1.0));
        let up = ["process", "schedlat", "syscall"].map(|name| page.get(UP, &[("exporter", name)]));
        assert_eq!(up, [Some(1.0), None, Some(0.0)]);
        page.get(RESTARTS, &[("exporter", "schedlat")])
    };
    assert_eq!(check(), Some(0.0));
    let (status, said) = suite.get("/-/ready");
    assert_eq!(status, 200);
    assert!(said.contains(&format!("unsupported: schedlat: {reason}\n")), "{said}");
    assert!(said.contains("failed: syscall: wrong usage"), "{said}");
    let (status, said) = suite.get("/metrics/schedlat");
    assert_eq!((status, said.trim()), (503, format!("schedlat is unsupported: {reason}").as_str()));
    assert_eq!(suite.get("/metrics/nothing").0, 404);
    kill_process(Pid::from_raw(suite.0.pid() as i32).unwrap(), Signal::HUP).unwrap();
    wait_until("it is tried again", LIMIT, || {
        let page = suite.scrape();
        page.get(RESTARTS, &[("exporter", "schedlat")]) == Some(1.0)
            && page.get("ebpf_exporters_unsupported", &[("exporter", "schedlat")]).is_some()
            && suite.get("/exporters").1.contains("\"exporter\":\"syscall\",\"state\":\"failed\"")
    });
    assert_eq!(check(), Some(1.0));
    let alone = Command::new("ebpf-exporters")
        .args(["run", "schedlat", "--arg=schedlat=--ebpf=off", "--web.listen-address=127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(alone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&alone.stderr).contains(&format!("no exporter runs here: {reason}")));
}

/// Ids of all programs in the kernel.
fn programs() -> BTreeSet<String> {
    ProgInfoIter::default().map(|info| info.id.to_string()).collect()
}

#[live::test]
fn nothing_is_left_of_it() {
    // The one for ZFS waits for its module on most machines: it has executed itself, or will.
    let names = ["schedlat", "syscall", "zfs-arc"];
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let suite = Suite::start(&names);
        let exporters = suite.exporters();
        assert_eq!(exporters.len(), names.len(), "{exporters:?}");
        let page = suite.scrape();
        let ids =
            page.labels("ebpf_exporter_ebpf_program_info").into_iter().map(|labels| labels["id"].clone());
        let ids: BTreeSet<String> = ids.collect();
        assert!(ids.len() >= 2 && ids.is_subset(&programs()), "{ids:?}");
        let code = suite.0.end(signal);
        if signal == Signal::KILL {
            wait_until("exporters gone", LIMIT, || !exporters.values().any(|pid| exists(*pid)));
        } else {
            // It waits for them.
            assert!(!exporters.values().any(|pid| exists(*pid)), "{exporters:?}");
            assert_eq!(code, Some(0));
        }
        // The kernel frees programs after a grace period.
        wait_until("programs gone", LIMIT, || programs().is_disjoint(&ids));
    }
}

/// Up to Linux 6.8, the end of such a process would stop attaching and detaching on the whole machine, if
/// programs were attached through ftrace: `common::kernel::ftrace`.
#[live::test(tool("unshare"), tool("nsenter"))]
fn as_the_first_process_of_a_container_it_collects_orphans() {
    let mut command = Command::new("unshare");
    command.args(["--fork", "--pid", "--kill-child", "ebpf-exporters", "run", "process"]);
    let suite = Suite::spawn(command.process_group(0));
    let supervisor = children(suite.0.pid())[0];
    // A process whose parent ends before it does.
    sh(&format!("nsenter --pid=/proc/{supervisor}/ns/pid_for_children sh -c '(sleep 0.2; exit 3) & exit 0'"));
    let others = || {
        let all = children(supervisor as u32).into_iter();
        let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        all.map(name).filter(|name| !name.starts_with("ebpf-")).collect::<Vec<_>>()
    };
    wait_until("the orphan is collected", LIMIT, || others().is_empty());
    assert_eq!(suite.is_up("process"), Some(1.0));
    let exporter = exporters(supervisor as u32)["process"];
    suite.0.end(Signal::KILL);
    wait_until("the exporter is gone", LIMIT, || !exists(exporter));
    let again = Suite::start(&["process"]);
    assert_eq!(again.is_up("process"), Some(1.0));
}

#[live::test(tool("unshare"))]
fn one_that_waits_for_its_module_goes_on_as_the_same_process() {
    // A folder in a private /sys/module stands for the module.
    let hide = "mount -t tmpfs none /sys/module && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", hide, "sh", "ebpf-exporters", "run", "wireguard", "process"]);
    let suite = Suite::spawn(&mut command);
    let is = |mode: &str| {
        let labels = [("exporter", "wireguard"), ("mode", mode)];
        suite.scrape().get("ebpf_exporter_mode", &labels) == Some(1.0)
    };
    assert!(is("waiting"));
    let before = suite.exporters();
    let folder = format!("/proc/{}/root/sys/module/wireguard", suite.0.pid());
    for _ in 0..2 {
        fs::create_dir(&folder).unwrap();
        wait_until("it has maps", LIMIT, || is("ebpf"));
        fs::remove_dir(&folder).unwrap();
        wait_until("it waits again", LIMIT, || is("waiting"));
    }
    fs::create_dir(&folder).unwrap();
    wait_until("it has maps", LIMIT, || is("ebpf"));
    assert_eq!(suite.exporters(), before);
    assert_eq!(suite.scrape().get(RESTARTS, &[]), Some(0.0));
    // Executing itself gave it capabilities, for which the kernel forgets the parent-death signal.
    suite.0.end(Signal::KILL);
    wait_until("exporters gone", LIMIT, || !before.values().any(|pid| exists(*pid)));
}

#[live::test(once)]
fn its_memory_is_small_whoever_scrapes() {
    let suite = Suite::start(&["process", "schedlat", "syscall", "--arg=syscall=--syscall.latency"]);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    suite.scrape();
                }
            });
        }
    });
    let page = suite.scrape();
    let memory = page.get("process_resident_memory_bytes", &[("exporter", "supervisor")]).unwrap();
    println!("{memory} bytes");
    assert!(memory <= MEMORY, "{memory} bytes");
}

#[live::test(once, tool("curl"))]
fn it_has_tls_and_passwords_as_exporters_have() {
    /// bcrypt hash of "sesame", with a low cost.
    const HASH: &str = "$2y$05$AOiHAOiHAOiHAOiHAOiHAOMzJVTPhcbpEzDStSol2ygw6mOUdHR8i";
    let folder = Folder::new();
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap();
    let config = format!(
        "tls_server_config: {{cert_file: web.crt, key_file: web.key}}\nbasic_auth_users: {{alice: {HASH}}}\n"
    );
    for (name, text) in [
        ("ca.crt", authority.pem()),
        ("web.crt", certificate.pem()),
        ("web.key", key.serialize_pem()),
        ("web.yml", config),
    ] {
        fs::write(folder.path(name), text).unwrap();
    }
    let web = format!("--web.config.file={}", folder.path("web.yml"));
    let suite = Exporter::spawn(Command::new("ebpf-exporters").args(["run", "process", &web]));
    let port = suite.port();
    let ask = |user: &str| {
        sh(&format!(
            "curl -s --cacert {} --resolve localhost:{port}:127.0.0.1 -u {user} https://localhost:{port}/metrics || :",
            folder.path("ca.crt")
        ))
    };
    wait_until("it is asked", LIMIT, || {
        ask("alice:sesame").contains("ebpf_exporters_up{exporter=\"process\"} 1")
    });
    assert_eq!(ask("alice:no"), "user and password required");
    assert!(!try_get(port, "/metrics").is_ok_and(|(status, _)| status == 200));
}

#[live::test(once, tool("promtool"))]
fn promtool_takes_the_page_of_all() {
    let suite = Suite::start(&THREE);
    let folder = Folder::new();
    let page = folder.path("page");
    fs::write(&page, suite.get("/metrics").1).unwrap();
    let said = sh(&format!("promtool check metrics < {page} 2>&1 || :"));
    let others: Vec<&str> = said.lines().filter(|line| !line.contains("use base unit \"seconds\"")).collect();
    assert!(others.is_empty(), "{others:?}");
}

live::main!();
