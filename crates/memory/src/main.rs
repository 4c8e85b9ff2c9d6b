// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often do programs fault on pages or wait for free memory?
//!
//! Hooks, cost and what is not seen: `bpf/memory.bpf.c`.

mod headlines;
mod totals;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{ArgAction, Args};
use common::exposition::hist::Unit;
use common::exposition::metric::{Families, Labels, Value};
use common::process::exporter::Exporter;
use common::read::live::Live;
use common::read::part::Reader;
use common::spec::{Decode, MapSpec, Spec};

use totals::{LATENCY, Totals};

common::skeleton!();

/// In the order of `enum memory_fault`.
const KINDS: &[&str] = &["minor", "major", "populate", "failed"];

const VMSTAT: &str = "/proc/vmstat";

/// Flags of this exporter.
#[derive(Args, Clone, Debug)]
struct Flags {
    /// Measure the latency of page faults. Costs two clock reads for each fault.
    #[arg(long = "memory.fault-latency", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    fault_latency: bool,
}

impl Default for Flags {
    fn default() -> Self {
        Self { fault_latency: true }
    }
}

#[derive(Default)]
struct Memory {
    totals: Totals,
}

impl Exporter for Memory {
    type Builder = skel::MemorySkelBuilder;
    type Flags = Flags;

    fn spec(flags: &Flags) -> Spec {
        let allocations = MapSpec::new("allocations")
            .steps(
                "ebpf_page_alloc_order",
                "orders",
                "Page allocations by order; an allocation of order N has 2^N pages. Bulk allocations are \
                 not counted where the kernel has no event for them; ebpf_page_allocated_pages_total \
                 includes them.",
            )
            .counter(
                "ebpf_page_allocations_total",
                "orders",
                "Page allocations of any order: the same events as ebpf_page_alloc_order. Failed \
                 allocations are not counted.",
            )
            .counter(
                "ebpf_page_allocation_failures_total",
                "failures",
                "Page allocations that failed: no page was free, or the memory limit of a cgroup refused an allocation of the kernel. From Linux 6.15 on, also an allocation that must not wait (alloc_pages_nolock, for BPF) and found a lock taken.",
            );
        let reclaims = MapSpec::new("reclaims").histogram(
            "ebpf_direct_reclaim_seconds",
            "duration",
            Unit::Seconds,
            "Time that tasks spent in direct reclaim: freeing memory themselves because none was free. \
             Reclaim for the memory limit of a cgroup is not observed.",
        );
        let reclaim = &["reclaim_begin_btf+reclaim_end_btf", "reclaim_begin_raw+reclaim_end_raw"];
        let spec = Spec::new("memory", 9108, "how often do programs fault on pages or wait for free memory?")
            .events(&[
                "ebpf_page_faults_minor_total",
                "ebpf_page_faults_major_total",
                "ebpf_page_allocations_total",
            ])
            .headlines(headlines::headlines())
            .required("mm_page_alloc", &["alloc_btf", "alloc_raw"])
            .optional("mm_vmscan_direct_reclaim", reclaim, &["reclaims"])
            .map(allocations)
            .map(reclaims);
        if !flags.fault_latency {
            return spec;
        }
        let fault = &["fault_fentry+fault_fexit", "fault_kprobe+fault_kretprobe"];
        spec.optional("handle_mm_fault", fault, &["faults", "retries"])
            .map(MapSpec::new("faults").label("kind", "", Decode::words(KINDS)).histogram(
                LATENCY,
                "latency",
                Unit::Seconds,
                "Time of a page fault in the kernel's fault handler, from its first attempt to its end. \
                 kind=\"populate\": the kernel faulted the page in itself, neither minor nor major; \
                 kind=\"failed\": the fault ended in a signal.",
            ))
            .map(MapSpec::new("retries").counter(
                "ebpf_page_fault_retries_total",
                "retries",
                "Attempts of page faults that had to be repeated. The fault itself counts once, in \
                 ebpf_page_fault_latency_seconds.",
            ))
    }

    fn new(flags: &Flags) -> Result<Self> {
        Ok(Self { totals: Totals::new(flags.fault_latency) })
    }

    fn fallback(_: &Flags) -> Result<Option<Reader>> {
        let mut totals = Totals::new(false);
        Ok(Some(Box::new(move |families| without_programs(&mut totals, families))))
    }

    fn release(&mut self) -> Option<Reader> {
        let mut totals = std::mem::take(&mut self.totals);
        Some(Box::new(move |families| without_programs(&mut totals, families)))
    }

    fn extra(&mut self, _: &Live, families: &mut Families) -> Result<()> {
        without_programs(&mut self.totals, families)
    }
}

/// The kernel's own counters.
fn without_programs(totals: &mut Totals, families: &mut Families) -> Result<()> {
    totals.add(families);
    let text = fs::read_to_string(VMSTAT).with_context(|| format!("failed to read {VMSTAT}"))?;
    from_vmstat(&text, families);
    Ok(())
}

/// The kernel's counters since boot.
fn from_vmstat(text: &str, families: &mut Families) {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    for (name, value) in lines.filter_map(|(name, value)| Some((name, value.parse().ok()?))) {
        if let Some(zone) = name.strip_prefix("pgalloc_") {
            families.counter(
                "ebpf_page_allocated_pages_total",
                "Pages allocated since boot, by zone (pgalloc_* of /proc/vmstat). Bulk allocations are \
                 included.",
                Labels::of(&[("zone", zone)]),
                Value::Integer(value),
            );
        }
        if name == "oom_kill" {
            families.counter(
                "ebpf_oom_kills_total",
                "Processes killed by the OOM killer since boot (oom_kill of /proc/vmstat).",
                Labels::none(),
                Value::Integer(value),
            );
        }
    }
}

fn main() -> ExitCode {
    common::run::<Memory>()
}

#[cfg(test)]
mod tests {
    use common::exposition::encode::{Format, encode};
    use common::fixture::{golden, golden_fallback, render};
    use common::read::layout::Contents::Element;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<Memory>(&Flags::default(), |maps| {
            let orders = [(0, 100), (3, 7), (10, 2), (11, 1)];
            for (order, count) in orders {
                maps.set("allocations", &[], &[("orders", Element(order, count))])?;
            }
            maps.set("allocations", &[], &[("failures", 5.into())])?;
            for kind in 0..4 {
                let latency = [("latency.slots", Element(8, kind)), ("latency.sum", (kind * 1900).into())];
                maps.set("faults", &[("", kind.into())], &latency)?;
            }
            maps.set("retries", &[], &[("retries", 9.into())])?;
            maps.set("reclaims", &[], &[("duration.slots", Element(193, 1)), ("duration.sum", 17.into())])?;
            Ok(())
        });
        let mut text = text.expect("rendered");
        let counted = || {
            let mut families = Families::default();
            totals::show(1009, 7, &mut families);
            from_vmstat("pgfault 9\npgalloc_dma 0\npgalloc_normal 12\noom_kill 3\n", &mut families);
            families
        };
        text += &encode(counted(), Format::Text);
        golden::<Memory>(env!("CARGO_MANIFEST_DIR"), &text).expect("as the golden file");
        golden_fallback::<Memory>(env!("CARGO_MANIFEST_DIR"), counted()).expect("as the golden file");
    }
}
