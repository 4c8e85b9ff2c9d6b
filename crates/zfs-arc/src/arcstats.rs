// SPDX-License-Identifier: MIT OR Apache-2.0
//! ZFS's own counters of the ARC: `/proc/spl/kstat/zfs/arcstats`.

use std::collections::BTreeMap;

use common::exposition::metric::{Families, Labels, Value};

type Arcstats = BTreeMap<String, String>;

/// Name and help of a metric that both the programs and arcstats count.
pub type Family = (&'static str, &'static str);

pub const HITS: Family = (
    "ebpf_zfs_arc_hits_total",
    "ARC lookups that found the block in the ARC (hits of \
                                                      arcstats).",
);
pub const MISSES: Family = (
    "ebpf_zfs_arc_misses_total",
    "ARC lookups that had to read the block, from the L2ARC or from the pool \
                                   (misses of arcstats).",
);
pub const ASYNC_READS: Family = (
    "ebpf_zfs_arc_async_reads_total",
    "ARC lookups for prefetch, those of ebpf_zfs_arc_lookups_total with class=\"prefetch\". No reader waits for \
     them.",
);
pub const L2_HITS: Family = (
    "ebpf_zfs_l2arc_hits_total",
    "ARC misses that found the block in the L2ARC \
                                                           (l2_hits of arcstats).",
);
pub const L2_MISSES: Family = (
    "ebpf_zfs_l2arc_misses_total",
    "ARC misses that did not find the block in \
                                                               the L2ARC (l2_misses of arcstats).",
);
pub const LOOKUPS: Family = (
    "ebpf_zfs_arc_lookups_total",
    "ARC lookups by result, class (demand or prefetch) and content (data or metadata). result=\"iohit\": \
     the block was already being read; ZFS counts these from 2.2 on.",
);
pub const EVICTED_BYTES: Family =
    ("ebpf_zfs_arc_evicted_bytes_total", "Uncompressed bytes of blocks evicted from the ARC to make room.");

/// Name of a metric, name of the value in arcstats, help.
const GAUGES: &[(&str, &str, &str)] = &[
    ("ebpf_zfs_arc_size_bytes", "size", "Current size of the ARC (size of arcstats)."),
    ("ebpf_zfs_arc_target_bytes", "c", "Target size of the ARC (c of arcstats)."),
    ("ebpf_zfs_arc_min_bytes", "c_min", "Minimum target size of the ARC (c_min of arcstats)."),
    ("ebpf_zfs_arc_max_bytes", "c_max", "Maximum target size of the ARC (c_max of arcstats)."),
    (
        "ebpf_zfs_arc_metadata_bytes",
        "arc_meta_used",
        "Bytes of metadata in the ARC (arc_meta_used of \
                                                      arcstats).",
    ),
];

fn number(arcstats: &Arcstats, name: &str) -> Option<u64> {
    arcstats.get(name)?.parse().ok()
}

/// Adds the counters that the programs also have, counted since the module was loaded.
pub fn counters(arcstats: &Arcstats, families: &mut Families) {
    let mut counter = |(name, help): Family, labels, value| {
        families.counter(name, help, labels, Value::Integer(value));
    };
    for (of, name) in [(HITS, "hits"), (MISSES, "misses"), (L2_HITS, "l2_hits"), (L2_MISSES, "l2_misses")] {
        if let Some(value) = number(arcstats, name) {
            counter(of, Labels::none(), value);
        }
    }
    let mut prefetched = 0;
    for class in ["demand", "prefetch"] {
        for content in ["data", "metadata"] {
            // ZFS has iohits from 2.2 on.
            for (result, name) in [("hit", "hits"), ("iohit", "iohits"), ("miss", "misses")] {
                let Some(value) = number(arcstats, &format!("{class}_{content}_{name}")) else { continue };
                prefetched += if class == "prefetch" { value } else { 0 };
                let labels = Labels::of(&[("result", result), ("class", class), ("content", content)]);
                counter(LOOKUPS, labels, value);
            }
        }
    }
    counter(ASYNC_READS, Labels::none(), prefetched);
    let evicted = ["evict_l2_cached", "evict_l2_eligible", "evict_l2_ineligible"];
    if let Some(bytes) = evicted.iter().map(|name| number(arcstats, name)).sum() {
        counter(EVICTED_BYTES, Labels::none(), bytes);
    }
}

pub fn gauges(arcstats: &Arcstats, families: &mut Families) {
    for (name, value, help) in GAUGES {
        if let Some(Ok(value)) = arcstats.get(*value).map(|value| value.parse()) {
            families.gauge(name, help, Labels::none(), Value::Integer(value));
        }
    }
}
