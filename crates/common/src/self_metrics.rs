// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metrics that every exporter has about itself.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use libbpf_rs::Object;
use prometheus::process_collector::ProcessCollector;
use rustix::time::{ClockId, clock_gettime};

use crate::hook::Hooks;
use crate::layout::Layouts;
use crate::maps::MapSource;
use crate::metric::{Families, Labels, Value};
use crate::probes::{Plan, Verdict};
use crate::render::number;

/// Name of the map that `bpf/events.bpf.h` declares.
const EVENTS: &str = "events";

/// The commit this was built from, when the build said so.
pub const REVISION: &str = match option_env!("EBPF_EXPORTERS_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// A program as the kernel knows it.
#[derive(Debug)]
pub struct Program {
    name: String,
    hook: String,
    /// None where it is not loaded.
    fd: Option<OwnedFd>,
    id: u32,
    tag: String,
    attached: bool,
}

impl Program {
    /// The programs of a plan, attached; and the first choice of every probe that has none.
    ///
    /// # Errors
    /// When the kernel does not tell about a program.
    pub fn list(object: &Object, plan: &Plan, hooks: &Hooks) -> Result<Vec<Self>> {
        let wanted = plan.programs();
        let mut programs = Vec::new();
        for program in object.progs() {
            let name = program.name().to_string_lossy().into_owned();
            if !wanted.contains(name.as_str()) {
                continue;
            }
            let fd = program.as_fd().try_clone_to_owned().context("failed to copy a program descriptor")?;
            let info = info(&fd).with_context(|| format!("failed to ask about program `{name}`"))?;
            programs.push(Self {
                hook: hooks.get(&name).map(ToString::to_string).unwrap_or_default(),
                fd: Some(fd),
                id: info.id,
                tag: info.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
                attached: true,
                name,
            });
        }
        for (probe, verdict) in &plan.verdicts {
            if matches!(verdict, Verdict::Unsupported { .. }) {
                let (name, hook) = (probe.clone(), String::new());
                programs.push(Self { name, hook, fd: None, id: 0, tag: String::new(), attached: false });
            }
        }
        Ok(programs)
    }
}

fn info(fd: &OwnedFd) -> Result<libbpf_sys::bpf_prog_info> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut size = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `size` bytes into `info`.
    let result = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut size) };
    if result < 0 {
        return Err(rustix::io::Errno::from_raw_os_error(-result).into());
    }
    Ok(info)
}

/// `ebpf_exporter_build_info`, `_mode`, `_enabled_configs`.
pub fn identity(families: &mut Families, config: &str, mode: &str) {
    // SAFETY: libbpf returns a static, NUL-terminated string.
    let libbpf = unsafe { CStr::from_ptr(libbpf_sys::libbpf_version_string()) }.to_string_lossy();
    families.gauge(
        "ebpf_exporter_build_info",
        "Always 1; the labels tell what was built.",
        Labels::of(&[
            ("exporter", config),
            ("version", env!("CARGO_PKG_VERSION")),
            ("revision", REVISION),
            ("rustversion", env!("RUSTC_VERSION")),
            ("libbpf", &libbpf),
        ]),
        Value::Integer(1),
    );
    families.gauge(
        "ebpf_exporter_mode",
        "Always 1; mode is ebpf, fallback where only /proc, /sys and netlink are read, or waiting while a kernel module is not loaded.",
        Labels::of(&[("mode", mode)]),
        Value::Integer(1),
    );
    families.gauge(
        "ebpf_exporter_enabled_configs",
        "Always 1; the exporters that this process runs.",
        Labels::of(&[("name", config)]),
        Value::Integer(1),
    );
}

/// `ebpf_exporter_ebpf_program_*`. Returns how many events programs were not run for
/// because another instance was running on the same CPU.
///
/// # Errors
/// When the kernel does not tell about a program.
pub fn programs(families: &mut Families, config: &str, programs: &[Program]) -> Result<u64> {
    let timed = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled").is_ok_and(|on| on.trim() != "0");
    let mut misses = 0;
    for program in programs {
        let id = program.id.to_string();
        let labels = || Labels::of(&[("config", config), ("program", &program.name), ("id", &id)]);
        families.gauge(
            "ebpf_exporter_ebpf_program_attached",
            "Whether the program is attached; 0 for a probe that the kernel does not offer, or hides from this process.",
            labels(),
            Value::Integer(program.attached.into()),
        );
        let Some(fd) = &program.fd else { continue };
        let mut more = labels();
        more.push("tag", &program.tag);
        more.push("hook", &program.hook);
        families.gauge(
            "ebpf_exporter_ebpf_program_info",
            "Always 1; the kernel's id and tag of a program, and where it is attached.",
            more,
            Value::Integer(1),
        );
        let info = info(fd)?;
        misses += info.recursion_misses;
        if !timed {
            continue;
        }
        families.counter(
            "ebpf_exporter_ebpf_program_run_time_seconds_total",
            "CPU time in the program while kernel.bpf_stats_enabled was 1.",
            labels(),
            Value::Nanoseconds(info.run_time_ns),
        );
        families.counter(
            "ebpf_exporter_ebpf_program_run_count_total",
            "Runs of the program while kernel.bpf_stats_enabled was 1.",
            labels(),
            Value::Integer(info.run_cnt),
        );
    }
    Ok(misses)
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
    misses: u64,
) -> Result<()> {
    const LOST: &str = "ebpf_exporter_lost_events_total";
    const LOST_HELP: &str = "Events that were seen and could not be counted as they should, by reason.";
    let recursion = Labels::of(&[("config", config), ("reason", "recursion")]);
    families.counter(LOST, LOST_HELP, recursion, Value::Integer(misses));
    let Some(layout) = layouts.get(EVENTS) else { return Ok(()) };
    source.for_each(EVENTS, &mut |_, value| {
        for (path, field) in &layout.value.fields {
            let count = Value::Integer(number(field.bytes(value)));
            if let Some(reason) = path.strip_prefix("lost.") {
                families.counter(
                    LOST,
                    LOST_HELP,
                    Labels::of(&[("config", config), ("reason", reason)]),
                    count,
                );
            } else if path == "folded" {
                families.counter(
                    "ebpf_exporter_folded_events_total",
                    "Events counted under \"other\" because the limit of series was reached.",
                    Labels::of(&[("config", config)]),
                    count,
                );
            }
        }
    })
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
///
/// # Errors
/// When a map cannot be read.
pub fn map_fill(families: &mut Families, source: &dyn MapSource) -> Result<()> {
    for fill in source.fill()? {
        let labels = Labels::of(&[("map", &fill.map)]);
        families.gauge(
            "ebpf_exporter_map_entries",
            "Entries in use of a bounded map.",
            labels.clone(),
            Value::Integer(fill.entries),
        );
        families.gauge(
            "ebpf_exporter_map_capacity",
            "Entries that a bounded map has room for.",
            labels,
            Value::Integer(fill.capacity),
        );
    }
    Ok(())
}
