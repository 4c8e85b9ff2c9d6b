// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long do runnable tasks wait for a CPU?
 *
 * Hooks: sched_switch, and for --schedlat.cgroup also cgroup_mkdir and cgroup_rmdir, as tp_btf or
 * raw_tp. The scheduler itself records when a task was queued and how long it waited (sched_info),
 * for wakeups and preemptions alike. The program reads this when the task gets its CPU.
 * Cost: a few loads from the task, an array lookup and an increment for each switch.
 * Counted once: a wait during which the task moved to another CPU. The scheduler adds up its parts;
 * the stored total (known_ns) separates them from earlier waits.
 * Not seen: of a thread's first wait after attaching, the part before a move to another CPU; the
 * idle task. If more threads share a set of task_slots.bpf.h than it has room for, the part of any
 * wait before a move is left out.
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
 * Not preallocated: a value is 1.6 kB per CPU, and few of the possible keys are used. Entries are
 * created with the cgroup, never at a switch: an allocation may wake kswapd, which takes the run
 * queue lock that a switch holds. They are deleted with the cgroup. Key 0 is for cgroups that found
 * no room.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, u64); /* cgroup id */
	__type(value, struct schedlat_waits);
} cgroups SEC(".maps");

const struct schedlat_waits zero_waits = {};

/*
 * The total wait of a thread when it last got a CPU. The owner is the task_struct, because a thread
 * that execs takes over the id of the first thread of its process. Never busy.
 */
struct schedlat_task {
	struct task_slot slot;
	u64 known_ns; /* the total plus one; 0: not known */
};
TASK_SLOTS(tasks, struct schedlat_task);

/*
 * The time that `next` waited since it last ran. `last_queued` is the start of its current wait by
 * the run queue's clock. The kernel adds that wait to run_delay right after this hook
 * (sched_info_switch), and added the parts before each move earlier (sched_info_dequeue).
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
		waited = before + last; /* its first run: all of its wait */
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

/* Hierarchies of version 1 each have their own ids, which repeat. */
static __always_inline bool is_of_version_1(struct cgroup *cgroup, bool btf)
{
	return FIELD(btf, cgroup, root, hierarchy_id);
}

/* If there is no room, the waits of the cgroup's tasks are folded. */
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

	/* 0 for the idle task, and for a task that never left its run queue: no wait. */
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
