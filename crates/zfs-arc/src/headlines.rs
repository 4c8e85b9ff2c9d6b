// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::ratio(
            "hit ratio {value}",
            "ebpf_zfs_arc_hits_total",
            &["ebpf_zfs_arc_hits_total", "ebpf_zfs_arc_misses_total"],
        )
        .or("no look-ups"),
        Headline::gauge("size {value}", "ebpf_zfs_arc_size_bytes").or("size not known"),
        Headline::gauge("target {value}", "ebpf_zfs_arc_target_bytes").or("target not known"),
        Headline::quantile("miss p99 {value}", 0.99, "ebpf_zfs_arc_read_latency_seconds")
            .only("result", "miss")
            .or("no misses"),
    ]
}
