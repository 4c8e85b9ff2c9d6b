// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::quantile("read p99 {value} on {pool}", 0.99, "ebpf_zfs_zio_read_latency_microseconds")
            .or("no reads"),
        Headline::quantile("write p99 {value} on {pool}", 0.99, "ebpf_zfs_zio_write_latency_microseconds")
            .or("no writes"),
        Headline::quantile("device p99 {value} on {vdev}", 0.99, "ebpf_zfs_zio_device_latency_seconds")
            .or("devices idle"),
        Headline::gauge("{pool} scrubbed {value}", "ebpf_zfs_scrub_progress_percent").or("no scrub"),
        Headline::rate("{value} errors/s on {pool}", "ebpf_zfs_zio_errors_total").or("no errors"),
    ]
}
