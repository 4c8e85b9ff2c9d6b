// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long do ZFS I/Os take by type and device, and how far is a scrub?
//!
//! Hooks, cost and what is not seen: `bpf/zfs-zio.bpf.c`.

mod headlines;
mod scan;

use std::process::ExitCode;

use anyhow::{Context, Result};
use common::exposition::hist::Unit;
use common::exposition::metric::Families;
use common::kernel::facts::Facts;
use common::kernel::probes::Refused;
use common::process::exporter::{Exporter, OpenOf};
use common::read::decode::FOLDED;
use common::read::live::Live;
use common::spec::{Decode, MapSpec, Spec};
use libbpf_rs::skel::OpenSkel;
use zfs::{Flags, Zfs};

common::skeleton!();

/// By `enum zio_type`. 0 is type null, which is not counted, so it is used for ZIOs that found no
/// room. 5 is named ioctl before 2.3, but it is a flush there too.
const TYPES: &[&str] = &["other", "read", "write", "free", "claim", "flush", "trim"];

/// By `enum zio_priority`.
const PRIORITIES: &[&str] = &[
    "sync_read",
    "sync_write",
    "async_read",
    "async_write",
    "scrub",
    "removal",
    "initializing",
    "trim",
    "rebuild",
    "none",
    "now",
];

/// ZFS's own error names, which Linux does not have.
fn error() -> Decode {
    Decode::ErrnoOr(vec![(0, FOLDED.into()), (52, "ECKSUM".into()), (53, "EFRAGS".into())])
}

#[derive(Default)]
struct ZfsZio {
    zfs: Zfs,
}

impl Exporter for ZfsZio {
    type Builder = skel::ZfsZioSkelBuilder;
    type Flags = Flags;

    fn spec(_: &Flags) -> Spec {
        let pool = |map| MapSpec::new(map).label("pool", "pool", Decode::Text);
        let logical = [
            (
                "ebpf_zfs_zio_read_latency_microseconds",
                "read",
                "Time of logical read ZIOs, from start to \
                                                                completion. I/Os of single devices are \
                                                                not observed here: see \
                                                                ebpf_zfs_zio_device_latency_seconds.",
            ),
            (
                "ebpf_zfs_zio_write_latency_microseconds",
                "write",
                "Time of logical write ZIOs, from start \
                                                                  to completion. I/Os of single devices \
                                                                  are not observed here: see \
                                                                  ebpf_zfs_zio_device_latency_seconds.",
            ),
            (
                "ebpf_zfs_zio_free_latency_microseconds",
                "free",
                "Time of logical free ZIOs. Most blocks are freed without a ZIO and are not observed: only \
                 gang, deduplicated and cloned blocks have one.",
            ),
        ]
        .into_iter()
        .fold(pool("logical"), |map, (name, member, help)| {
            map.histogram(name, member, Unit::Microseconds, help)
        });
        let all = pool("all")
            .label("type", "type", Decode::words(TYPES))
            .label("priority", "priority", Decode::words(PRIORITIES))
            .histogram(
                "ebpf_zfs_zio_latency_seconds",
                "latency",
                Unit::Seconds,
                "Time of ZIOs by type and priority: logical ZIOs, and flushes and trims of devices. Other \
                 I/Os of devices are not observed.",
            );
        let devices = pool("devices")
            .bounded()
            .label("vdev", "vdev", Decode::Text)
            .label("type", "type", Decode::words(TYPES))
            .histogram(
                "ebpf_zfs_zio_device_latency_seconds",
                "latency",
                Unit::Seconds,
                "Time of device I/Os in the ZFS queue and at the device, as in zpool iostat -w. Failed \
                 I/Os are not observed.",
            )
            .counter(
                "ebpf_zfs_zio_device_ops_total",
                "ops",
                "Device I/Os that succeeded. I/Os that ZFS aggregated count as one.",
            )
            .counter(
                "ebpf_zfs_zio_device_bytes_total",
                "bytes",
                "Bytes moved by the device I/Os that \
                                                                  ebpf_zfs_zio_device_ops_total counts.",
            );
        let errors = pool("errors")
            .label("type", "type", Decode::words(TYPES))
            .label("error", "error", error())
            .counter(
                "ebpf_zfs_zio_errors_total",
                "errors",
                "Device I/Os that failed, by error, checksum errors included. I/Os to a device that is \
                 offline or faulted are not counted.",
            );
        let scans = scan::counters(scan::counters(pool("scans"), "scrub"), "resilver");
        Spec::new("zfs-zio", 9111, "how long do ZFS I/Os take by type and device, and how far is a scrub?")
            .events(&["ebpf_zfs_zio_latency_seconds"])
            .headlines(headlines::headlines())
            .of_module(zfs::MODULE)
            .required("zio_wait", &["wait"])
            .required("zio_nowait", &["nowait"])
            .required("vdev_stat_update", &["done"])
            .required("zio_destroy", &["destroy"])
            .where_present("zfs_ereport_post_checksum", &["column"])
            .optional("dsl_scan_scrub_done", &["scrub_done"], &["scans"])
            .optional("trace_zfs_txg__synced", &["synced"], &["progress"])
            .map(logical)
            .map(all)
            .map(devices)
            .map(errors)
            .map(scans)
    }

    fn new(flags: &Flags) -> Result<Self> {
        Ok(Self { zfs: Zfs::new(flags)? })
    }

    fn unusable(&self) -> Refused {
        self.zfs.unusable(&["wait", "nowait", "done", "destroy", "column", "scrub_done", "synced"])
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, _: &Facts, _: &Flags) -> Result<()> {
        let settings = open.maps.rodata_data.as_mut().context("no .rodata")?;
        // Direct I/O (2.3) added ZIO_FLAG_DIO_READ below this flag, which moved up by one bit.
        let direct = self.zfs.layout()?.is_some_and(|offsets| zfs::layout::has_direct_io(&offsets));
        settings.zfs_zio_flag_bypass = if direct { 1 << 22 } else { 1 << 21 };
        self.zfs.configure(open.open_object_mut())
    }

    fn seed(live: &Live) -> Result<()> {
        for map in ["logical", "all", "errors", "scans"] {
            live.maps.insert_zero(map, &live.key(map, &[("pool", FOLDED.into())])?)?;
        }
        let other = [("pool", FOLDED.into()), ("vdev", FOLDED.into())];
        live.maps.insert_zero("devices", &live.key("devices", &other)?)?;
        Ok(())
    }

    fn gather(&mut self, live: &Live) -> Result<()> {
        self.zfs.pools.sweep_pools(live, &["logical", "all", "devices", "errors", "scans", "progress"])
    }

    fn extra(&mut self, live: &Live, families: &mut Families) -> Result<()> {
        scan::progress(&live.layouts, &live.maps, families)
    }
}

fn main() -> ExitCode {
    common::run::<ZfsZio>()
}

#[cfg(test)]
mod tests {
    use common::exposition::encode::{Format, encode};
    use common::fixture::{Fixture, golden, render};
    use common::read::layout;
    use common::read::layout::Contents::Element;
    use libbpf_rs::skel::SkelBuilder;
    use std::mem::MaybeUninit;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<ZfsZio>(&Flags::default(), |maps| {
            let tank = ("pool", "tank".into());
            let logical = [
                ("read.slots", Element(60, 4)),
                ("read.sum", 900_000.into()),
                ("write.slots", Element(80, 2)),
                ("write.sum", 7_000_000.into()),
            ];
            maps.set("logical", &[tank], &logical)?;
            for (kind, priority) in [(1u64, 0u64), (2, 3), (5, 10)] {
                let latency = [("latency.slots", Element(100, 2)), ("latency.sum", 5000.into())];
                let key = [tank, ("type", kind.into()), ("priority", priority.into())];
                maps.set("all", &key, &latency)?;
            }
            let device = [
                ("latency.slots", Element(90, 4)),
                ("latency.sum", 4000.into()),
                ("ops", 4.into()),
                ("bytes", 16_384.into()),
            ];
            maps.set("devices", &[tank, ("vdev", "/dev/vdb1".into()), ("type", 1.into())], &device)?;
            maps.set("errors", &[tank, ("type", 1.into()), ("error", 52.into())], &[("errors", 3.into())])?;
            let scrub = [("scrub.ios", 9.into()), ("scrub.bytes", 1024.into()), ("scrub.errors", 1.into())];
            maps.set("scans", &[tank], &scrub)?;
            Ok(())
        });
        let mut text = text.expect("rendered");
        let mut storage = MaybeUninit::uninit();
        let open = skel::ZfsZioSkelBuilder::default().open(&mut storage).expect("an object");
        let layouts = layout::of(open.open_object()).expect("layouts");
        let mut maps = Fixture::new(layouts.clone());
        let progress = [
            ("func", 1.into()),
            ("state", 1.into()),
            ("to_examine", 1_000_000.into()),
            ("examined", 600_000.into()),
            ("issued", 250_000.into()),
        ];
        maps.set("progress", &[("pool", "tank".into())], &progress).expect("set");
        // A pool that resilvers.
        maps.set("progress", &[("pool", "dozer".into())], &progress).expect("set");
        maps.set("progress", &[("pool", "dozer".into())], &[("func", 2.into())]).expect("set");
        let mut families = Families::default();
        scan::progress(&layouts, &maps, &mut families).expect("shown");
        text += &encode(families, Format::Text);
        golden::<ZfsZio>(env!("CARGO_MANIFEST_DIR"), &text).expect("as the golden file");
    }
}
