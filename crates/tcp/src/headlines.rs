// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::gauge("{value} connections", "ebpf_tcp_active_connections").or("connections not known"),
        Headline::rate("{value} opened/s", "ebpf_tcp_connections_total").or("none opened"),
        Headline::rate("{value} retransmits/s", "ebpf_tcp_retransmits_total").or("no retransmits"),
        Headline::quantile("RTT p99 {value}", 0.99, "ebpf_tcp_rtt_microseconds").or("none closed"),
    ]
}
