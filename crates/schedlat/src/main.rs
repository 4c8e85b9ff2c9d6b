// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long do runnable tasks wait for a CPU?
//!
//! Hooks, cost and what is not seen: `bpf/schedlat.bpf.c`.

mod headlines;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use common::exposition::hist::Unit;
use common::kernel::facts::Facts;
use common::process::exporter::{Exporter, OpenOf};
use common::read::cgroups::{self, Folds};
use common::read::live::Live;
use common::spec::{Decode, MapSpec, Spec};

common::skeleton!();

/// Flags of this exporter.
#[derive(Args, Clone, Debug, Default)]
struct Flags {
    /// Also export a histogram for each cgroup. --max-series limits their number.
    #[arg(long = "schedlat.cgroup")]
    cgroup: bool,
}

#[derive(Default)]
struct Schedlat {
    by_cgroup: bool,
    folds: Folds,
}

impl Exporter for Schedlat {
    type Builder = skel::SchedlatSkelBuilder;
    type Flags = Flags;
    const CGROUPS: bool = true;

    fn spec(flags: &Flags) -> Spec {
        let spec = Spec::new("schedlat", 9107, "how long do runnable tasks wait for a CPU?")
            .events(&["ebpf_sched_runqueue_latency_microseconds"])
            .headlines(headlines::headlines(flags.cgroup))
            .required("sched_switch", &["switch_btf", "switch_raw"])
            .map(MapSpec::new("waits").histogram(
                "ebpf_sched_runqueue_latency_microseconds",
                "latency",
                Unit::Microseconds,
                "Time that a task waited on a run queue, from wakeup or preemption until it ran, by the \
                 scheduler's own clock. A wait during which the task was moved to another run queue \
                 counts once; the idle task is not observed.",
            ));
        if !flags.cgroup {
            return spec;
        }
        let cgroups = MapSpec::new("cgroups").bounded().sparse().label("cgroup", "", Decode::Cgroup);
        let spec = spec.required("cgroup_mkdir", &["mkdir_btf", "mkdir_raw"]);
        let spec = spec.required("cgroup_rmdir", &["rmdir_btf", "rmdir_raw"]);
        spec.map(cgroups.histogram(
            "ebpf_sched_cgroup_runqueue_latency_microseconds",
            "latency",
            Unit::Microseconds,
            "The same as ebpf_sched_runqueue_latency_microseconds, by cgroup (version 2). When a cgroup is \
             removed its series ends; its waits stay in the metric over all tasks.",
        ))
    }

    fn new(flags: &Flags) -> Result<Self> {
        Ok(Self { by_cgroup: flags.cgroup, folds: Folds::default() })
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, _: &Facts, flags: &Flags) -> Result<()> {
        open.maps.rodata_data.as_mut().context("no .rodata")?.schedlat_cgroup = flags.cgroup;
        Ok(())
    }

    fn seed(live: &Live) -> Result<()> {
        live.maps.insert_zero("cgroups", &live.key("cgroups", &[])?)?;
        Ok(())
    }

    fn attached(&mut self, live: &Live) -> Result<()> {
        if self.by_cgroup { insert(live, cgroups::ids()) } else { Ok(()) }
    }

    fn gather(&mut self, live: &Live) -> Result<()> {
        if !self.by_cgroup || !self.folds.grew(live)? {
            return Ok(());
        }
        // There may now be room or memory that was missing when the cgroups were created. If not, the
        // scrape does not fail: their waits are still folded, and the next scrape tries again.
        insert(live, cgroups::ids()).or(Ok(()))
    }
}

/// Inserts cgroups without an entry while there is room. Waits of the others are folded.
fn insert(live: &Live, groups: impl IntoIterator<Item = u64>) -> Result<()> {
    for id in groups {
        if !live.maps.insert_zero("cgroups", &live.key("cgroups", &[("", id.into())])?)? {
            break;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    common::run::<Schedlat>()
}

#[cfg(test)]
mod tests {
    use common::fixture::{golden, render};
    use common::read::layout::Contents::Element;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<Schedlat>(&Flags { cgroup: true }, |maps| {
            // No wait at all, 2 us, and more than 2^24 us.
            let waits = [
                ("latency.slots", Element(0, 3)),
                ("latency.slots", Element(8, 2)),
                ("latency.slots", Element(193, 1)),
                ("latency.sum", 20_000_004_000.into()),
            ];
            maps.set("waits", &[], &waits)?;
            maps.set("cgroups", &[("", 0.into())], &[])?;
            maps.set("cgroups", &[("", u64::MAX.into())], &waits)?;
            Ok(())
        });
        golden::<Schedlat>(env!("CARGO_MANIFEST_DIR"), &text.expect("rendered")).expect("as the golden file");
    }
}
