/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TASK_ACCOUNTS_BPF_H
#define __TASK_ACCOUNTS_BPF_H

/*
 * Turns the kernel's per-thread numbers into counters of something that outlives the thread, such
 * as its name. A walk over all tasks, and each exit, adds the growth since the last time. Nothing
 * runs in between, and threads that live shorter than a scrape interval are not lost.
 *
 * The includer defines TASK_ACCOUNT_VALUES, the count of numbers, and calls account_visit() for
 * each thread of the walk and account_exit() at each exit. Both replace numbers by their growth,
 * and return whether that is known. If not, add nothing.
 */
#include "events.bpf.h"

#define PF_EXITING 0x00000004 /* linux/sched.h */

/* Set by userland: CLOCK_MONOTONIC at load. What an older thread did before is not known. */
const volatile u64 task_accounts_loaded_ns = 0;

struct task_account {
	u64 started; /* memory is reused by a thread that starts later */
	u64 values[TASK_ACCOUNT_VALUES];
};

/*
 * By task_struct, not by thread id: a thread that execs takes over the id and start time of the
 * first thread of its process. Not preallocated, because few machines have this many threads.
 * Removed when the thread exits.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, u64);
	__type(value, struct task_account);
} accounts SEC(".maps");

/*
 * A thread may exit while the walk visits it, and both would add the same growth. So the walk
 * stores which thread it visits, and the exit of that thread leaves its numbers to the walk.
 *
 * The walk:  V task = T    F is T exiting?    [changes its entry]    C task = 0    L left[T]?
 * The exit:  E T exits     R is task T?       P left[T] = numbers    R again       [or settles]
 *
 * - R before V: E came before F, so the walk sees that T exits and changes nothing.
 * - R between V and C: the exit stores its numbers (P). If the second R is also before C, then L is
 *   after P: the walk finds the numbers and settles. Otherwise both may find them, and the one that
 *   succeeds in deleting them settles.
 * - R after C: the walk no longer uses the entry, and the exit settles.
 *
 * So exactly one of them settles. The other does not change the entry meanwhile, and the walk
 * creates none after the exit. V, C and P must be visible before the next load: an atomic add
 * follows each, which is a full barrier on x86. On other architectures a CPU may see a store
 * nanoseconds later, but E is microseconds before R.
 *
 * One walk runs at a time. If the kernel skipped the program at a thread's exit (reason recursion),
 * its entry is reused by the next thread with the same task_struct.
 */
struct task_accounts_walk {
	u64 task; /* 0: none */
	u64 barriers;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct task_accounts_walk);
} walk SEC(".maps");

static __always_inline void full_barrier(struct task_accounts_walk *at)
{
	__sync_fetch_and_add(&at->barriers, 1);
}

/* Numbers that exits left to the walk. It visits one thread at a time, so entries are few. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, u64);
	__type(value, struct task_account);
} left SEC(".maps");

/* Brings the entry up to date, or removes it when the thread exits. */
static __always_inline bool account_grow(u64 key, struct task_account *now, bool exits)
{
	struct task_account *old = bpf_map_lookup_elem(&accounts, &key);
	bool known = true;
	u64 value;
	u32 i;

	if (old && now->started <= old->started) {
#pragma unroll
		for (i = 0; i < TASK_ACCOUNT_VALUES; i++) {
			value = now->values[i];
			now->values[i] = value - old->values[i];
			old->values[i] = value;
		}
	} else {
		known = now->started >= task_accounts_loaded_ns;
		if (!exits && bpf_map_update_elem(&accounts, &key, now, BPF_ANY)) {
			count_event(EVENT_MAP_FULL);
			known = false; /* without an entry, it would be added again each time */
		}
	}
	if (exits)
		bpf_map_delete_elem(&accounts, &key);
	return known;
}

/* Whether an exit leaves its numbers to the walk. */
static __always_inline bool account_leave(struct task_accounts_walk *at, u64 key,
					  const struct task_account *now)
{
	volatile u64 *task = &at->task;

	if (*task != key)
		return false;
	if (bpf_map_update_elem(&left, &key, now, BPF_ANY)) {
		count_event(EVENT_MAP_FULL);
		return true;
	}
	full_barrier(at);
	return *task == key || bpf_map_delete_elem(&left, &key);
}

/* Add to `now` what an exit left to the walk; returns whether the growth is known. */
static __always_inline bool account_take(u64 key, struct task_account *now, bool known)
{
	struct task_account *numbers = bpf_map_lookup_elem(&left, &key), last;
	u32 i;

	if (!numbers)
		return known;
	last = *numbers;
	if (bpf_map_delete_elem(&left, &key) || !account_grow(key, &last, true))
		return known;
#pragma unroll
	for (i = 0; i < TASK_ACCOUNT_VALUES; i++)
		now->values[i] = last.values[i] + (known ? now->values[i] : 0);
	return true;
}

static __always_inline bool account_exit(struct task_struct *task, struct task_account *now,
					 bool btf)
{
	u32 zero = 0;
	struct task_accounts_walk *at = bpf_map_lookup_elem(&walk, &zero);
	u64 key = (u64)task;

	now->started = FIELD(btf, task, start_time);
	if (!at || account_leave(at, key, now))
		return false;
	return account_grow(key, now, true);
}

/* Skips threads that exit: account_exit() adds their growth. */
static __always_inline bool account_visit(struct task_struct *task, struct task_account *now)
{
	u32 zero = 0;
	struct task_accounts_walk *at = bpf_map_lookup_elem(&walk, &zero);
	volatile u32 *flags = (volatile u32 *)&task->flags;
	volatile u64 *visited;
	u64 key = (u64)task;
	bool known = false;

	if (!at || *flags & PF_EXITING)
		return false;
	now->started = task->start_time;
	visited = &at->task;
	*visited = key;
	full_barrier(at);
	if (!(*flags & PF_EXITING))
		known = account_grow(key, now, false);
	*visited = 0;
	full_barrier(at);
	return *flags & PF_EXITING ? account_take(key, now, known) : known;
}

#endif /* __TASK_ACCOUNTS_BPF_H */
