// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::ratio(
            "hit ratio {value}",
            "ebpf_page_cache_hits_total",
            &["ebpf_page_cache_hits_total", "ebpf_page_cache_misses_total"],
        )
        .or("no look-ups"),
        Headline::rate("{value} misses/s", "ebpf_page_cache_misses_total").or("no misses"),
        Headline::rate("{value} pages dirtied/s", "ebpf_page_cache_dirties_total").or("none dirtied"),
    ]
}
