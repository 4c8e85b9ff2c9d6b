// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which processes read and write files, and how slow is it?
//!
//! Hooks, cost and what is not seen: `bpf/fileops.bpf.c`.

mod headlines;
mod uncounted;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use common::exposition::hist::Unit;
use common::kernel::facts::{Facts, monotonic_ns};
use common::process::exporter::{Exporter, OpenOf};
use common::read::{decode::FOLDED, decode::syscall_slots, live::Live};
use common::spec::{Decode, MapSpec, Shape, Spec};

common::skeleton!();

/// Flags of this exporter.
#[derive(Args, Clone, Debug, Default)]
struct Flags {
    /// Measure the latency of reads and writes of files, and count their errors: on, off, or auto
    /// (only where fentry is available, which is cheap).
    #[arg(long = "fileops.latency", value_name = "MODE", value_enum, default_value_t = Latency::Auto)]
    latency: Latency,

    /// Add the label cgroup. Series of removed cgroups end when other cgroups need their room.
    #[arg(long = "fileops.cgroup")]
    cgroup: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Latency {
    #[default]
    Auto,
    On,
    Off,
}

#[derive(Default)]
struct Fileops;

impl Exporter for Fileops {
    type Builder = skel::FileopsSkelBuilder;
    type Flags = Flags;
    const CGROUPS: bool = true;

    fn spec(flags: &Flags) -> Spec {
        let usage = by_process("usage", flags)
            .counter_of(OPS, &[("operation", "read")], "reads", OPS_HELP)
            .counter_of(OPS, &[("operation", "write")], "writes", OPS_HELP)
            .counter(
                "ebpf_file_read_bytes_total",
                "read_bytes",
                "Bytes read by process, from the page cache, a device or any other descriptor (rchar of \
                 /proc/PID/io, plus splice). Bytes of aio and io_uring are not counted.",
            )
            .counter(
                "ebpf_file_write_bytes_total",
                "write_bytes",
                "Bytes written by process, to any descriptor (wchar of /proc/PID/io, plus splice). Bytes \
                 of aio and io_uring are not counted.",
            );
        let opens = by_process("opens", flags).counter_of(OPS, &[("operation", "open")], "value", OPS_HELP);
        let spec = Spec::new("fileops", 9109, "which processes read and write files, and how slow is it?")
            .events(&["ebpf_file_ops_total"])
            .headlines(headlines::headlines())
            .required("sched_process_exit", &["exit_btf", "exit_raw"])
            .optional("tasks", &["tasks_iter"], &["usage"])
            .optional(
                "do_sys_openat2",
                &["open_fexit", "open_kretprobe", "open_exit_btf"],
                &["opens", "open_errors"],
            )
            // Without these, the counters are still right for processes that do not use these calls.
            .optional("aio", &uncounted::AIO, &[])
            .optional("io_uring", &uncounted::URING, &[])
            .optional("splice", &["splice_fexit", "splice_kretprobe"], &[])
            .shape("io_read_fexit", Shape::Arguments(2))
            .shape("io_write_fexit", Shape::Arguments(2))
            .shape("io_read_three_fexit", Shape::Arguments(3))
            .shape("io_write_three_fexit", Shape::Arguments(3))
            .map(usage)
            .map(opens)
            .map(errors("open_errors", "open"));
        if flags.latency == Latency::Off { spec } else { with_latency(spec, flags.latency) }
    }

    fn new(_: &Flags) -> Result<Self> {
        Ok(Self)
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, _: &Facts, flags: &Flags) -> Result<()> {
        let settings = open.maps.rodata_data.as_mut().context("no .rodata")?;
        settings.task_accounts_loaded_ns = monotonic_ns();
        settings.fileops_cgroup = flags.cgroup;
        let opens = ["open", "openat", "openat2", "creat"].map(|name| syscall_slots(name).next());
        for (setting, slot) in settings.fileops_opens.iter_mut().zip(opens) {
            // On an architecture without open(2), no slot has this number.
            *setting = slot.map_or(u32::MAX, |slot| slot as u32);
        }
        Ok(())
    }

    fn seed(live: &Live) -> Result<()> {
        for map in ["usage", "opens"] {
            live.maps.insert_zero(map, &live.key(map, &[("comm", FOLDED.into())])?)?;
        }
        Ok(())
    }

    fn attached(&mut self, live: &Live) -> Result<()> {
        self.gather(live)
    }

    fn gather(&mut self, live: &Live) -> Result<()> {
        live.iterate("tasks_iter").map(drop)
    }
}

const OPS: &str = "ebpf_file_ops_total";
const OPS_HELP: &str = "Opens, reads and writes by process, failed ones included. Reads and writes are \
                        those of any descriptor (syscr and syscw of /proc/PID/io, plus aio, io_uring and \
                        splice), without recv and send. Opens by io_uring are not counted.";

fn by_process(map: &'static str, flags: &Flags) -> MapSpec {
    let map = MapSpec::new(map).bounded().label("process", "comm", Decode::Text);
    if flags.cgroup { map.label("cgroup", "cgroup", Decode::Cgroup) } else { map }
}

fn errors(map: &'static str, operation: &'static str) -> MapSpec {
    MapSpec::new(map).sparse().label("errno", "", Decode::Errno).counter_of(
        "ebpf_file_errors_total",
        &[("operation", operation)],
        "value",
        "File operations that failed, by errno. Reads and writes count for regular files and directories \
         only; those of aio and io_uring are not counted.",
    )
}

/// Adds latency probes. Kprobes are too expensive to use unless asked for.
fn with_latency(spec: Spec, mode: Latency) -> Spec {
    let candidates = [
        ("vfs_read", ["read_fentry+read_fexit", "read_kprobe+read_kretprobe"], "read_latency", "read_errors"),
        (
            "vfs_readv",
            ["readv_fentry+readv_fexit", "readv_kprobe+readv_kretprobe"],
            "read_latency",
            "read_errors",
        ),
        (
            "vfs_write",
            ["write_fentry+write_fexit", "write_kprobe+write_kretprobe"],
            "write_latency",
            "write_errors",
        ),
        (
            "vfs_writev",
            ["writev_fentry+writev_fexit", "writev_kprobe+writev_kretprobe"],
            "write_latency",
            "write_errors",
        ),
    ];
    let cheap = if mode == Latency::On { 2 } else { 1 };
    let spec = candidates.iter().fold(spec, |spec, (function, programs, latency, errors)| {
        spec.optional(function, &programs[..cheap], &[latency, errors])
    });
    let latency = |map, name, help| MapSpec::new(map).histogram(name, "latency", Unit::Microseconds, help);
    spec.map(latency(
        "read_latency",
        "ebpf_file_read_latency_microseconds",
        "Time of reads of regular files, from the page cache or from a device. Other descriptors, aio and \
         io_uring are not observed.",
    ))
    .map(latency(
        "write_latency",
        "ebpf_file_write_latency_microseconds",
        "Time of writes to regular files; most end in the page cache. Other descriptors, aio and io_uring \
         are not observed.",
    ))
    .map(errors("read_errors", "read"))
    .map(errors("write_errors", "write"))
}

fn main() -> ExitCode {
    common::run::<Fileops>()
}

#[cfg(test)]
mod tests {
    use common::fixture::{golden, render};
    use common::read::layout::Contents::Element;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let flags = Flags { latency: Latency::Auto, cgroup: true };
        let text = render::<Fileops>(&flags, |maps| {
            let numbers = [
                ("reads", 7.into()),
                ("writes", 5.into()),
                ("read_bytes", 28_672.into()),
                ("write_bytes", 5.into()),
            ];
            maps.set("usage", &[("comm", "postgres".into()), ("cgroup", u64::MAX.into())], &numbers)?;
            maps.set(
                "opens",
                &[("comm", "postgres".into()), ("cgroup", u64::MAX.into())],
                &[("value", 3.into())],
            )?;
            maps.set("opens", &[("comm", FOLDED.into())], &[("value", 1.into())])?;
            maps.set("usage", &[("comm", FOLDED.into())], &[])?;
            for (map, errno) in [("open_errors", 2), ("read_errors", 5), ("write_errors", 28)] {
                maps.set(map, &[("", errno.into())], &[("value", errno.into())])?;
                maps.set(map, &[("", 1.into())], &[])?;
            }
            for map in ["read_latency", "write_latency"] {
                maps.set(map, &[], &[("latency.slots", Element(16, 5)), ("latency.sum", 17_500.into())])?;
            }
            Ok(())
        });
        golden::<Fileops>(env!("CARGO_MANIFEST_DIR"), &text.expect("rendered")).expect("as the golden file");
    }

    #[test]
    fn latency_and_control_groups_are_flags() {
        let off = Flags { latency: Latency::Off, cgroup: false };
        let text = render::<Fileops>(&off, |_| Ok(())).expect("rendered");
        assert!(!text.contains("latency") && !text.contains("cgroup"), "{text}");
    }
}
