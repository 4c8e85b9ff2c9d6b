// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::rate("{dataset} reads {value}", "ebpf_zfs_dmu_bytes_total")
            .only("operation", "read")
            .or("no reads"),
        Headline::rate("{dataset} writes {value}", "ebpf_zfs_dmu_bytes_total")
            .only("operation", "write")
            .or("no writes"),
        Headline::rate("{value} operations/s", "ebpf_zfs_dmu_ops_total").or("no operations"),
    ]
}
