/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TASK_ACCOUNTS_BPF_H
#define __TASK_ACCOUNTS_BPF_H

/*
 * Numbers that the kernel keeps for each thread, turned into counters of something that
 * outlives it, such as its name: at a walk over all tasks and at each exit what grew since
 * the last time is added. So nothing runs in between, and what lived shorter than a scrape
 * is not lost.
 *
 * The includer defines TASK_ACCOUNT_VALUES, how many numbers there are, and takes
 * linux/sched.h's PF_EXITING from here: an iterator has to leave out threads that exit,
 * which account for themselves.
 */
#include "events.bpf.h"

#define PF_EXITING 0x00000004

/* Set by userland: CLOCK_MONOTONIC when loading. What an older thread did before is not known. */
const volatile u64 task_accounts_loaded_ns = 0;

struct task_account {
	u64 started; /* memory is used again, by a thread that starts later */
	u64 values[TASK_ACCOUNT_VALUES];
};

/*
 * By task_struct: a thread that starts another program in its process takes over the id and the
 * start time of the process's first thread. Not preallocated, as few machines have so many threads.
 * Removed at the thread's exit.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, u64);
	__type(value, struct task_account);
} accounts SEC(".maps");

/*
 * Turns the values in `now` into what they grew by since the last time. False when that is
 * not known; then nothing is to be added.
 */
static __always_inline bool account_growth(struct task_struct *task, struct task_account *now,
					   bool exits, bool btf)
{
	u64 key = (u64)task, value;
	struct task_account *old = bpf_map_lookup_elem(&accounts, &key);
	bool known = true;
	u32 i;

	now->started = FIELD(btf, task, start_time);
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

#endif /* __TASK_ACCOUNTS_BPF_H */
