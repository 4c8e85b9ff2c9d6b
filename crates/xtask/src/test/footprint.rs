// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks that tests leave nothing behind on the machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Settings that tests change and restore.
const SETTINGS: [&str; 4] = [
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/perf_event_paranoid",
    "/proc/sys/kernel/bpf_stats_enabled",
    "/proc/sys/vm/overcommit_memory",
];

/// How the names of programs begin that only tests start on this machine.
const PROGRAMS: [&str; 4] = ["ebpf-", "dnsmasq", "live-", "sleep infinity"];

/// Time limit for processes that were killed to end.
const LIMIT: Duration = Duration::from_secs(20);

/// Loop devices, mounts, namespaces, interfaces, control groups, files, settings and processes.
#[derive(Debug)]
pub struct Footprint(BTreeSet<String>);

impl Footprint {
    /// What exists now.
    pub fn now() -> Self {
        let mut found = BTreeSet::new();
        let mut add = |kind: &str, what: &str| {
            found.insert(format!("{kind} {what}"));
        };
        for entry in names("/sys/block") {
            if let Ok(file) = fs::read_to_string(format!("/sys/block/{entry}/loop/backing_file")) {
                add("loop device", &format!("{entry} on {}", file.trim()));
            } else if !entry.starts_with("loop") {
                add("disk", &entry);
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
            add("mount", line.split(' ').nth(4).unwrap_or_default());
        }
        for (kind, folder) in [
            ("network namespace", "/run/netns"),
            ("interface", "/sys/class/net"),
            ("file", "/tmp"),
            ("file", "/var/tmp"),
            ("file", "/run"),
        ] {
            names(folder).iter().for_each(|name| add(kind, &format!("{folder}/{name}")));
        }
        control_groups(Path::new("/sys/fs/cgroup"), &mut |path| add("control group", path));
        for path in SETTINGS {
            add("setting", &format!("{path} {}", fs::read_to_string(path).unwrap_or_default().trim()));
        }
        for pid in names("/proc").iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let program = line.split(' ').next().unwrap_or_default();
            let program = program.rsplit('/').next().unwrap_or_default();
            if PROGRAMS.iter().any(|name| program.starts_with(name) || line.starts_with(name)) {
                add("process", &format!("{pid} {line}"));
            }
        }
        Self(found)
    }

    /// Checks that the machine is as it was: nothing new, and nothing missing except files and control groups,
    /// which other programs take with them when they end.
    ///
    /// # Errors
    /// Names every difference that does not go away by itself.
    pub fn same(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let apart = self.apart();
            if apart.is_empty() {
                return Ok(());
            }
            if began.elapsed() > LIMIT {
                bail!("the machine is not as it was:\n{}", apart.join("\n"));
            }
            // No event reports the end of all of these.
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// All differences.
    fn apart(&self) -> Vec<String> {
        let now = Self::now();
        let new = now.0.difference(&self.0).map(|what| format!("left behind: {what}"));
        let may_end = |what: &str| ["file ", "control group "].iter().any(|kind| what.starts_with(kind));
        let gone = self.0.difference(&now.0).filter(|what| !may_end(what));
        new.chain(gone.map(|what| format!("gone: {what}"))).collect()
    }
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn control_groups(folder: &Path, found: &mut dyn FnMut(&str)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found(&entry.path().to_string_lossy());
            control_groups(&entry.path(), found);
        }
    }
}
