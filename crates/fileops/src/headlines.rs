// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::rate("top: {process} {value} ops/s", "ebpf_file_ops_total").or("no operations"),
        Headline::quantile("read p99 {value}", 0.99, "ebpf_file_read_latency_microseconds").or("no reads"),
        Headline::quantile("write p99 {value}", 0.99, "ebpf_file_write_latency_microseconds").or("no writes"),
        Headline::rate("{process} reads {value}", "ebpf_file_read_bytes_total").or("nothing is read"),
        Headline::rate("{process} writes {value}", "ebpf_file_write_bytes_total").or("nothing is written"),
    ]
}
