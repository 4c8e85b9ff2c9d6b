// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metrics of the exporter itself.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use anyhow::{Context, Result};
use libbpf_rs::{Link, Object};
use libbpf_sys::bpf_prog_info;
use prometheus::process_collector::ProcessCollector;
use rustix::time::{ClockId, clock_gettime};

use crate::exposition::metric::{Families, Labels, Value};
use crate::kernel::copies::{Copies, Runs, info};
use crate::kernel::hook::{Hook, Hooks};
use crate::kernel::links::{self, Attached, Links};
use crate::kernel::probes::{Plan, Verdict};
use crate::read::layout::{Layouts, number};
use crate::read::maps::{Fill, MapSource};
use crate::spec::Text;

/// Name of the map that `bpf/events.bpf.h` declares.
const EVENTS: &str = "events";

/// The commit of this build, if the build set it.
pub const REVISION: &str = match option_env!("EBPF_EXPORTERS_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// A BPF program in the kernel.
#[derive(Debug, Default)]
pub struct Program {
    name: String,
    hook: String,
    /// None if it is not loaded.
    fd: Option<OwnedFd>,
    id: u32,
    tag: String,
    attached: bool,
    /// The links of a kprobe or kretprobe program, which may miss events. They are gone once detached.
    breakpoints: Vec<Weak<Link>>,
    /// The copies attached instead, if there are several.
    copies: Option<Arc<Copies>>,
}

/// Events that programs missed; None if the kernel does not report them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Missed {
    /// Because another instance was running on the same CPU.
    pub recursion: Option<u64>,
    /// Because a kprobe or kretprobe did not call them: see [`links::missed`].
    pub probe: Option<u64>,
}

impl Program {
    /// The attached programs of a plan. Each unsupported probe adds an entry with the probe's name.
    ///
    /// # Errors
    /// When the kernel returns no information about a program.
    pub fn list(object: &Object, plan: &Plan, hooks: &Hooks, links: &Links) -> Result<Vec<Self>> {
        let wanted = plan.programs();
        let mut programs = Vec::new();
        for program in object.progs() {
            let name = program.name().to_string_lossy().into_owned();
            if !wanted.contains(name.as_str()) {
                continue;
            }
            let copies = links.get(&name).and_then(Attached::copies).cloned();
            let fd = copies.as_ref().and_then(|copies| copies.first()).unwrap_or_else(|| program.as_fd());
            let fd = fd.try_clone_to_owned().context("failed to copy a program descriptor")?;
            let (info, _) = info(&fd).with_context(|| format!("failed to query program `{name}`"))?;
            let breakpoints = links.get(&name).filter(|_| hooks.get(&name).is_some_and(Hook::is_breakpoint));
            programs.push(Self {
                breakpoints: breakpoints.into_iter().flat_map(Attached::links).map(Arc::downgrade).collect(),
                copies,
                hook: hooks.get(&name).map(ToString::to_string).unwrap_or_default(),
                fd: Some(fd),
                id: info.id,
                tag: tag_of(&info),
                attached: true,
                name,
            });
        }
        for (probe, verdict) in &plan.verdicts {
            if matches!(verdict, Verdict::Unsupported { .. }) {
                let (name, hook) = (probe.clone(), String::new());
                programs.push(Self { name, hook, ..Self::default() });
            }
        }
        Ok(programs)
    }

    /// Whether this thread may read its statistics.
    pub fn is_readable(&self) -> bool {
        self.fd.as_ref().is_none_or(|fd| info(fd).is_ok())
    }

    /// A program that `hook` describes in the words of its object, with its copies if it is attached as
    /// several. Without a descriptor it is not loaded.
    ///
    /// # Errors
    /// When the kernel returns no information about it.
    pub fn of(
        name: &str,
        hook: &str,
        fd: Option<OwnedFd>,
        copies: Option<Arc<Copies>>,
        attached: bool,
    ) -> Result<Self> {
        let info = fd.as_ref().map(info).transpose();
        let info = info.with_context(|| format!("failed to query program `{name}`"))?;
        let (id, tag) = info.map_or((0, String::new()), |(info, _)| (info.id, tag_of(&info)));
        let (name, hook) = (name.to_owned(), hook.to_owned());
        Ok(Self { name, hook, fd, copies, id, tag, attached, ..Self::default() })
    }
}

fn tag_of(info: &bpf_prog_info) -> String {
    info.tag.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds up known values.
fn add(sum: &mut Option<u64>, more: Option<u64>) {
    *sum = sum.map_or(more, |sum| Some(sum + more.unwrap_or(0)));
}

/// `ebpf_exporter_build_info` and `_mode`.
pub fn identity(families: &mut Families, name: &str, mode: &str) {
    // SAFETY: libbpf returns a static, NUL-terminated string.
    let libbpf = unsafe { CStr::from_ptr(libbpf_sys::libbpf_version_string()) }.to_string_lossy();
    families.gauge(
        "ebpf_exporter_build_info",
        "Always 1. The labels give the exporter, its version and revision, and the versions of Rust and \
         libbpf.",
        Labels::of(&[
            ("exporter", name),
            ("version", env!("CARGO_PKG_VERSION")),
            ("revision", REVISION),
            ("rustversion", env!("RUSTC_VERSION")),
            ("libbpf", &libbpf),
        ]),
        Value::Integer(1),
    );
    families.gauge(
        "ebpf_exporter_mode",
        "Always 1. mode is ebpf, fallback (no programs: only /proc, /sys, kstats and netlink are read) or \
         waiting (a kernel module is not loaded).",
        Labels::of(&[("mode", mode)]),
        Value::Integer(1),
    );
}

/// `ebpf_exporter_enabled_configs`.
pub fn enabled(families: &mut Families, config: &str) {
    families.gauge(
        "ebpf_exporter_enabled_configs",
        "Always 1. One series for each exporter that this process runs.",
        Labels::of(&[("name", config)]),
        Value::Integer(1),
    );
}

/// `ebpf_exporter_ebpf_program_*`. Returns the number of events for which no program ran. With
/// `bare_run_time` the run time is also shown under its name in ebpf_exporter, without `_total`.
///
/// # Errors
/// When the kernel returns no information about a program.
pub fn programs(
    families: &mut Families,
    config: &str,
    programs: &[Program],
    bare_run_time: bool,
) -> Result<Missed> {
    let timed = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|on| on.trim() != "0");
    let mut missed = Missed::default();
    for program in programs {
        let id = program.id.to_string();
        let labels = || {
            let mut labels = Labels::of(&[("config", config), ("program", &program.name)]);
            // A program that is not loaded has no ID. Several with the same would not join one to one.
            if program.fd.is_some() {
                labels.push("id", &id);
            }
            labels
        };
        families.gauge(
            "ebpf_exporter_ebpf_program_attached",
            "1 if the program is attached. 0 if the kernel does not have what it needs, or hides it from \
             this process.",
            labels(),
            Value::Integer(program.attached.into()),
        );
        let Some(fd) = &program.fd else { continue };
        let mut more = labels();
        more.push("tag", &program.tag);
        more.push("hook", &program.hook);
        families.gauge(
            "ebpf_exporter_ebpf_program_info",
            "Always 1. The labels give the kernel's ID and tag of an attached program, and its hook.",
            more,
            Value::Integer(1),
        );
        let runs = match &program.copies {
            Some(copies) => copies.runs()?,
            None => Runs::of(fd)?,
        };
        add(&mut missed.recursion, runs.missed);
        for link in program.breakpoints.iter().filter_map(Weak::upgrade) {
            let name = &program.name;
            let probe =
                links::missed(&link).with_context(|| format!("failed to query the link of `{name}`"))?;
            add(&mut missed.probe, probe);
        }
        if !timed {
            continue;
        }
        let name = "ebpf_exporter_ebpf_program_run_time_seconds_total";
        for name in std::iter::once(name).chain(name.strip_suffix("_total").filter(|_| bare_run_time)) {
            families.counter(
                name,
                "CPU time spent in the program while kernel.bpf_stats_enabled was 1. Absent while it is 0.",
                labels(),
                Value::Nanoseconds(runs.nanoseconds),
            );
        }
        families.counter(
            "ebpf_exporter_ebpf_program_run_count_total",
            "Runs of the program while kernel.bpf_stats_enabled was 1. Absent while it is 0.",
            labels(),
            Value::Integer(runs.runs),
        );
    }
    Ok(missed)
}

/// `ebpf_exporter_lost_events_total` and `_folded_events_total` from the map `events`:
/// reasons are the names of its members.
///
/// # Errors
/// When the map cannot be read.
pub fn events(
    families: &mut Families,
    config: &str,
    layouts: &Layouts,
    source: &dyn MapSource,
    missed: Missed,
) -> Result<()> {
    for (reason, count) in [("recursion", missed.recursion), ("probe_missed", missed.probe)] {
        if let Some(count) = count {
            lost(families, config, reason, count);
        }
    }
    let Some(layout) = layouts.get(EVENTS) else { return Ok(()) };
    source.for_each(EVENTS, &mut |_, value| {
        for (path, field) in &layout.value.fields {
            let count = number(field.bytes(value));
            if let Some(reason) = path.strip_prefix("lost.") {
                lost(families, config, reason, count);
            } else if path == "folded" {
                families.counter(
                    "ebpf_exporter_folded_events_total",
                    "Events counted under \"other\" because a map had reached its limit (--max-series).",
                    Labels::of(&[("config", config)]),
                    Value::Integer(count),
                );
            }
        }
    })
}

/// `ebpf_exporter_lost_events_total` for one reason.
pub fn lost(families: &mut Families, config: &str, reason: &str, count: u64) {
    families.counter(
        "ebpf_exporter_lost_events_total",
        "Events that could not be counted correctly, by reason. recursion and probe_missed are events for \
         which the kernel ran no program; they are absent where the kernel does not report them.",
        Labels::of(&[("config", config), ("reason", reason)]),
        Value::Integer(count),
    );
}

/// `ebpf_exporter_events_total`: the sum of the families that count each event once; absent if none
/// of them is in `shown`.
pub fn counted(families: &mut Families, config: &str, events: &[Text], shown: &Families) {
    let totals = events.iter().filter_map(|name| shown.total(name));
    if let Some(sum) = totals.reduce(|sum, total| sum + total) {
        families.counter(
            "ebpf_exporter_events_total",
            "Events that were counted. Compare with ebpf_exporter_lost_events_total.",
            Labels::of(&[("config", config)]),
            Value::Integer(sum),
        );
    }
}

/// The standard `process_*` metrics.
pub fn process(families: &mut Families) {
    // The crate's collector counts whole seconds only.
    const CPU: &str = "process_cpu_seconds_total";
    families.collect(&ProcessCollector::for_self(), CPU);
    let used = clock_gettime(ClockId::ProcessCPUTime);
    families.counter(
        CPU,
        "Total user and system CPU time spent in seconds.",
        Labels::none(),
        Value::Nanoseconds(used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64),
    );
}

/// `ebpf_exporter_map_entries` and `_capacity`.
pub fn map_fill(families: &mut Families, config: &str, fills: &[Fill]) {
    for fill in fills {
        let labels = Labels::of(&[("config", config), ("map", &fill.map)]);
        families.gauge(
            "ebpf_exporter_map_entries",
            "Entries in use in a bounded map.",
            labels.clone(),
            Value::Integer(fill.entries),
        );
        families.gauge(
            "ebpf_exporter_map_capacity",
            "Maximum number of entries of a bounded map.",
            labels,
            Value::Integer(fill.capacity),
        );
    }
}
