// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long do transaction groups take to sync, by pool?
//!
//! Hooks, cost and what is not seen: `bpf/zfs-txg.bpf.c`.

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

const PHASE: &str = "ebpf_zfs_txg_phase_seconds";
const PHASE_HELP: &str = "Time of a transaction group in each phase: open (takes writers), quiesce \
                          (closed, waits for its last writer), wait (for the group before it), sync (is \
                          written to disk).";

#[derive(Default)]
struct ZfsTxg {
    zfs: Zfs,
}

impl Exporter for ZfsTxg {
    type Builder = skel::ZfsTxgSkelBuilder;
    type Flags = Flags;

    fn spec(_: &Flags) -> Spec {
        let phase = |map: MapSpec, name, member| {
            map.histogram_of(PHASE, &[("phase", name)], member, Unit::Seconds, PHASE_HELP)
        };
        let pools = MapSpec::new("pools")
            .label("pool", "pool", Decode::Text)
            .histogram(
                "ebpf_zfs_txg_sync_microseconds",
                "sync",
                Unit::Microseconds,
                "Time to sync a transaction group (to write it to disk). Groups that were already syncing \
                 when the exporter started are not observed.",
            )
            .counter(
                "ebpf_zfs_txg_syncs_total",
                "syncs",
                "Transaction groups synced (written to disk). Groups that were already syncing when the \
                 exporter started are not counted.",
            )
            .gauge(
                "ebpf_zfs_txg_last_sync_microseconds",
                "last_us",
                "Time to sync the last transaction group of the pool.",
            );
        let pools = [("open", "open"), ("quiesce", "quiesce"), ("wait", "wait"), ("sync", "syncing")]
            .into_iter()
            .fold(pools, |map, (name, member)| phase(map, name, member));
        let dirty = MapSpec::new("dirty").label("pool", "pool", Decode::Text).gauge(
            "ebpf_zfs_txg_dirty_bytes",
            "bytes",
            "Dirty data of the pool, not yet on disk. Updated when a transaction group is closed to \
             writers and when it is synced.",
        );
        let delays = MapSpec::new("delays")
            .label("pool", "pool", Decode::Text)
            .counter(
                "ebpf_zfs_dmu_tx_delays_total",
                "delays",
                "Times that the write throttle delayed a transaction.",
            )
            .seconds(
                "ebpf_zfs_dmu_tx_delay_seconds_total",
                "delay_ns",
                "Minimum delay that the write throttle gave to transactions. Transactions that wait at the \
                 same time wait longer than this.",
            );
        Spec::new("zfs-txg", 9112, "how long do transaction groups take to sync, by pool?")
            .events(&["ebpf_zfs_txg_syncs_total"])
            .headlines(headlines::headlines())
            .of_module(zfs::MODULE)
            .required("trace_zfs_txg__opened", &["opened"])
            .required("trace_zfs_txg__quiescing", &["quiescing"])
            .required("trace_zfs_txg__quiesced", &["quiesced"])
            .required("trace_zfs_txg__syncing", &["syncing"])
            .required("trace_zfs_txg__synced", &["synced"])
            .optional("dp_dirty_total", &["dirty_closed+dirty_synced"], &["dirty"])
            .optional("trace_zfs_delay__mintime", &["delay"], &["delays"])
            .map(pools)
            .map(dirty)
            .map(delays)
    }

    fn new(flags: &Flags) -> Result<Self> {
        Ok(Self { zfs: Zfs::new(flags)? })
    }

    fn unusable(&self) -> Refused {
        self.zfs.unusable(&["dirty_closed", "dirty_synced", "delay"])
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, _: &Facts, _: &Flags) -> Result<()> {
        self.zfs.configure(open.open_object_mut())
    }

    fn seed(live: &Live) -> Result<()> {
        for map in ["pools", "delays"] {
            live.maps.insert_zero(map, &live.key(map, &[("pool", FOLDED.into())])?)?;
        }
        Ok(())
    }

    fn gather(&mut self, live: &Live) -> Result<()> {
        self.zfs.pools.sweep_pools(live, &["pools", "dirty", "delays"])
    }
}

fn main() -> ExitCode {
    common::run::<ZfsTxg>()
}

#[cfg(test)]
mod tests {
    use common::fixture::{golden, render};
    use common::read::layout::Contents::Element;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<ZfsTxg>(&Flags::default(), |maps| {
            let tank = [("pool", "tank".into())];
            let values = [
                ("sync.slots", Element(64, 3)),
                ("sync.sum", 12_000_000.into()),
                ("syncing.slots", Element(100, 3)),
                ("syncing.sum", 12_000_000.into()),
                ("open.slots", Element(193, 2)),
                ("open.sum", 10_000_000_000.into()),
                ("syncs", 3.into()),
                ("last_us", 3500.into()),
            ];
            maps.set("pools", &tank, &values)?;
            maps.set("dirty", &tank, &[("bytes", 4096.into())])?;
            maps.set("delays", &tank, &[("delays", 7.into()), ("delay_ns", 1_500_000.into())])?;
            maps.set("delays", &[("pool", FOLDED.into())], &[])?;
            maps.set("delays", &[("pool", "other".into())], &[])?;
            Ok(())
        });
        golden::<ZfsTxg>(env!("CARGO_MANIFEST_DIR"), &text.expect("rendered")).expect("as the golden file");
    }
}
