// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::gauge("{value} programs attached", "ebpf_exporter_ebpf_program_attached")
            .or("programs not told"),
        Headline::rate("{value} events lost/s: {config}", "ebpf_exporter_lost_events_total").or("none lost"),
    ]
}
