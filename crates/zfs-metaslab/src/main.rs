// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long do allocations in a pool take, and how often do they fail?
//!
//! Hooks, cost and what is not seen: `bpf/zfs-metaslab.bpf.c`.

mod headlines;

use std::process::ExitCode;

use anyhow::Result;
use common::exposition::hist::Unit;
use common::kernel::facts::Facts;
use common::kernel::probes::Refused;
use common::process::exporter::{Exporter, OpenOf};
use common::read::decode::FOLDED;
use common::read::live::Live;
use common::spec::{Decode, MapSpec, Spec};
use libbpf_rs::skel::OpenSkel;
use zfs::{Flags, Zfs};

common::skeleton!();

/// In the order of `enum zfs_metaslab_class`.
const CLASSES: &[&str] =
    &["normal", "log", "embedded_log", "special", "dedup", "special_embedded_log", "unknown"];

#[derive(Default)]
struct ZfsMetaslab {
    zfs: Zfs,
}

impl Exporter for ZfsMetaslab {
    type Builder = skel::ZfsMetaslabSkelBuilder;
    type Flags = Flags;

    fn spec(_: &Flags) -> Spec {
        let allocs = MapSpec::new("allocs")
            .label("pool", "pool", Decode::Text)
            .label("class", "class", Decode::words(CLASSES))
            .histogram(
                "ebpf_zfs_metaslab_alloc_microseconds",
                "latency",
                Unit::Microseconds,
                "Time to find space for a block in a metaslab class, successful or not.",
            )
            .counter(
                "ebpf_zfs_metaslab_alloc_success_total",
                "succeeded",
                "Blocks for which the class had space. A block that is written in several copies counts \
                 once.",
            )
            .counter(
                "ebpf_zfs_metaslab_alloc_failure_total",
                "failed",
                "Blocks for which the class had no space. Only class=\"normal\" is a problem: blocks of \
                 the intent log try their own classes first, then another.",
            )
            .counter(
                "ebpf_zfs_metaslab_alloc_bytes_total",
                "bytes",
                "Bytes of blocks for which the class had space. A block that is written in several copies \
                 counts once.",
            );
        let fill = MapSpec::new("fill")
            .label("pool", "pool", Decode::Text)
            .gauge(
                "ebpf_zfs_pool_allocated_bytes",
                "allocated",
                "Allocated space of the pool, as in zpool list. Updated when a transaction group is synced.",
            )
            .gauge(
                "ebpf_zfs_pool_free_bytes",
                "free",
                "Free space of the pool, as in zpool list. Updated when a transaction group is synced.",
            );
        Spec::new("zfs-metaslab", 9113, "how long do allocations in a pool take, and how often do they fail?")
            .events(&["ebpf_zfs_metaslab_alloc_success_total", "ebpf_zfs_metaslab_alloc_failure_total"])
            .headlines(headlines::headlines())
            .of_module(zfs::MODULE)
            .required("metaslab_alloc", &["range+range_end", "alloc+alloc_end"])
            .optional("trace_zfs_txg__synced", &["synced"], &["fill"])
            .map(allocs)
            .map(fill)
    }

    fn new(flags: &Flags) -> Result<Self> {
        Ok(Self { zfs: Zfs::new(flags)? })
    }

    fn unusable(&self) -> Refused {
        self.zfs.unusable(&["range", "range_end", "alloc", "alloc_end", "synced"])
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, _: &Facts, _: &Flags) -> Result<()> {
        self.zfs.configure(open.open_object_mut())
    }

    fn seed(live: &Live) -> Result<()> {
        live.maps.insert_zero("allocs", &live.key("allocs", &[("pool", FOLDED.into())])?)?;
        Ok(())
    }

    fn gather(&mut self, live: &Live) -> Result<()> {
        self.zfs.pools.sweep_pools(live, &["allocs", "fill"])
    }
}

fn main() -> ExitCode {
    common::run::<ZfsMetaslab>()
}

#[cfg(test)]
mod tests {
    use common::fixture::{golden, render};
    use common::read::layout::Contents::Element;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<ZfsMetaslab>(&Flags::default(), |maps| {
            for class in [0u64, 2] {
                let values = [
                    ("latency.slots", Element(8, 5)),
                    ("latency.sum", 7000.into()),
                    ("succeeded", (4 - class).into()),
                    ("failed", (1 + class).into()),
                    ("bytes", 8192.into()),
                ];
                maps.set("allocs", &[("pool", "tank".into()), ("class", class.into())], &values)?;
            }
            let fill = [("allocated", 1_000_000.into()), ("free", 9_000_000.into())];
            maps.set("fill", &[("pool", "tank".into())], &fill)?;
            maps.set("allocs", &[("pool", FOLDED.into())], &[])?;
            Ok(())
        });
        golden::<ZfsMetaslab>(env!("CARGO_MANIFEST_DIR"), &text.expect("rendered"))
            .expect("as the golden file");
    }
}
