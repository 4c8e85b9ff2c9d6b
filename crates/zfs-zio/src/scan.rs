// SPDX-License-Identifier: MIT OR Apache-2.0
//! Scrubs and resilvers.

use anyhow::{Context, Result};
use common::exposition::metric::{Families, Labels, Value};
use common::read::decode::{FOLDED, shown};
use common::read::layout::{Layouts, number};
use common::read::maps::MapSource;
use common::spec::MapSpec;
use zfs::names;

/// `enum pool_scan_func` and `enum dsl_scan_state`, the same from 2.0 to 2.4.
const FUNCTIONS: &[(u64, &Names)] = &[(1, &SCRUB), (2, &RESILVER)];
const SCANNING: u64 = 1;

/// The program's value for an unknown number.
const UNKNOWN: u64 = u64::MAX;

struct Names {
    scan: &'static str,
    active: &'static str,
    progress: &'static str,
    examined: &'static str,
    issued: &'static str,
}

const SCRUB: Names = Names {
    scan: "scrub",
    active: "ebpf_zfs_scrub_active",
    progress: "ebpf_zfs_scrub_progress_percent",
    examined: "ebpf_zfs_scrub_examined_bytes",
    issued: "ebpf_zfs_scrub_issued_bytes",
};

const RESILVER: Names = Names {
    scan: "resilver",
    active: "ebpf_zfs_resilver_active",
    progress: "ebpf_zfs_resilver_progress_percent",
    examined: "ebpf_zfs_resilver_examined_bytes",
    issued: "ebpf_zfs_resilver_issued_bytes",
};

/// Adds the counters of blocks. `scan` is scrub or resilver.
pub fn counters(map: MapSpec, scan: &'static str) -> MapSpec {
    match scan {
        "scrub" => {
            map.counter("ebpf_zfs_scrub_ios_total", "scrub.ios", "Blocks that the scrub read.").counter(
                "ebpf_zfs_scrub_errors_total",
                "scrub.errors",
                "Blocks that the scrub could not read from any copy (\"with N errors\" of zpool status).",
            )
        }
        _ => map
            .counter("ebpf_zfs_resilver_ios_total", "resilver.ios", "Blocks that the resilver read.")
            .counter(
                "ebpf_zfs_resilver_errors_total",
                "resilver.errors",
                "Blocks that the resilver could not read from any copy (\"with N errors\" of zpool status).",
            ),
    }
}

/// Progress of the scans of all pools.
///
/// # Errors
/// When the map cannot be read.
pub fn progress(layouts: &Layouts, maps: &dyn MapSource, families: &mut Families) -> Result<()> {
    let layout = layouts.get("progress").context("no map of scans")?;
    let pool = layout.key.field("pool")?;
    let mut fields = Vec::new();
    for member in ["func", "state", "to_examine", "examined", "issued", "skipped"] {
        fields.push(layout.value.field(member)?);
    }
    maps.for_each("progress", &mut |key, value| {
        let numbers: Vec<u64> = fields.iter().map(|field| number(field.bytes(value))).collect();
        let [function, state, to_examine, examined, issued, skipped] = numbers[..] else { return };
        let pool = names::text(pool.bytes(key));
        if pool == FOLDED {
            return;
        }
        for (of, names) in FUNCTIONS {
            let labels = || Labels::of(&[("pool", &*shown(&pool))]);
            let active = *of == function && state == SCANNING;
            families.gauge(
                names.active,
                &format!("1 while a {} runs or is paused, else 0.", names.scan),
                labels(),
                Value::Integer(active.into()),
            );
            if *of != function {
                continue;
            }
            families.gauge(
                names.examined,
                &format!(
                    "Bytes that the {} has examined. Updated when a transaction group is synced.",
                    names.scan
                ),
                labels(),
                Value::Integer(examined),
            );
            if issued == UNKNOWN {
                continue;
            }
            families.gauge(
                names.issued,
                &format!(
                    "Bytes that the {} has read. Updated when a transaction group is synced.",
                    names.scan
                ),
                labels(),
                Value::Integer(issued),
            );
            let total = to_examine.saturating_sub(skipped);
            if total > 0 {
                families.gauge(
                    names.progress,
                    &format!("Percentage of its bytes that the {} has read, as in zpool status.", names.scan),
                    labels(),
                    Value::Float((100.0 * issued as f64 / total as f64).min(100.0)),
                );
            }
        }
    })
}
