// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::quantile("read p99 {value} on {device}", 0.99, "ebpf_disk_io_latency_microseconds")
            .only("operation", "read")
            .or("no reads")
            .alias("device", "ebpf_disk_device_info", "dm_name"),
        Headline::quantile("write p99 {value} on {device}", 0.99, "ebpf_disk_io_latency_microseconds")
            .only("operation", "write")
            .or("no writes")
            .alias("device", "ebpf_disk_device_info", "dm_name"),
        Headline::rate("{device} moves {value}", "ebpf_disk_io_bytes_total").or("nothing is moved").alias(
            "device",
            "ebpf_disk_device_info",
            "dm_name",
        ),
        Headline::rate("{value} errors/s on {device}", "ebpf_disk_io_errors_total").or("no errors"),
    ]
}
