// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::rate("{value} major faults/s", "ebpf_page_faults_major_total").or("no major faults"),
        Headline::rate("{value} minor faults/s", "ebpf_page_faults_minor_total").or("no minor faults"),
        Headline::rate("{value} allocations/s", "ebpf_page_allocations_total").or("no allocations"),
        Headline::quantile("reclaim p99 {value}", 0.99, "ebpf_direct_reclaim_seconds")
            .or("no direct reclaim"),
        Headline::rate("{value} OOM kills/s", "ebpf_oom_kills_total").or("no OOM kills"),
    ]
}
