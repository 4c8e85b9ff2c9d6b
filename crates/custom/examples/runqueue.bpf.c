// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* How long do the threads of each container wait for a CPU? runqueue.yaml makes metrics of it. */

/* Types of the kernel. Every program needs this file first. */
#include "vmlinux.h"
/* SEC, __uint, __type, and the functions that the kernel has for programs. */
#include <bpf/bpf_helpers.h>
/* BPF_CORE_READ: reads members wherever this kernel has them. */
#include <bpf/bpf_core_read.h>
/* BPF_PROG: gives names to a tracepoint's arguments. */
#include <bpf/bpf_tracing.h>
/* Histograms in maps. */
#include "maps.bpf.h"

/* The last bucket ends at 2^26 us, 67 s. The config has the same number. */
#define RUNQUEUE_BUCKETS 26

/* The key of the histogram. The config lists its members in this order, with their sizes. */
struct runqueue_key {
	u64 cgroup;
	u64 bucket;
};

/* When a thread began to wait, by its number. More threads than this do not wait at once. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, u32);
	__type(value, u64);
} runqueue_start SEC(".maps");

/* The histogram: the map has the metric's name, and its values are u64. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct runqueue_key);
	__type(value, u64);
} runqueue_wait_seconds SEC(".maps");

/* A thread begins to wait now. The idle threads have the number 0 and never wait. */
static __always_inline int runqueue_begin(u32 pid)
{
	u64 now = bpf_ktime_get_ns();

	if (pid)
		bpf_map_update_elem(&runqueue_start, &pid, &now, BPF_ANY);
	return 0;
}

/* A sleeping thread is woken, and waits. */
SEC("tp_btf/sched_wakeup")
int BPF_PROG(runqueue_wakeup, struct task_struct *p)
{
	return runqueue_begin(p->pid);
}

/* A new thread waits as well. */
SEC("tp_btf/sched_wakeup_new")
int BPF_PROG(runqueue_wakeup_new, struct task_struct *p)
{
	return runqueue_begin(p->pid);
}

/* A CPU goes from the thread `prev` to `next`. */
SEC("tp_btf/sched_switch")
int BPF_PROG(runqueue_switch, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	/* All bytes of a key count, so none may be left to chance. */
	struct runqueue_key key = {};
	u32 pid = next->pid;
	u64 *start, wait;

	/* The kernel took the CPU away from a thread that could go on: it waits again. One that
	 * gives it up by sched_yield(2) is not counted.
	 */
	if (preempt)
		runqueue_begin(prev->pid);
	start = bpf_map_lookup_elem(&runqueue_start, &pid);
	/* It began to wait before this program ran. */
	if (!start)
		return 0;
	wait = (bpf_ktime_get_ns() - *start) / 1000;
	bpf_map_delete_elem(&runqueue_start, &pid);
	/* The number of the cgroup: of a container all processes are in one, or in some below it.
	 */
	key.cgroup = BPF_CORE_READ(next, cgroups, dfl_cgrp, kn, id);
	/* Sets key.bucket, adds 1 to it, and the wait to the bucket after the last: that is the
	 * sum. */
	increment_exp2_histogram(&runqueue_wait_seconds, key, wait, RUNQUEUE_BUCKETS);
	return 0;
}

/* The kernel has functions that only programs with such a licence may call. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
