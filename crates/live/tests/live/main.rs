// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exporters as their users have them: flags and refusals, units of the package, a real Prometheus,
//! with diskio as the example; then all exporters together on a busy machine. What works without
//! eBPF is in `fallback.rs`, which programs load in `programs.rs`, what is imported elsewhere in `prometheus.rs` and
//! `textfile.rs`, what installing does in `package.rs`, TLS in `web.rs`, waiting for a module in
//! `waiting.rs`, ports in `ports.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

mod fallback;
mod package;
mod ports;
mod programs;
mod prometheus;
mod textfile;
mod waiting;
mod web;

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::ops::RangeInclusive;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use live::block;
use live::exporter::{Exporter, get, unit_becomes, until};
use live::exposition::{Delta, Exposition};
use live::needs::preempts_programs;
use live::net::snmp;
use live::truth::{agrees, schedstat, stat};
use live::wireguard::Tunnel;
use live::work::{Running, cold_file, ping_pong, processes};
use live::zpool::{DISKS, Pool, kstat};
use live::{Folder, bpf_programs, sh, tell, udev_settles, wait_until};
use prometheus::{ask, numbers};
use rustix::process::Signal;

const IO_LATENCY: &str = "ebpf_disk_io_latency_microseconds";

/// Maximum memory of an exporter's process.
const MEMORY: f64 = 4.0 * 1024.0 * 1024.0;

/// How long the load runs.
const BUSY: Duration = Duration::from_secs(40);

/// Minimum number of programs that the load starts.
const ENOUGH: f64 = 100.0;

/// Maximum number of events that an exporter may miss, of hundreds of thousands, on a kernel that
/// preempts programs.
const RARELY: f64 = 100.0;

const EXECS: &str = "ebpf_process_execs_total";

/// Number of diskio's programs in the kernel, which truncates their names.
fn our_programs() -> usize {
    bpf_programs().iter().filter(|name| name.starts_with("rq_") || name.starts_with("bio_")).count()
}

fn start() -> Exporter {
    Exporter::start("diskio", &[])
}

/// Names and ports, from the package's scrape configuration.
fn exporters() -> BTreeMap<String, u16> {
    let config = std::fs::read_to_string("/usr/share/ebpf-exporters/prometheus/prometheus.yml").unwrap();
    let jobs = config.split("job_name: ebpf-").skip(1);
    let job = |text: &str| {
        let name = text.lines().next()?.trim().to_owned();
        let port = text.split_once("localhost:")?.1.split('"').next()?.parse().ok()?;
        Some((name, port))
    };
    let exporters: BTreeMap<String, u16> = jobs.filter_map(job).collect();
    assert!(exporters.len() >= 15, "{exporters:?}");
    exporters
}

fn scrape(port: u16) -> Exposition {
    let (status, text) = get(port, "/metrics");
    assert_eq!(status, 200, "{text}");
    Exposition::parse(&text)
}

#[live::test]
fn nothing_stays_in_the_kernel() {
    let before = our_programs();
    for (signal, code) in [(Signal::TERM, Some(0)), (Signal::INT, Some(0)), (Signal::KILL, None)] {
        let exporter = start();
        // More where the kernel preempts programs.
        assert!(our_programs() >= before + 6);
        assert_eq!(exporter.end(signal), code);
        // The kernel frees programs after a grace period.
        wait_until("programs gone", Duration::from_secs(30), || our_programs() == before);
    }
}

#[live::test(once)]
fn check_once_and_textfile_do_what_they_say() {
    let check = sh("ebpf-diskio-exporter --check");
    assert_eq!(check.lines().count(), 6, "{check}");
    assert!(check.lines().all(|line| line.contains(": ok")), "{check}");

    let device = block::fast();
    udev_settles();
    let mut once = Command::new("ebpf-diskio-exporter");
    let mut once = Running::start(once.arg("--once").stdout(Stdio::piped()));
    let id = once.0.id();
    // This thread starts after all programs are attached.
    wait_until("it waits for signals", Duration::from_secs(30), || {
        sh(&format!("cat /proc/{id}/task/*/comm || :")).contains("signals")
    });
    block::direct_writes(&device, 5, 4096);
    sh(&format!("kill -INT {id}"));
    let mut text = String::new();
    once.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(once.0.wait().unwrap().success());
    let write = [("device", device.name.as_str()), ("operation", "write")];
    assert_eq!(Exposition::parse(&text).get(&format!("{IO_LATENCY}_count"), &write), Some(5.0), "{text}");

    let folder = Folder::new();
    let path = folder.path("diskio.prom");
    let mut daemon = Running::start(Command::new("ebpf-diskio-exporter").args([
        "--textfile.path",
        &path,
        "--textfile.interval",
        "100ms",
    ]));
    let scrapes = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Exposition::parse(&text).count("ebpf_exporter_scrapes_total", &[])
    };
    wait_until("the file is rewritten", Duration::from_secs(30), || scrapes() >= 3.0);
    sh(&format!("kill -TERM {}", daemon.0.id()));
    assert!(daemon.0.wait().unwrap().success());
    assert_eq!(sh(&format!("ls -A {}", folder.path(""))), "diskio.prom");
}

/// Runs a command that must fail. Returns its exit code and standard error.
fn fails(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[live::test(once)]
fn what_cannot_work_says_why_and_leaves_nothing_behind() {
    let before = our_programs();
    let exporter = start();
    let port = exporter.port().to_string();
    let mut command = Command::new("ebpf-diskio-exporter");
    let (code, said) = fails(command.args(["--web.listen-address", &format!("127.0.0.1:{port}")]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&port) && said.contains("--web.listen-address"), "{said}");
    drop(exporter);

    let (code, said) = fails(Command::new("ebpf-diskio-exporter").arg("--check").uid(65534).gid(65534));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("CAP_BPF"), "{said}");

    for (path, why) in [("/nonexistent", "/nonexistent"), ("/etc/passwd", "/etc/passwd")] {
        let (code, said) = fails(Command::new("ebpf-diskio-exporter").args(["--check", "--btf.path", path]));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "one line: {said}");
    }

    let ambiguous = ["--web.listen-address", "::1:9101"];
    let (code, said) = fails(Command::new("ebpf-diskio-exporter").args(ambiguous));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("[::1]:9101"), "{said}");

    let (code, said) = fails(Command::new("ebpf-diskio-exporter").arg("--no-such-flag"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--no-such-flag"), "{said}");

    let (code, said) =
        fails(Command::new("ebpf-diskio-exporter").args(["--textfile.path", "/nonexistent/x.prom"]));
    assert_eq!(code, Some(1), "{said}");
    wait_until("programs gone", Duration::from_secs(30), || our_programs() == before);
}

/// Remedies that messages may name, by a word of each.
const REMEDIES: [&str; 8] = [
    "locked memory",
    "CAP_BPF",
    "CAP_PERFMON",
    "CAP_SYS_ADMIN",
    "user namespace",
    "seccomp",
    "CONFIG_DEBUG_INFO_BTF",
    "is hidden from this process",
];

/// Asserts that a command fails with code 1 and names exactly these remedies.
#[track_caller]
fn names(command: &mut Command, remedies: &[&str]) {
    let (code, said) = fails(command);
    assert_eq!(code, Some(1), "{said}");
    let named: Vec<&str> = REMEDIES.into_iter().filter(|word| said.contains(word)).collect();
    assert_eq!(named, remedies, "{said}");
    assert!(!said.contains("BPF skeleton"), "it says what was refused: {said}");
}

/// `--check` of an exporter as the user nobody with these capabilities.
fn with_capabilities(capabilities: &str, exporter: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        command.arg(format!("--{set}=-all{capabilities}"));
    }
    command.args([&format!("ebpf-{exporter}-exporter"), "--check"]);
    command
}

/// Makes bpf(2) fail with EPERM, as units and containers may do.
fn without_bpf() -> std::io::Result<()> {
    let step = |code: u32, k, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The number of the call is at the beginning of a filter's input.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_bpf as u32, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its length are right, and both outlive the call.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[live::test(tool("setpriv"), tool("prlimit"))]
fn a_remedy_is_named_only_where_its_cause_is_there() {
    names(&mut with_capabilities("", "diskio"), &["CAP_BPF", "CAP_PERFMON"]);
    names(&mut with_capabilities(",+bpf", "diskio"), &["CAP_PERFMON"]);
    names(&mut with_capabilities(",+perfmon", "diskio"), &["CAP_BPF"]);
    // The limit of locked memory is not the cause here.
    names(
        Command::new("prlimit").arg("--memlock=65536").args(["setpriv", "--bounding-set=-all"]).args([
            "--inh-caps=-all",
            "ebpf-diskio-exporter",
            "--check",
        ]),
        &["CAP_BPF", "CAP_PERFMON"],
    );
    let mut filtered = Command::new("prlimit");
    filtered.args(["--memlock=65536", "ebpf-diskio-exporter", "--check"]);
    // SAFETY: between fork and exec it only makes one system call.
    unsafe { filtered.pre_exec(without_bpf) };
    names(&mut filtered, &["seccomp"]);
    let namespace = ["-Ur", "ebpf-diskio-exporter", "--check"];
    names(Command::new("unshare").args(namespace), &["user namespace"]);
    // Where maps count as locked memory, a limit that cannot be raised is the cause, and only there.
    let mut limited = Command::new("prlimit");
    limited.args(["--memlock=0"]).arg("setpriv");
    let unprivileged = with_capabilities(",+bpf,+perfmon", "diskio");
    limited.args(unprivileged.get_args());
    if sh("grep -c ' bpf_map_charge_init$' /proc/kallsyms || :") == "0" {
        let output = limited.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    } else {
        names(&mut limited, &["locked memory"]);
    }
}

/// Debian's kernels have an additional level of this setting, above those of the mainline kernel.
#[live::test(kprobes, module("zfs"), tool("setpriv"))]
fn a_setting_that_asks_for_more_is_named() {
    sh("modprobe zfs");
    let level: i32 = sh("cat /proc/sys/kernel/perf_event_paranoid").parse().unwrap();
    let mut command = with_capabilities(",+bpf,+perfmon", "zfs-arc");
    if level > 2 {
        names(&mut command, &["CAP_SYS_ADMIN"]);
    } else {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[live::test(file("/sys/kernel/btf/vmlinux"))]
fn btf_that_is_hidden_is_named_as_such() {
    for hidden in ["/sys/kernel/btf", "/sys"] {
        let hide = format!("mount -t tmpfs none {hidden} && exec ebpf-diskio-exporter --check");
        let mut command = Command::new("unshare");
        let (code, said) = fails(command.args(["-m", "sh", "-c", &hide]));
        assert!(said.contains("--btf.path"), "{code:?} {said}");
        names(&mut command, &["is hidden from this process"]);
    }
}

#[live::test(file("/sys/kernel/btf/vmlinux"))]
fn what_a_kernel_lacks_is_named_without_a_remedy() {
    let folder = Folder::new();
    let btf = folder.path("vmlinux.btf");
    sh(&format!("cp /sys/kernel/btf/vmlinux {btf}"));
    // The kernel then has neither fentry nor kprobes.
    let hide = "mount -t tmpfs none /sys/kernel/btf && mount -t tmpfs none /sys/bus && exec prlimit \
                --memlock=65536 ebpf-dns-exporter --check --btf.path \"$1\"";
    names(Command::new("unshare").args(["-m", "sh", "-c", hide, "sh", &btf]), &[]);
}

#[live::test(module("null_blk"), own_machine)]
fn the_units_run_unprivileged_and_prometheus_scrapes_them() {
    sh("systemctl start ebpf-diskio-exporter.service || { journalctl -u ebpf-diskio-exporter; exit 1; }");
    let pid = sh("systemctl show -P MainPID ebpf-diskio-exporter.service");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_ne!(field("Uid:"), "0");
    // CAP_PERFMON is 38, CAP_BPF 39. After attaching the exporter only reads.
    let bits = |name: &str| u64::from_str_radix(&field(name), 16).unwrap();
    assert_eq!(bits("CapBnd:") & !(1 << 38 | 1 << 39), 0, "{status}");
    assert_eq!(bits("CapEff:") & !(1 << 39), 0, "{status}");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let rss: u64 = field("VmRSS:").parse().unwrap();
    assert!(rss <= 4096, "{rss} kB resident");

    let (code, text) = get(9101, "/metrics");
    assert_eq!(code, 200);
    assert_eq!(Exposition::parse(&text).get("ebpf_exporter_mode", &[("mode", "ebpf")]), Some(1.0));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    let lint = Command::new("promtool").args(["check", "metrics"]).stdin(file).output().unwrap();
    let said = String::from_utf8_lossy(&lint.stderr).into_owned() + &String::from_utf8_lossy(&lint.stdout);
    let others: Vec<&str> = said.lines().filter(|line| !line.contains("use base unit \"seconds\"")).collect();
    assert!(others.is_empty(), "{others:?}");

    let device = block::null_blk(2_100_000, "none");
    let config = "/usr/share/ebpf-exporters/prometheus/prometheus.yml";
    sh(&format!("promtool check config {config}"));
    let server = prometheus::prometheus(config);
    let query = |query: &str| numbers(&ask("query", Some(query)));
    wait_until("the target is up", Duration::from_secs(120), || {
        query("up{job=\"ebpf-diskio\"} == 1") == [1.0]
    });
    let quantile = format!(
        "histogram_quantile(0.5, rate({IO_LATENCY}_bucket{{device=\"{}\",operation=\"read\"}}[2m]))",
        device.name
    );
    let mut answer = Vec::new();
    wait_until("a quantile", Duration::from_secs(180), || {
        assert_eq!(block::direct_reads(&device, 50, 4096), 0);
        answer = query(&quantile);
        !answer.is_empty()
    });
    assert!(matches!(answer[..], [2048.0..4096.0]), "median {answer:?} us");
    drop(server);

    sh("systemctl stop ebpf-diskio-exporter");
    wait_until("programs gone", Duration::from_secs(30), || our_programs() == 0);
}

/// Runs last of all, because lockdown cannot be undone.
#[live::test(own_machine, last_of_all)]
fn lockdown_is_named_where_it_matters() {
    let folder = Folder::new();
    let btf = folder.path("vmlinux.btf");
    sh(&format!("cp /sys/kernel/btf/vmlinux {btf}"));
    sh("mountpoint -q /sys/kernel/security || mount -t securityfs none /sys/kernel/security
        echo confidentiality > /sys/kernel/security/lockdown");
    // Programs whose types the verifier knows need no read helper, which lockdown forbids.
    let check = sh("ebpf-diskio-exporter --check");
    assert!(check.lines().all(|line| line.contains(": ok")), "{check}");
    // Their alternatives without BTF need that helper.
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec ebpf-diskio-exporter --btf.path \"$@\"";
    let hide = ["-m", "sh", "-c", hide, "sh", &btf];
    let (code, said) = fails(Command::new("unshare").args(hide).arg("--check"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("lockdown"), "{said}");
    // Without eBPF the exporter still has something to serve.
    let (said, exporter) = Exporter::spawn_and_read(Command::new("unshare").args(hide));
    assert!(said.contains("lockdown") && said.contains("without eBPF"), "{said}");
    assert_eq!(exporter.scrape().get("ebpf_exporter_mode", &[("mode", "fallback")]), Some(1.0));
    drop(exporter);
    wait_until("programs gone", Duration::from_secs(30), || our_programs() == 0);
}

/// docs/kernel-support.md is made from what this prints: the run fails if a guest prints something else.
#[live::test(kprobes, module("zfs"), module("wireguard"), own_machine)]
fn each_exporter_runs_by_ebpf_and_tells_its_hooks() {
    sh("modprobe zfs; modprobe wireguard");
    for name in exporters().keys() {
        let exporter = Exporter::start(name, &[]);
        until(exporter.port(), name, |text| text.get("ebpf_exporter_mode", &[("mode", "ebpf")]).is_some());
        for labels in exporter.scrape().labels("ebpf_exporter_ebpf_program_info") {
            tell(&format!("uses: {name} {}", labels["hook"]));
        }
    }
}

/// A load for all exporters at the same time, until told to stop.
fn load(stop: &AtomicBool, tunnel: &Tunnel) {
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
        scope.spawn(|| load(&stop, &tunnel));
        let start = Instant::now();
        let mut before = all();
        // This takes longer on a busy machine, but must end before a new handshake is due.
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
        stop.store(true, Ordering::Relaxed);
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
        // Operations in flight when an exporter started have no start time. Where programs are preempted, all
        // copies miss a few events.
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
    // Both ends of the tunnel are on this machine.
    assert_eq!(of("wireguard", "ebpf_wireguard_handshake_success_total"), 2.0);
    let hits = of("zfs-arc", "ebpf_zfs_arc_hits_total");
    assert!(agrees("zfs-arc", hits, &range(4), 0.0), "{hits} hits, arcstats {:?}", range(4));
    let misses = of("zfs-arc", "ebpf_zfs_arc_misses_total");
    assert!(agrees("zfs-arc", misses, &range(5), 0.0), "{misses} misses, arcstats {:?}", range(5));
    // Two exporters see the same events: programs executed are successful calls of execve.
    let execs = of("process", EXECS);
    let calls = deltas["syscall"].of("ebpf_syscalls_total", &[("syscall", "execve")]);
    assert!(execs > ENOUGH && execs <= calls + missed["syscall"] + 20.0, "{execs} execs, {calls} calls");
    sh("systemctl stop ebpf-exporters.target");
}

live::main!();
