// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files for node_exporter, read by Debian's own.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use live::exporter::try_get;
use live::exposition::Exposition;
use live::work::Running;
use live::{sh, tell, wait_until};
use rustix::fs::inotify;

fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    wait_until(what, Duration::from_secs(600), condition);
}

/// Series of one exporter in the answer of node_exporter.
fn ours(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter(|line| line.starts_with("ebpf_"));
    names.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
}

#[live::test(own_machine, once)]
fn node_exporter_reads_a_file_that_is_rewritten_a_thousand_times() {
    // In memory, so that it is soon rewritten.
    const FOLDER: &str = "/run/collected";
    const LOG: &str = "/run/node_exporter.log";
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
    // Another one's beside it.
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
    wait_for("a thousand times", || {
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        while events.next().is_ok() {
            rewritten += 1;
        }
        // Both need the processor.
        if rewritten < read * 10 + 10 {
            return false;
        }
        let (_, text) = try_get(9100, "/metrics").unwrap();
        let all = Exposition::parse(&text);
        assert_eq!(all.get("node_textfile_scrape_error", &[]), Some(0.0), "{text}");
        // What is read is whole, each time.
        let ours = ours(&text);
        assert!(ours.len() > 10, "{text}");
        assert_eq!(first.get_or_insert_with(|| ours.clone()), &ours);
        read += 1;
        rewritten >= 1000 && read >= 20
    });
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

    // The timer's service: one file, and it ends.
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
