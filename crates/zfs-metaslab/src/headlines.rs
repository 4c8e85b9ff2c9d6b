// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::quantile("p99 {value} on {pool}", 0.99, "ebpf_zfs_metaslab_alloc_microseconds")
            .or("no allocations"),
        Headline::rate("{value} failures/s on {pool}", "ebpf_zfs_metaslab_alloc_failure_total")
            .only("class", "normal")
            .or("no failures"),
        Headline::share(
            "{pool} {value} full",
            "ebpf_zfs_pool_allocated_bytes",
            &["ebpf_zfs_pool_allocated_bytes", "ebpf_zfs_pool_free_bytes"],
        )
        .or("fill not known"),
    ]
}
