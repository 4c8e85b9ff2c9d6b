// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long do block I/Os take, by device and operation?
//!
//! Hooks, cost and what is not seen: `bpf/diskio.bpf.c`.

mod bios;
mod headlines;
mod info;
mod sysfs;

use std::process::ExitCode;

use anyhow::{Context, Result};
use common::exposition::{hist::Unit, metric::Families, metric::Labels, metric::Value};
use common::kernel::facts::{Facts, page_size};
use common::process::exporter::{Exporter, OpenOf};
use common::read::{decode::FOLDED, decode::shown, live::Live, part::Reader};
use common::spec::{Decode, MapSpec, Side, Spec};
use sysfs::Disk;

common::skeleton!();

/// In the order of `enum diskio_op`.
const OPERATIONS: &[&str] = &["read", "write", "flush", "discard", "other"];

/// In-flight entries: enough for a small machine, and 5 MB at most.
const START_ENTRIES: std::ops::RangeInclusive<u32> = 4096..=65536;

#[derive(Default)]
struct Diskio;

impl Exporter for Diskio {
    type Builder = skel::DiskioSkelBuilder;
    type Flags = common::process::cli::NoFlags;

    fn spec(_: &Self::Flags) -> Spec {
        let requests = per_disk("rq_stats")
            .histogram(
                "ebpf_disk_io_queue_seconds",
                "queue",
                Unit::Seconds,
                "Time from insertion into the I/O scheduler to the last issue to the device; 0 for a request that bypasses the scheduler. Absent for bio-based devices (dm, md, ...), which have no issue step.",
            )
            .histogram(
                "ebpf_disk_io_service_seconds",
                "service",
                Unit::Seconds,
                "Time from the last issue to the device to completion. Absent for bio-based devices (dm, md, ...).",
            );
        Spec::new("diskio", 9101, "how long do block I/Os take, by device and operation?")
            .events(&["ebpf_disk_io_latency_microseconds"])
            .headlines(headlines::headlines())
            .required("block_rq_issue", &["rq_issue_btf", "rq_issue_raw"])
            .required("block_rq_complete", &["rq_complete_btf", "rq_complete_raw"])
            .required("block_rq_insert", &["rq_insert_btf", "rq_insert_raw"])
            .required("block_rq_merge", &["rq_merge_btf", "rq_merge_raw"])
            .required("block_rq_requeue", &["rq_requeue_btf", "rq_requeue_raw"])
            .optional("block_bio_queue", &["bio_queue_btf", "bio_queue_raw"], &bios::MAPS)
            .optional("block_bio_complete", &["bio_complete_btf", "bio_complete_raw"], &bios::MAPS)
            .where_present("bdev_rw_page", &bios::PAGES)
            .map(requests)
            .map(per_disk("bio_stats"))
            .map(in_flight("start", "issued"))
            .map(in_flight("bio_start", "queued"))
            .enumerator("REQ_OP_ZONE_APPEND")
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, facts: &Facts, _: &Self::Flags) -> Result<()> {
        let second =
            |tracepoint: &str| facts.tracepoints.get(tracepoint).is_some_and(|p| p.arguments.len() == 2);
        let entries = sysfs::requests().clamp(*START_ENTRIES.start(), *START_ENTRIES.end());
        open.maps.start.set_max_entries(entries).context("map `start`")?;
        open.maps.bio_start.set_max_entries(entries).context("map `bio_start`")?;
        let settings = open.maps.rodata_data.as_mut().context("no .rodata")?;
        settings.diskio_rq_second = second("block_rq_issue");
        settings.diskio_bio_second = second("block_bio_queue");
        settings.diskio_page = page_size();
        settings.diskio_start_crowded = u64::from(entries) / 4 * 3;
        if let Some(value) = facts.enumerators.get("REQ_OP_ZONE_APPEND") {
            settings.diskio_op_zone_append = u32::try_from(*value).context("REQ_OP_ZONE_APPEND")?;
        }
        Ok(())
    }

    fn seed(live: &Live) -> Result<()> {
        // First, because these entries count the events that find no room.
        for map in ["rq_stats", "bio_stats"] {
            for operation in OPERATIONS {
                live.maps.insert_zero(map, &key(live, map, FOLDED, operation)?)?;
            }
        }
        for disk in sysfs::disks().into_iter().filter(|disk| disk.size > 0) {
            let map = if disk.takes_requests { "rq_stats" } else { "bio_stats" };
            for operation in ["read", "write"] {
                // If --max-series leaves no room, the disk has no series of its own.
                live.maps.insert_zero(map, &key(live, map, &disk.name, operation)?)?;
            }
        }
        Ok(())
    }

    fn fallback(_: &Self::Flags) -> Result<Option<Reader>> {
        Ok(Some(Box::new(|families| {
            let disks = sysfs::disks();
            info::describe(&disks, "/sys/block", families);
            for disk in &disks {
                moved(disk, sysfs::bytes(disk), families);
            }
            Ok(())
        })))
    }

    fn extra(&mut self, _: &Live, families: &mut Families) -> Result<()> {
        info::describe(&sysfs::disks(), "block tracepoints", families);
        Ok(())
    }
}

const BYTES: &str = "ebpf_disk_io_bytes_total";
const BYTES_HELP: &str = "Bytes of block I/O by operation, those of requests that finally failed included. Write-zeroes and secure erase count as write.";

/// The kernel's own counters of a disk; none for a disk of size 0.
fn moved(disk: &Disk, bytes: Option<[u64; 3]>, families: &mut Families) {
    for (operation, bytes) in ["read", "write", "discard"].into_iter().zip(bytes.into_iter().flatten()) {
        if disk.size > 0 {
            let labels = Labels::of(&[("device", &*shown(&disk.name)), ("operation", operation)]);
            families.counter(BYTES, BYTES_HELP, labels, Value::Integer(bytes));
        }
    }
}

/// Metrics of both request-based and bio-based devices.
fn per_disk(map: &'static str) -> MapSpec {
    MapSpec::new(map)
        .bounded()
        .label("device", "disk", Decode::Text)
        .label("operation", "op", Decode::words(OPERATIONS))
        .histogram(
            "ebpf_disk_io_latency_microseconds",
            "latency",
            Unit::Microseconds,
            "Time of a block I/O from insertion into the I/O scheduler, or from issue if it bypasses the \
             scheduler, to completion. A request that is requeued or completes in parts counts once; a \
             merged request counts with the one it was merged into; an empty flush counts as flush only. \
             On bio-based devices (dm, md) a bio counts once, while /proc/diskstats counts every I/O it \
             is split into. Write-zeroes and secure erase count as write, zone management as other. \
             Passthrough commands are not counted.",
        )
        .counter(BYTES, "bytes", BYTES_HELP)
        .counter(
            "ebpf_disk_io_errors_total",
            "errors",
            "Block I/Os that completed with an error. Passthrough commands are not counted.",
        )
        .tally(IN_FLIGHT, None, IN_FLIGHT_HELP)
}

const IN_FLIGHT: &str = "ebpf_disk_io_inflight";
const IN_FLIGHT_HELP: &str = "Block I/Os issued to the device and not yet completed; on bio-based devices (dm, md), bios submitted and not yet completed. Requests that wait in the I/O scheduler, or that the driver has given back to be issued again, are not counted.";

/// I/Os in flight, added to the zeros of [`per_disk`].
fn in_flight(map: &'static str, since: &'static str) -> MapSpec {
    MapSpec::new(map)
        .label_from(Side::Value, "device", "key.disk", Decode::Text)
        .label_from(Side::Value, "operation", "key.op", Decode::words(OPERATIONS))
        .tally(IN_FLIGHT, Some(since), IN_FLIGHT_HELP)
}

/// The bytes of a `struct diskio_key`.
fn key(live: &Live, map: &str, disk: &str, operation: &str) -> Result<Vec<u8>> {
    let op = OPERATIONS.iter().position(|word| *word == operation).context("no such operation")?;
    live.key(map, &[("disk", disk.into()), ("op", (op as u64).into())])
}

fn main() -> ExitCode {
    common::run::<Diskio>()
}

#[cfg(test)]
mod tests {
    use common::exposition::encode::{Format, encode};
    use common::fixture::{golden, golden_fallback, render};
    use common::read::layout::Contents::Element;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<Diskio>(&common::process::cli::NoFlags {}, |maps| {
            let read = [("disk", "nvme0n1".into()), ("op", 0.into())];
            // 1.5 us, 2 us (a bound: inside le="2") and more than 2^24 us.
            maps.set(
                "rq_stats",
                &read,
                &[
                    ("latency.slots", Element(5, 1)),
                    ("latency.slots", Element(8, 1)),
                    ("latency.slots", Element(193, 1)),
                    ("latency.sum", 20_000_003_500.into()),
                    ("queue.slots", Element(0, 3)),
                    ("queue.sum", 3.into()),
                    ("service.slots", Element(192, 3)),
                    ("service.sum", 20_000_003_497.into()),
                    ("bytes", 12_288.into()),
                    ("errors", 1.into()),
                ],
            )?;
            // All zero, an unknown operation, and a name that must be escaped.
            maps.set("rq_stats", &[("disk", "sda".into()), ("op", 1.into())], &[])?;
            maps.set("rq_stats", &[("disk", "sda".into()), ("op", 77.into())], &[("errors", 2.into())])?;
            maps.set("bio_stats", &[("disk", "a\"b\\c".into()), ("op", 2.into())], &[("bytes", 1.into())])?;
            // Two reads in flight; an entry that only waits, and one that is no longer in use.
            let read = [("key.disk", "nvme0n1".into()), ("issued", 7.into())];
            maps.set("start", &[("", 1.into())], &read)?;
            maps.set("start", &[("", 2.into())], &read)?;
            maps.set("start", &[("", 3.into())], &[("first", 7.into())])?;
            maps.set("bio_start", &[("", 1.into())], &[("key.disk", "dm-0".into())])?;
            // Folded in one map and idle in the other.
            maps.set("rq_stats", &[("disk", FOLDED.into()), ("op", 0.into())], &[])?;
            maps.set("bio_stats", &[("disk", FOLDED.into()), ("op", 0.into())], &[("bytes", 512.into())])?;
            Ok(())
        });
        let root = Disk {
            name: "dm-0".into(),
            number: "254:0".into(),
            dm_name: "root".into(),
            size: 8,
            ..Disk::default()
        };
        let mut families = Families::default();
        info::describe(std::slice::from_ref(&root), "block tracepoints", &mut families);
        let text = text.expect("rendered") + &encode(families, Format::Text);
        golden::<Diskio>(env!("CARGO_MANIFEST_DIR"), &text).expect("as the golden file");
        let mut families = Families::default();
        info::describe(std::slice::from_ref(&root), "/sys/block", &mut families);
        moved(&root, Some([4096, 512, 0]), &mut families);
        golden_fallback::<Diskio>(env!("CARGO_MANIFEST_DIR"), families).expect("as the golden file");
    }
}
