// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which programs start and exit, and which use CPU and memory?
//!
//! Hooks, cost and what is not seen: `bpf/process.bpf.c`.

mod headlines;
mod memory;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use common::exposition::hist::Unit;
use common::exposition::metric::Families;
use common::kernel::facts::{Facts, page_size, possible_cpus};
use common::process::exporter::{Exporter, OpenOf};
use common::read::cgroups::Paths;
use common::read::decode::FOLDED;
use common::read::live::Live;
use common::spec::{Decode, MapSpec, Spec};

common::skeleton!();

/// Flags of this exporter.
#[derive(Args, Clone, Debug)]
struct Flags {
    /// Number of process names with their own series of CPU time and memory. All others are added
    /// up in "other".
    #[arg(long = "process.top", value_name = "N", default_value_t = 20)]
    top: usize,

    /// Add the label cgroup to what is told apart by process name. --process.top then limits pairs of
    /// both. Series of removed cgroups end when other cgroups need their room.
    #[arg(long = "process.cgroup")]
    cgroup: bool,
}

impl Default for Flags {
    fn default() -> Self {
        Self { top: 20, cgroup: false }
    }
}

#[derive(Default)]
struct Process {
    by_cgroup: bool,
    paths: Paths,
    /// Result of the last walk over all tasks.
    memory: Vec<u8>,
}

impl Exporter for Process {
    type Builder = skel::ProcessSkelBuilder;
    type Flags = Flags;
    const CGROUPS: bool = true;

    fn spec(flags: &Flags) -> Spec {
        let exits = "Processes that ended, by exit or by a signal. Counted once, when the last thread \
                     ends; the end of other threads is not counted.";
        let counts = MapSpec::new("counts")
            .counter(
                "ebpf_process_forks_total",
                "processes",
                "Processes started. Threads are not counted here, unlike in the processes line of /proc/stat.",
            )
            .counter(
                "ebpf_process_threads_total",
                "threads",
                "Threads started in a process. The first thread of each process is not counted.",
            )
            .counter(
                "ebpf_process_execs_total",
                "execs",
                "Successful execs: a process began to run another program. Failed execs are not counted.",
            )
            .counter_of("ebpf_process_exits_total", &[("reason", "exit")], "exited", exits)
            .counter_of("ebpf_process_exits_total", &[("reason", "signal")], "killed", exits)
            .histogram(
                "ebpf_process_lifetime_seconds",
                "lifetime",
                Unit::LongSeconds,
                "Time from the start of a process to the end of its last thread. Processes that still run \
                 are not observed.",
            );
        Spec::new("process", 9104, "which programs start and exit, and which use CPU and memory?")
            .events(&["ebpf_process_forks_total", "ebpf_process_execs_total", "ebpf_process_exits_total"])
            .headlines(headlines::headlines())
            .required("task_newtask", &["fork_btf", "fork_raw"])
            .required("sched_process_exec", &["exec_btf", "exec_raw"])
            .required("sched_process_exit", &["exit_btf", "exit_raw"])
            .optional("sched_process_free", &["free_btf", "free_raw"], &[])
            .optional(
                "execve",
                &["execve_fexit+execveat_fexit", "execve_kretprobe+execveat_kretprobe"],
                &["exec_failures"],
            )
            .optional("tasks", &["tasks"], &["cpu"])
            .map(counts)
            .map(by_name("starts", flags).counter(
                "ebpf_process_starts_by_name_total",
                "value",
                "Successful execs by the name of the process after the exec (at most 15 bytes). A fork \
                 without an exec is not counted.",
            ))
            .map(by_name("cpu", flags).seconds(
                "ebpf_process_cpu_seconds_total",
                "value",
                "CPU time used since the exporter started, by process name, ended processes included. Only \
                 names, with --process.cgroup pairs of name and cgroup, that were once among the top \
                 --process.top have their own series; the rest is in \"other\".",
            ))
            .map(MapSpec::new("exec_failures").sparse().label("errno", "", Decode::Errno).counter(
                "ebpf_process_exec_failures_total",
                "value",
                "Calls of execve and execveat that failed, by errno. Calls by 32-bit programs are not \
                 counted.",
            ))
            .top("ebpf_process_cpu_seconds_total", flags.top)
            .top(memory::MEMORY, flags.top)
    }

    fn new(flags: &Flags) -> Result<Self> {
        Ok(Self { by_cgroup: flags.cgroup, ..Self::default() })
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, _: &Facts, flags: &Flags) -> Result<()> {
        let settings = open.maps.rodata_data.as_mut().context("no .rodata")?;
        settings.task_accounts_loaded_ns = common::kernel::facts::monotonic_ns();
        settings.process_cpus = possible_cpus()?;
        settings.process_cgroup = flags.cgroup;
        Ok(())
    }

    fn seed(live: &Live) -> Result<()> {
        for map in ["starts", "cpu"] {
            live.maps.insert_zero(map, &live.key(map, &[("comm", FOLDED.into())])?)?;
        }
        Ok(())
    }

    fn attached(&mut self, live: &Live) -> Result<()> {
        self.gather(live)
    }

    fn gather(&mut self, live: &Live) -> Result<()> {
        self.memory = live.iterate("tasks")?.unwrap_or_default();
        Ok(())
    }

    fn extra(&mut self, _: &Live, families: &mut Families) -> Result<()> {
        let paths = self.by_cgroup.then_some(&mut self.paths);
        memory::by_name(&self.memory, page_size(), paths, families);
        Ok(())
    }
}

fn by_name(map: &'static str, flags: &Flags) -> MapSpec {
    let map = MapSpec::new(map).bounded().label("process", "comm", Decode::Text);
    if flags.cgroup { map.label("cgroup", "cgroup", Decode::Cgroup) } else { map }
}

fn main() -> ExitCode {
    common::run::<Process>()
}

#[cfg(test)]
mod tests {
    use common::exposition::encode::{Format, encode};
    use common::fixture::{golden, render};
    use common::read::layout::Contents::Element;

    use super::*;

    /// Of a control group that is gone.
    const CGROUP: u64 = u64::MAX;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<Process>(&Flags { top: 2, cgroup: true }, |maps| {
            let counts = [
                ("processes", 7.into()),
                ("threads", 4.into()),
                ("execs", 3.into()),
                ("exited", 2.into()),
                ("killed", 1.into()),
                ("lifetime.slots", Element(8, 3)),
                ("lifetime.sum", 5_000_000.into()),
            ];
            maps.set("counts", &[], &counts)?;
            for (name, number) in
                [("sh", 1_500_000_000), ("a\"b", 1), ("kworker/0:1", 2), (FOLDED, 0), ("other", 3)]
            {
                let cgroup = if name == FOLDED { 0 } else { CGROUP };
                for map in ["starts", "cpu"] {
                    let key = [("comm", name.into()), ("cgroup", cgroup.into())];
                    maps.set(map, &key, &[("value", number.into())])?;
                }
            }
            maps.set("exec_failures", &[("", 2.into())], &[("value", 5.into())])?;
            maps.set("exec_failures", &[("", 8.into())], &[("value", 0.into())])?;
            Ok(())
        });
        let mut text = text.expect("rendered");
        let mut families = Families::default();
        let record = |name: &str, id: u64, pages: u64| {
            let mut record = [0; memory::RECORD];
            record[..name.len()].copy_from_slice(name.as_bytes());
            record[memory::RECORD - 24..memory::RECORD - 16].copy_from_slice(&CGROUP.to_ne_bytes());
            record[memory::RECORD - 16..memory::RECORD - 8].copy_from_slice(&id.to_ne_bytes());
            record[memory::RECORD - 8..].copy_from_slice(&pages.to_ne_bytes());
            record
        };
        // The first thread of the last process has exited; two others are left.
        let records = [("sh", 7, 3), ("sshd", 8, 10), ("sh", 9, 4), ("other", 11, 1), ("other", 11, 1)];
        let records = records.map(|(name, id, pages)| record(name, id, pages)).concat();
        memory::by_name(&records, 4096, Some(&mut Paths::default()), &mut families);
        text += &encode(families, Format::Text);
        golden::<Process>(env!("CARGO_MANIFEST_DIR"), &text).expect("as the golden file");
    }
}
