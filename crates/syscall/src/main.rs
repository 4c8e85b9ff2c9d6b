// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which system calls are made, how long do they take, which fail?
//!
//! Hooks, cost and what is not seen: `bpf/syscall.bpf.c`.

mod headlines;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use common::exposition::hist::Unit;
use common::kernel::facts::{Facts, monotonic_ns};
use common::process::exporter::{Exporter, OpenOf};
use common::read::decode::{SYSCALL_OTHER, syscall_slots};
use common::read::live::Live;
use common::spec::{Decode, MapSpec, Spec};

common::skeleton!();

/// Flags of this exporter.
#[derive(Args, Clone, Debug, Default)]
struct Flags {
    /// Also measure the latency of each syscall. Costs more than counting.
    #[arg(long = "syscall.latency")]
    latency: bool,

    /// Also count errors by syscall and errno. Costs more than counting.
    #[arg(long = "syscall.errors")]
    errors: bool,
}

#[derive(Default)]
struct Syscall;

impl Exporter for Syscall {
    type Builder = skel::SyscallSkelBuilder;
    type Flags = Flags;

    fn spec(flags: &Flags) -> Spec {
        let counts = labelled("counts", "").sparse().counter(
            "ebpf_syscalls_total",
            "calls",
            "Syscalls entered, by name. Numbers from 512 on, and x32 syscalls, count as \
             \"invalid\". Syscalls that a seccomp filter answered are counted only with --syscall.latency \
             or --syscall.errors.",
        );
        let mut spec =
            Spec::new("syscall", 9105, "which system calls are made, how long do they take, which fail?")
                .events(&["ebpf_syscalls_total"])
                .headlines(headlines::headlines(flags.latency, flags.errors))
                .required("sys_enter", &["enter_btf", "enter_raw"])
                .map(counts);
        if flags.latency || flags.errors {
            spec = spec
                .required("sys_exit", &["exit_btf", "exit_raw"])
                .required("sched_process_exec", &["exec_btf", "exec_raw"]);
        }
        if flags.latency {
            for map in ["latencies", "spilled_latencies"] {
                spec = spec.map(labelled(map, "").histogram(
                    "ebpf_syscall_latency_microseconds",
                    "latency",
                    Unit::Microseconds,
                    "Time from entry to return of a syscall, time spent blocked included. Syscalls that \
                     never return (exit, exit_group) or that a seccomp filter answered are not observed.",
                ));
            }
        }
        if flags.errors {
            let errors = labelled("errors", "slot").bounded().label("errno", "error", Decode::Errno).sparse();
            spec = spec.map(errors.counter(
                "ebpf_syscall_errors_total",
                "calls",
                "Syscalls that returned an error, by errno. ERESTART* means that a signal interrupted the \
                 syscall.",
            ));
        }
        spec
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, facts: &Facts, flags: &Flags) -> Result<()> {
        let settings = open.maps.rodata_data.as_mut().context("no .rodata")?;
        settings.syscall_latency = flags.latency;
        settings.syscall_errors = flags.errors;
        settings.syscall_preempted = facts.preemption.at_tracepoints;
        let never = ["exit", "exit_group"].into_iter().flat_map(syscall_slots);
        for (setting, slot) in settings.syscall_no_return.iter_mut().zip(never) {
            *setting = slot as u32;
        }
        let restored = ["rt_sigreturn", "sigreturn"].into_iter().flat_map(syscall_slots);
        for (setting, slot) in settings.syscall_no_result.iter_mut().zip(restored) {
            *setting = slot as u32;
        }
        let forks = ["clone", "fork", "vfork", "clone3"].into_iter().flat_map(syscall_slots);
        for (setting, slot) in settings.syscall_forks.iter_mut().zip(forks) {
            *setting = slot as u32;
        }
        settings.syscall_loaded_ns = monotonic_ns();
        if !flags.latency {
            // Saves 200 kB: without latency, nothing uses this map.
            open.maps.spilled_latencies.set_max_entries(1).context("map `spilled_latencies`")?;
        }
        Ok(())
    }

    fn seed(live: &Live) -> Result<()> {
        live.maps.insert_zero("errors", &live.key("errors", &[("slot", SYSCALL_OTHER.into())])?)?;
        Ok(())
    }
}

/// A map whose key, or a `member` of it, is a slot.
fn labelled(map: &'static str, member: &'static str) -> MapSpec {
    MapSpec::new(map).label("syscall", member, Decode::Syscall).label("abi", member, Decode::SyscallAbi)
}

fn main() -> ExitCode {
    common::run::<Syscall>()
}

#[cfg(test)]
mod tests {
    use common::fixture::{golden, render};
    use common::read::decode::{SYSCALL_INVALID, SYSCALL_SLOTS};
    use common::read::layout::Contents::Element;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let flags = Flags { latency: true, errors: true };
        let text = render::<Syscall>(&flags, |maps| {
            // getppid; getppid of int 0x80; a syscall newer than the table; an invalid number.
            for (slot, calls) in [(110, 7), (SYSCALL_SLOTS + 64, 5), (511, 3), (SYSCALL_INVALID, 2), (1, 0)] {
                maps.set("counts", &[("", slot.into())], &[("calls", calls.into())])?;
            }
            let read = [("latency.slots", Element(8, 2)), ("latency.sum", 4000.into())];
            maps.set("latencies", &[("", 0.into())], &read)?;
            // Is added to the latency of slot 0. Slot 3 has only this.
            let spilled = [("latency.slots", Element(8, 1)), ("latency.sum", 1500.into())];
            for slot in [0, 3] {
                maps.set("spilled_latencies", &[("", slot.into())], &spilled)?;
            }
            let errors: [(u64, u64); 4] = [(0, 11), (0, 512), (SYSCALL_SLOTS + 5, 2), (257, 4000)];
            for (slot, error) in errors {
                maps.set(
                    "errors",
                    &[("slot", slot.into()), ("error", error.into())],
                    &[("calls", 1.into())],
                )?;
            }
            maps.set("errors", &[("slot", SYSCALL_OTHER.into())], &[("calls", 9.into())])?;
            Ok(())
        });
        golden::<Syscall>(env!("CARGO_MANIFEST_DIR"), &text.expect("rendered")).expect("as the golden file");
    }

    #[test]
    fn without_flags_calls_are_counted_and_nothing_else() {
        let text = render::<Syscall>(&Flags::default(), |_| Ok(())).expect("rendered");
        assert!(!text.contains("_latency") && !text.contains("_errors"), "{text}");
    }
}
