// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::rate("top: {process} {value} CPUs", "ebpf_process_cpu_seconds_total").or("all idle"),
        Headline::gauge("largest: {process} {value}", "ebpf_process_memory_bytes").or("memory not known"),
        Headline::rate("{value} execs/s", "ebpf_process_execs_total").or("no execs"),
        Headline::rate("{value} failed execs/s: {errno}", "ebpf_process_exec_failures_total")
            .or("no failed execs"),
    ]
}
