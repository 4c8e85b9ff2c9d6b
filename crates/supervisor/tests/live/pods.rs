// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of pods beside `cgroup`: cgroups named as a kubelet and container engines name them, and a kubelet that
//! tells their names, or does not.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::exposition::encode::Format;
use common::exposition::message::MetricFamily;
use common::exposition::protobuf;
use live::cgroup::Group;
use live::exposition::Exposition;
use live::wait_until;
use prost::Message;

use super::{LIMIT, MEMORY, Suite, UP, ask_with};

const WAITS: &str = "ebpf_sched_cgroup_runqueue_latency_microseconds_count";
const READS: &str = "ebpf_file_read_bytes_total";
const FAILURES: &str = "ebpf_exporters_kubelet_failures_total";
const PODS: &str = "ebpf_exporters_kubelet_pods";
const REQUESTS: &str = "ebpf_exporters_kubelet_requests_total";

/// A pod, and a static one.
const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
const HASH: &str = "187bff14cccb94f179e943eacce55bb3";

/// What the kubelet does.
#[derive(Clone, Debug)]
enum Mode {
    /// Takes connections, and says nothing.
    Silent,
    /// Answers with this.
    Says(String),
    /// Answers with a list that has no end.
    Endless,
}

/// Stands in for the kubelet.
struct Kubelet {
    port: u16,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
}

impl Kubelet {
    fn start(mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, asked) = (Arc::new(Mutex::new(mode)), Arc::new(AtomicUsize::new(0)));
        let (now, count) = (Arc::clone(&mode), Arc::clone(&asked));
        thread::spawn(move || {
            for client in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let mode = now.lock().unwrap().clone();
                thread::spawn(move || answer(client.unwrap(), &mode));
            }
        });
        Self { port, mode, asked }
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn answer(client: TcpStream, mode: &Mode) {
    let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let mut client = client;
    // Whoever asks may have heard enough.
    let _ = match mode {
        Mode::Silent => lines.next().transpose().map(drop),
        Mode::Says(text) => client.write_all(text.as_bytes()),
        Mode::Endless => {
            let start = "HTTP/1.0 200 OK\r\n\r\n{\"kind\":\"PodList\",\"items\":[{\"spec\":\"";
            let filler = vec![b'x'; 1 << 20];
            let mut parts = [start.as_bytes()].into_iter().chain([&filler[..]; 100]);
            parts.try_for_each(|part| client.write_all(part))
        }
    };
}

/// UID, namespace and name of a pod, and name and id of each of its containers.
type Listed<'p> = (&'p str, &'p str, &'p str, &'p [(&'p str, &'p str)]);

/// An answer with these pods among 250, each as long as real ones are.
fn listed(pods: &[Listed<'_>]) -> Mode {
    let padding = "x".repeat(8 << 10);
    let others: Vec<String> = (0..250).map(|n| format!("{n:032x}")).collect();
    let others = others.iter().map(|uid| (uid.as_str(), "others", "other", &[][..]));
    let pods = pods.iter().copied().chain(others).map(|(uid, namespace, name, containers)| {
        let containers = containers.iter().map(|(name, id)| {
            format!(r#"{{"name":"{name}","containerID":"containerd://{id}","lastState":{{}},"state":{{"running":{{}}}}}}"#)
        });
        format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"{namespace}","uid":"{uid}","managedFields":[{{"x":"{padding}"}}]}},
            "spec":{{"containers":[{{"name":"{name}"}}]}},"status":{{"containerStatuses":[{}]}}}}"#,
            containers.collect::<Vec<_>>().join(",")
        )
    });
    let items = pods.collect::<Vec<_>>().join(",");
    Mode::Says(format!(
        "HTTP/1.0 200 OK\r\n\r\n{{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"items\":[{items}]}}\n"
    ))
}

fn id(digit: &str) -> String {
    digit.repeat(64)
}

/// A cgroup and those above it, below a folder of its own.
struct Branch(Vec<Group>);

impl Branch {
    fn new(names: &[&str]) -> Self {
        let paths = (1..=names.len()).map(|length| names[..length].join("/"));
        Self(paths.map(|path| Group::new(&path)).collect())
    }

    fn leaf(&self) -> &Group {
        self.0.last().unwrap()
    }

    /// Waits for a CPU, and reads.
    fn work(&self) {
        let line = "for n in 1 2 3; do sleep 0.01; done; cat /proc/version > /dev/null";
        assert!(self.leaf().shell(line).status().unwrap().success());
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        // Inner ones first.
        while self.0.pop().is_some() {}
    }
}

/// Namespace, pod and container of the series of a cgroup; `None` without series of it.
fn names(page: &Exposition, metric: &str, group: &Group) -> Option<String> {
    let of = page.labels(metric).into_iter().filter(|labels| labels["cgroup"] == group.name());
    let mut names: Vec<String> = of
        .map(|labels| {
            ["namespace", "pod", "container"].map(|name| labels.get(name).map_or("-", |name| name)).join(" ")
        })
        .collect();
    names.dedup();
    assert!(names.len() <= 1, "{names:?}");
    names.pop()
}

#[live::test(once, cgroup2)]
fn a_kubelet_names_pods_and_costs_only_names_when_it_fails() {
    let kubelet = Kubelet::start(Mode::Says("HTTP/1.0 403 Forbidden\r\n\r\nForbidden".to_owned()));
    let slice = format!("live-kubepods-pod{}.slice", UID.replace('-', "_"));
    let of_container =
        Branch::new(&["live-kubepods.slice", &slice, &format!("cri-containerd-{}.scope", id("a"))]);
    let suite = Suite::start(&[
        "process",
        "schedlat",
        "fileops",
        "--arg=schedlat=--schedlat.cgroup",
        "--arg=fileops=--fileops.cgroup",
        &format!("--kubelet.url=http://127.0.0.1:{}", kubelet.port),
        "--kubelet.interval=100ms",
    ]);
    of_container.work();
    let garbage = "HTTP/1.0 200 OK\r\n\r\n\u{0}\u{fffd}{\"kind\":\"PodList\",\"items\":[[[";
    for (mode, reason) in [
        (None, "denied"),
        (Some(Mode::Says(garbage.to_owned())), "format"),
        (Some(Mode::Endless), "size"),
        (Some(Mode::Silent), "timeout"),
    ] {
        mode.into_iter().for_each(|mode| kubelet.set(mode));
        wait_until(reason, LIMIT, || {
            let asked = Instant::now();
            let page = suite.scrape();
            let took = asked.elapsed();
            assert!(took < Duration::from_secs(5), "{reason}: {took:?}");
            assert_eq!(page.count(UP, &[]), 3.0);
            assert_eq!(names(&page, WAITS, of_container.leaf()).as_deref(), Some("- - -"), "{reason}");
            page.get(FAILURES, &[("reason", reason)]).unwrap() > 0.0
        });
    }
    kubelet.set(listed(&[
        (UID, "shop", "web-0", &[("nginx", &id("a"))]),
        (HASH, "kube-system", "etcd-node", &[("etcd", &id("c"))]),
    ]));
    let below = "live-kubepods.slice";
    let [sandbox, static_pod, inner] = [
        vec![slice.clone(), format!("cri-containerd-{}.scope", id("b"))],
        vec![format!("pod{HASH}"), format!("crio-{}", id("c"))],
        vec![slice.clone(), format!("cri-containerd-{}.scope", id("a")), "init.scope".to_owned()],
    ]
    .map(|names| {
        // Those above may be there already.
        let there = |names: &[String]| {
            of_container.0.iter().any(|group| group.name() == format!("/{below}/{}", names.join("/")))
        };
        let paths = (1..=names.len()).filter(|length| !there(&names[..*length]));
        Branch(paths.map(|length| Group::new(&format!("{below}/{}", names[..length].join("/")))).collect())
    });
    let service = Branch::new(&["live-docker.service"]);
    let all = [
        (&of_container, "shop web-0 nginx"),
        (&inner, "shop web-0 nginx"),
        (&sandbox, "shop web-0 -"),
        (&static_pod, "kube-system etcd-node etcd"),
        (&service, "- - -"),
    ];
    all.iter().for_each(|(branch, _)| branch.work());
    let are_named = |page: &Exposition| {
        all.iter().all(|(branch, expected)| {
            [WAITS, READS]
                .iter()
                .all(|metric| names(page, metric, branch.leaf()).as_deref() == Some(*expected))
        })
    };
    wait_until("all have names", LIMIT, || are_named(&suite.scrape()));
    // The same names wherever the series are.
    for name in ["schedlat", "fileops"] {
        let format = Format::OpenMetrics.content_type().replace(' ', "");
        for accept in ["text/plain", &format] {
            let (_, body) =
                ask_with(suite.0.port(), &format!("/metrics/{name}"), &format!("Accept: {accept}"));
            let page = Exposition::parse(str::from_utf8(&body).unwrap());
            let metric = if name == "schedlat" { WAITS } else { READS };
            for (branch, expected) in &all {
                assert_eq!(
                    names(&page, metric, branch.leaf()).as_deref(),
                    Some(*expected),
                    "{name} {accept}"
                );
            }
        }
    }
    let accept = format!("Accept: {}", protobuf::CONTENT_TYPE.replace(' ', ""));
    let (mut rest, mut found) = (&ask_with(suite.0.port(), "/metrics", &accept).1[..], 0);
    while !rest.is_empty() {
        let family = MetricFamily::decode_length_delimited(&mut rest).unwrap();
        for metric in &family.metric {
            let of = |name: &str| {
                metric.label.iter().find(|label| label.name() == name).map(|label| label.value())
            };
            if of("cgroup") == Some(of_container.leaf().name()) {
                assert_eq!(
                    [of("namespace"), of("pod"), of("container")],
                    [Some("shop"), Some("web-0"), Some("nginx")]
                );
                found += 1;
            }
        }
    }
    assert!(found > 2, "{found}");
    // What it does not know it is not asked for again and again: the sandbox.
    let mut asked = (kubelet.asked(), Instant::now());
    wait_until("it is left alone", LIMIT, || {
        suite.scrape();
        if asked.0 != kubelet.asked() {
            asked = (kubelet.asked(), Instant::now());
        }
        asked.1.elapsed() > Duration::from_secs(2)
    });
    // A new pod is asked for before a page has it. When the kubelet is gone, names stay.
    kubelet.set(listed(&[("f".repeat(32).as_str(), "shop", "new", &[])]));
    let new = Branch::new(&[&format!("pod{}", "f".repeat(32))]);
    wait_until("the kubelet was asked", LIMIT, || suite.scrape().get(PODS, &[]) == Some(251.0));
    new.work();
    assert_eq!(names(&suite.scrape(), WAITS, new.leaf()).as_deref(), Some("shop new -"));
    kubelet.set(Mode::Silent);
    let page = suite.scrape();
    assert!(are_named(&page), "{page:?}");
    assert!(page.get(REQUESTS, &[]).unwrap() >= 6.0);
    let memory = page.get("process_resident_memory_bytes", &[("exporter", "supervisor")]).unwrap();
    println!("{memory} bytes, asked {} times", kubelet.asked());
    assert!(memory <= MEMORY, "{memory} bytes");
}

#[live::test(once, cgroup2)]
fn without_a_kubelet_nothing_changes() {
    let path = ["live-alone.slice", &format!("pod{UID}"), &id("a")];
    let container = Branch::new(&path);
    let suite = Suite::start(&["schedlat", "--arg=schedlat=--schedlat.cgroup"]);
    container.work();
    let (_, page) = suite.get("/metrics");
    assert_eq!(names(&Exposition::parse(&page), WAITS, container.leaf()).as_deref(), Some("- - -"));
    assert!(!page.contains("kubelet_") && !page.contains("namespace="), "{page}");
}
