/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TASK_SLOTS_BPF_H
#define __TASK_SLOTS_BPF_H

/*
 * What a task has begun and not ended, in an array indexed by thread id. Nothing is
 * inserted or deleted (a hash takes 240 ns for that), nothing leaks when a task never
 * comes back, and it works where there is no task storage (before 5.11). Two threads
 * whose ids are a multiple of TASK_SLOTS apart share a slot: the earlier one's record
 * is overwritten, which its end notices by the id, and counts as no_start.
 *
 * A program declares its own array of a struct that begins with `u32 tid`:
 *
 *	struct NAME_task { u32 tid; ... };
 *	TASK_SLOTS(tasks, struct NAME_task);
 */
#define TASK_SLOTS_COUNT 65536

#define TASK_SLOTS(name, record)                       \
	struct {                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);      \
		__uint(max_entries, TASK_SLOTS_COUNT); \
		__type(key, u32);                      \
		__type(value, record);                 \
	} name SEC(".maps")

/* The slot of thread `tid`, whoever's record is in it. */
static __always_inline void *task_slot(void *map, u32 tid)
{
	u32 index = tid % TASK_SLOTS_COUNT;

	return bpf_map_lookup_elem(map, &index);
}

static __always_inline u32 current_tid(void)
{
	return (u32)bpf_get_current_pid_tgid();
}

#endif /* __TASK_SLOTS_BPF_H */
