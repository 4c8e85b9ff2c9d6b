// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::rate("{value} queries/s", "ebpf_dns_queries_total").or("no queries"),
        Headline::quantile("answer p99 {value}", 0.99, "ebpf_dns_latency_microseconds").or("no answers"),
        Headline::rate("{value} {reason}/s", "ebpf_dns_failures_total").or("no failures"),
    ]
}
