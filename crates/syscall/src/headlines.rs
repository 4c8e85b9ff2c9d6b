// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// Those of calls, and those of what flags add.
pub fn headlines(latency: bool, errors: bool) -> Vec<Headline> {
    let mut headlines = vec![
        Headline::rate("{value} calls/s", "ebpf_syscalls_total").or("no calls"),
        Headline::rate("top: {syscall} {value}/s", "ebpf_syscalls_total"),
    ];
    if latency {
        headlines.push(
            Headline::quantile("p99 {value} in {syscall}", 0.99, "ebpf_syscall_latency_microseconds")
                .or("none returned"),
        );
    }
    if errors {
        headlines.push(
            Headline::rate("{value} {errno}/s in {syscall}", "ebpf_syscall_errors_total").or("no errors"),
        );
    }
    headlines
}
