// SPDX-License-Identifier: MIT OR Apache-2.0
//! What ZFS itself tells of the ARC: `/proc/spl/kstat/zfs/arcstats`.

use std::collections::BTreeMap;

use common::exposition::metric::{Families, Labels, Value};

type Arcstats = BTreeMap<String, String>;

/// Name and help of what the programs count and arcstats does too.
pub type Family = (&'static str, &'static str);

pub const HITS: Family = ("ebpf_zfs_arc_hits_total", "Look-ups of blocks that were in the ARC.");
pub const MISSES: Family =
    ("ebpf_zfs_arc_misses_total", "Look-ups of blocks that had to be read, from the L2ARC or the pool.");
pub const ASYNC_READS: Family =
    ("ebpf_zfs_arc_async_reads_total", "Look-ups for prefetch, which nobody waits for.");
pub const L2_HITS: Family = ("ebpf_zfs_l2arc_hits_total", "Misses of the ARC that the L2ARC had.");
pub const L2_MISSES: Family = ("ebpf_zfs_l2arc_misses_total", "Misses of the ARC that the L2ARC had not.");
pub const LOOKUPS: Family = (
    "ebpf_zfs_arc_lookups_total",
    "Look-ups by result, who asked, and what for. iohit: the block was being read already, which \
                 ZFS counts from 2.2 on.",
);
pub const EVICTED_BYTES: Family =
    ("ebpf_zfs_arc_evicted_bytes_total", "Uncompressed size of blocks taken out of the ARC to make room.");

/// Metric, value of arcstats, help.
const GAUGES: &[(&str, &str, &str)] = &[
    ("ebpf_zfs_arc_size_bytes", "size", "Size of the ARC."),
    ("ebpf_zfs_arc_target_bytes", "c", "Size that the ARC aims at."),
    ("ebpf_zfs_arc_min_bytes", "c_min", "Least size that the ARC aims at."),
    ("ebpf_zfs_arc_max_bytes", "c_max", "Greatest size that the ARC aims at."),
    ("ebpf_zfs_arc_metadata_bytes", "arc_meta_used", "Metadata in the ARC."),
];

fn number(arcstats: &Arcstats, name: &str) -> Option<u64> {
    arcstats.get(name)?.parse().ok()
}

/// Counters that mean the same as what the programs count, since the module was loaded.
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
            // iohits: from 2.2 on.
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
