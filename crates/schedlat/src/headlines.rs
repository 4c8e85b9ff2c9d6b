// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// Those over all tasks, and those of cgroups if these are told apart.
pub fn headlines(cgroup: bool) -> Vec<Headline> {
    let mut headlines = vec![
        Headline::quantile("p99 wait {value}", 0.99, "ebpf_sched_runqueue_latency_microseconds")
            .or("no waits"),
        Headline::quantile("p50 wait {value}", 0.5, "ebpf_sched_runqueue_latency_microseconds"),
        Headline::rate("{value} waits/s", "ebpf_sched_runqueue_latency_microseconds_count"),
    ];
    if cgroup {
        headlines.push(
            Headline::quantile(
                "p99 wait {value} in {cgroup}",
                0.99,
                "ebpf_sched_cgroup_runqueue_latency_microseconds",
            )
            .or("no waits in groups"),
        );
    }
    headlines
}
