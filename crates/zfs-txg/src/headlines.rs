// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::quantile("sync p99 {value} on {pool}", 0.99, "ebpf_zfs_txg_sync_microseconds")
            .or("no syncs"),
        Headline::gauge("last {value} on {pool}", "ebpf_zfs_txg_last_sync_microseconds").or("none synced"),
        Headline::gauge("{pool} dirty {value}", "ebpf_zfs_txg_dirty_bytes").or("dirty data not known"),
        Headline::rate("{value} delays/s on {pool}", "ebpf_zfs_dmu_tx_delays_total").or("no delays"),
    ]
}
