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
 * A thread may exit while the walk is at it: both would add the same. So the walk says at which
 * thread it is, and an exit that finds it there leaves its numbers to it.
 *
 * The walk:  V task = T    F is T exiting?    [changes its entry]    C task = 0    L left[T]?
 * The exit:  E T exits     R is task T?       P left[T] = numbers    R again       [or settles]
 *
 * - R before V: E was before, so F sees it, and the walk changes nothing.
 * - R between V and C: the exit puts its numbers down (P). Where R again is before C too, L is
 *   after P and finds them: the walk settles. Else both may take them back, and whose delete
 *   succeeds settles.
 * - R after C: the exit finds the entry as the walk has left it.
 *
 * So one of them settles, and nobody changes the entry meanwhile; none is made after the exit. V, C
 * and P have to be seen before the next load happens: each is followed by an atomic add, which on
 * x86 is a full barrier. Elsewhere a CPU may take nanoseconds, and E is microseconds before R.
 *
 * One walk runs at a time. The entry of a thread whose exit the kernel did not run a program for
 * (reason recursion) is used again by the next thread that gets its memory.
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

/* What exits have put down. One thread at a time is visited: few more than one are in here. */
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
			known = false; /* would be added again each time */
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

/* Adds to `now` what an exit has left to the walk; whether there was anything. */
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

/* Threads that exit account for themselves. */
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
