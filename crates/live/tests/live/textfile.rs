// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files for node_exporter, read by Debian's node_exporter.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use live::block::{Frozen, Thaw};
use live::exporter::{try_get, unit_becomes};
use live::exposition::Exposition;
use live::notify::Listener;
use live::work::Running;
use live::{Folder, sh, tell, wait_until};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    wait_until(what, Duration::from_secs(600), condition);
}

/// Series of one exporter in the answer of node_exporter.
fn ours(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter(|line| line.starts_with("ebpf_"));
    names.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

/// The watchdog timeout of the test's systemd.
const WATCHDOG: Duration = Duration::from_secs(2);

/// Starts an exporter that writes to `path`, and waits until it is ready.
fn start(listener: &Listener, path: &str, interval: &str) -> Running {
    let mut command = Command::new("ebpf-syscall-exporter");
    command.args(["--textfile.path", path, "--textfile.interval", interval]);
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string()).env_remove("WATCHDOG_PID");
    let exporter = Running::start(listener.hear(&mut command).stderr(Stdio::null()));
    let ready = || listener.hears().is_ok_and(|lines| lines[0] == "READY=1");
    wait_until("it is ready", Duration::from_secs(60), ready);
    exporter
}

#[live::test(once)]
fn the_watchdog_hears_from_an_exporter_that_writes_files() {
    let (listener, folder) = (Listener::new(WATCHDOG), Folder::new());
    // It writes more often than the watchdog timeout, or hardly ever.
    for interval in ["100ms", "1h"] {
        let mut exporter = start(&listener, &folder.path("x.prom"), interval);
        let start = Instant::now();
        while start.elapsed() < 3 * WATCHDOG {
            assert_eq!(listener.hears().expect("in time"), ["WATCHDOG=1"], "{interval}");
        }
        sh(&format!("kill -TERM {}", exporter.0.id()));
        wait_until("it says that it ends", WATCHDOG, || {
            listener.hears().is_ok_and(|lines| lines[0] == "STOPPING=1")
        });
        assert!(exporter.0.wait().unwrap().success());
    }
}

#[live::test(once, module("loop"), tool("mkfs.ext4"), tool("fsfreeze"))]
fn the_watchdog_does_not_hear_from_one_whose_write_hangs() {
    let (listener, disk) = (Listener::new(WATCHDOG), Frozen::new());
    disk.thaw();
    let _exporter = start(&listener, &disk.path("x.prom"), "100ms");
    let _thaw = Thaw(&disk);
    disk.freeze();
    let hangs = || listener.hears().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    wait_until("nothing is heard in time", 5 * WATCHDOG, hangs);
    disk.thaw();
    assert_eq!(listener.hears().expect("in time"), ["WATCHDOG=1"]);
}

/// A changed unit. Dropping this undoes the changes.
struct Changed;

impl Drop for Changed {
    fn drop(&mut self) {
        // If this fails, the next test fails.
        let _ = Command::new("sh")
            .args([
                "-c",
                "systemctl stop ebpf-diskio-exporter
                rm -rf /run/systemd/system/ebpf-diskio-exporter.service.d /etc/default/ebpf-diskio-exporter
                rm -f /var/lib/prometheus/node-exporter/ebpf-diskio.prom; systemctl daemon-reload",
            ])
            .status();
    }
}

#[live::test(own_machine, once)]
fn a_unit_writes_files_for_as_long_as_its_watchdog_likes() {
    const FILE: &str = "/var/lib/prometheus/node-exporter/ebpf-diskio.prom";
    let _changed = Changed;
    // As docs/operations.md says, with a shorter interval.
    sh(&format!(
        "mkdir -p /var/lib/prometheus/node-exporter
        echo 'ARGS=--textfile.path={FILE} --textfile.interval=3s' > /etc/default/ebpf-diskio-exporter
        cd /run/systemd/system; mkdir -p ebpf-diskio-exporter.service.d; cd ebpf-diskio-exporter.service.d
        cp /usr/share/ebpf-exporters/prometheus/examples/textfile.conf .
        printf '[Service]\\nWatchdogSec=6s\\n' > watchdog.conf
        systemctl daemon-reload; systemctl start ebpf-diskio-exporter"
    ));
    unit_becomes("ebpf-diskio-exporter", "active");
    let pid = || sh("systemctl show -P MainPID ebpf-diskio-exporter");
    let (first, start) = (pid(), Instant::now());
    let scrapes = || {
        let text = std::fs::read_to_string(FILE).unwrap_or_default();
        Exposition::parse(&text).count("ebpf_exporter_scrapes_total", &[])
    };
    wait_until("five times the watchdog's patience", Duration::from_secs(120), || {
        start.elapsed() > Duration::from_secs(30)
    });
    assert_eq!((pid(), sh("systemctl show -P NRestarts ebpf-diskio-exporter")), (first, "0".to_owned()));
    wait_until("it writes", Duration::from_secs(60), || scrapes() >= 6.0);
    // Any user can read the file, and no temporary file is left beside it.
    assert_eq!(sh(&format!("stat -c '%a %U' {FILE}")), "644 root");
    assert_eq!(sh("ls -A /var/lib/prometheus/node-exporter | grep -F .ebpf-diskio || :"), "");
    // It has no privileges beyond those of its unit, and may write nowhere else.
    let status = sh(&format!("cat /proc/{}/status", pid()));
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(field("NoNewPrivs:"), "1");
    // Before 5.19, reading a map takes CAP_BPF (39).
    let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
    assert_eq!(capabilities & !(1 << 39), 0, "{status}");
}

#[live::test(own_machine, once)]
fn node_exporter_reads_a_file_that_is_rewritten_a_thousand_times() {
    // A folder in memory, so that rewriting is fast.
    const FOLDER: &str = "/run/collected";
    const LOG: &str = "/run/node_exporter.log";
    const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
    sh(&format!("rm -rf {FOLDER}; mkdir {FOLDER}"));
    let node = Running::start(
        Command::new("prometheus-node-exporter")
            .args([
                "--web.listen-address=127.0.0.1:9100",
                "--collector.disable-defaults",
                "--collector.textfile",
            ])
            .arg(format!("--collector.textfile.directory={FOLDER}"))
            .stderr(File::create(LOG).unwrap()),
    );
    wait_for("node_exporter listens", || try_get(9100, "/metrics").is_ok());
    // The file of another exporter beside it.
    sh(&format!("ebpf-syscall-exporter --once=1s --textfile.path={FOLDER}/syscall.prom 2> /dev/null"));
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, FOLDER, inotify::WatchFlags::MOVED_TO).unwrap();
    let path = format!("{FOLDER}/schedlat.prom");
    let exporter = Running::start(
        Command::new("ebpf-schedlat-exporter")
            .args(["--textfile.path", &path, "--textfile.interval", "1ms"])
            .stderr(Stdio::null()),
    );
    let (mut rewritten, mut read, mut first) = (0, 0, None);
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    while rewritten < 1000 || read < 20 {
        let mut ready = [PollFd::new(&watch, PollFlags::IN)];
        assert_eq!(poll(&mut ready, Some(&PATIENCE)).unwrap(), 1, "rewritten {rewritten} times, and no more");
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        while events.next().is_ok() {
            rewritten += 1;
        }
        // The writer and node_exporter both need the processor.
        if rewritten < read * 10 + 10 {
            continue;
        }
        let (_, text) = try_get(9100, "/metrics").unwrap();
        let all = Exposition::parse(&text);
        assert_eq!(all.get("node_textfile_scrape_error", &[]), Some(0.0), "{text}");
        // Each answer has the complete file.
        let ours = ours(&text);
        assert!(ours.len() > 10, "{text}");
        assert_eq!(first.get_or_insert_with(|| ours.clone()), &ours);
        read += 1;
    }
    tell(&format!("rewritten {rewritten} times, read {read} times"));
    drop(exporter);
    let (_, text) = try_get(9100, "/metrics").unwrap();
    let both = Exposition::parse(&text);
    for config in ["schedlat", "syscall"] {
        let mode = both.get("ebpf_exporter_mode", &[("mode", "ebpf"), ("config", config)]);
        assert_eq!(mode, Some(1.0), "{text}");
    }
    let said = std::fs::read_to_string(LOG).unwrap();
    assert!(!said.contains("collected before"), "{said}");

    // The timer's service writes one file and exits.
    sh("mkdir -p /var/lib/prometheus/node-exporter /run/systemd/system/ebpf-textfile@.service.d
        printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/ebpf-%%i-exporter --once=2s \
            --textfile.path=/var/lib/prometheus/node-exporter/ebpf-%%i.prom\\n' \
            > /run/systemd/system/ebpf-textfile@.service.d/short.conf
        systemctl daemon-reload; systemctl enable ebpf-textfile@diskio.timer 2> /dev/null
        systemctl start ebpf-textfile@diskio.service");
    let text = std::fs::read_to_string("/var/lib/prometheus/node-exporter/ebpf-diskio.prom").unwrap();
    assert!(Exposition::parse(&text).get("ebpf_exporter_build_info", &[]).is_some(), "{text}");
    sh("systemctl disable ebpf-textfile@diskio.timer 2> /dev/null; rm -r /run/systemd/system/ebpf-textfile@.service.d
        systemctl daemon-reload");
    drop(node);
}
