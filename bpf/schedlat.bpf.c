// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long do runnable tasks wait for a CPU?
 *
 * Hooks: sched_switch, and for --schedlat.cgroup cgroup_mkdir and cgroup_rmdir, as tp_btf and as
 * raw_tp.
 * The scheduler itself stamps when a task was queued and adds up what it waited
 * (sched_info), for wake-ups and preemptions alike; the stamps are read when the task
 * gets its CPU.
 * Cost: a few loads from the task, an array look-up and an increment for each switch.
 * Counted once: a wait during which the task was moved to another CPU, whose parts the
 * scheduler adds up; the carry below tells them from waits before.
 * Not seen: a wait of before attaching; the idle task's. Of threads that share a set of
 * task_slots.bpf.h with more than it has room for, the part before a move is left out.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "core_fixes.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "task_slots.bpf.h"

/* Set by userland from flags. */
const volatile bool schedlat_cgroup = false;

struct schedlat_waits {
	struct hist latency; /* us */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct schedlat_waits);
} waits SEC(".maps");

/*
 * Not preallocated: a value is 1.6 kB per CPU, and few of the possible keys are used.
 * Entries are made when a group is, never at a switch: allocating may wake up kswapd, and
 * that takes the run queue's lock, which a switch holds. They go with their group. Group 0 is
 * what finds no room.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, u64); /* id of the control group */
	__type(value, struct schedlat_waits);
} cgroups SEC(".maps");

const struct schedlat_waits zero_waits = {};

/*
 * What a thread had waited in its life when it last got a CPU. Its owner is the task_struct:
 * a thread that executes a program takes over the id of its process's first thread. Never
 * busy.
 */
struct schedlat_task {
	struct task_slot slot;
	u64 known_ns; /* one more than that; 0: not known */
};
TASK_SLOTS(tasks, struct schedlat_task);

/*
 * What `next` has waited since it last ran. `last_queued` is its present wait's begin by
 * the run queue's clock; the kernel adds that wait to run_delay right after this hook
 * (sched_info_switch), and did so with the parts before each move (sched_info_dequeue).
 */
static __always_inline u64 waited_ns(struct task_struct *next, u64 queued, bool btf)
{
	u64 now = FIELD(btf, next, se.cfs_rq, rq, clock);
	u64 before = FIELD(btf, next, sched_info.run_delay);
	u32 tid = FIELD(btf, next, pid);
	struct schedlat_task *task = tasks_take(tid, (u64)next);
	u64 last = elapsed_ns(queued, now), waited = last;

	if (!task)
		return last;
	if (!FIELD(btf, next, sched_info.pcount))
		waited = before + last; /* its first time: all it ever waited */
	else if (task->known_ns)
		waited = elapsed_ns(task->known_ns - 1, before + last);
	task->known_ns = before + last + 1;
	return waited;
}

static __always_inline void observe_cgroup(struct task_struct *next, u64 ns, bool btf)
{
	u64 id = FIELD(btf, next, cgroups, dfl_cgrp, kn, id), other = 0;
	struct schedlat_waits *w = bpf_map_lookup_elem(&cgroups, &id);

	if (!w) {
		w = bpf_map_lookup_elem(&cgroups, &other);
		count_event(w ? EVENT_FOLDED : EVENT_MAP_FULL);
	}
	if (w)
		hist_observe_us(&w->latency, ns);
}

/* Trees of version 1 have ids of their own, each the same ones. */
static __always_inline bool is_of_version_1(struct cgroup *cgroup, bool btf)
{
	return FIELD(btf, cgroup, root, hierarchy_id);
}

/* No room: its tasks' waits are counted as folded, one by one. */
static __always_inline int on_mkdir(struct cgroup *cgroup, bool btf)
{
	u64 id = FIELD(btf, cgroup, kn, id);

	if (!is_of_version_1(cgroup, btf))
		bpf_map_update_elem(&cgroups, &id, &zero_waits, BPF_NOEXIST);
	return 0;
}

static __always_inline int on_rmdir(struct cgroup *cgroup, bool btf)
{
	u64 id = FIELD(btf, cgroup, kn, id);

	if (!is_of_version_1(cgroup, btf))
		bpf_map_delete_elem(&cgroups, &id);
	return 0;
}

static __always_inline int on_switch(struct task_struct *next, bool btf)
{
	struct schedlat_waits *w;
	u32 zero = 0;
	u64 queued, ns;

	/* 0 for the idle task, and for one that never left its CPU's queue: no wait. */
	queued = FIELD(btf, next, sched_info.last_queued);
	if (!queued || !FIELD(btf, next, pid))
		return 0;
	ns = waited_ns(next, queued, btf);
	w = bpf_map_lookup_elem(&waits, &zero);
	if (w)
		hist_observe_us(&w->latency, ns);
	if (schedlat_cgroup)
		observe_cgroup(next, ns, btf);
	return 0;
}

/* (preempt, prev, next) begin the arguments in every kernel. */
SEC("tp_btf/sched_switch")
int switch_btf(u64 *ctx)
{
	return on_switch((struct task_struct *)ctx[2], true);
}

SEC("raw_tp/sched_switch")
int switch_raw(u64 *ctx)
{
	return on_switch((struct task_struct *)ctx[2], false);
}

/* (cgroup, path) in every kernel. */
SEC("tp_btf/cgroup_mkdir")
int mkdir_btf(u64 *ctx)
{
	return on_mkdir((struct cgroup *)ctx[0], true);
}

SEC("raw_tp/cgroup_mkdir")
int mkdir_raw(u64 *ctx)
{
	return on_mkdir((struct cgroup *)ctx[0], false);
}

SEC("tp_btf/cgroup_rmdir")
int rmdir_btf(u64 *ctx)
{
	return on_rmdir((struct cgroup *)ctx[0], true);
}

SEC("raw_tp/cgroup_rmdir")
int rmdir_raw(u64 *ctx)
{
	return on_rmdir((struct cgroup *)ctx[0], false);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
