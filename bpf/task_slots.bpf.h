/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TASK_SLOTS_BPF_H
#define __TASK_SLOTS_BPF_H

/*
 * What a thread has begun and not ended, in an array indexed by thread id. Nothing is
 * inserted or deleted (a hash takes 240 ns for that), nothing leaks when a thread never
 * comes back, and it works where there is no task storage (before 5.11).
 *
 * The array is set-associative: threads whose ids are a multiple of TASK_SETS apart share
 * a set of TASK_WAYS records. A record that nothing is under way in is given to the next
 * thread that needs one. Only when more than TASK_WAYS threads of a set have something
 * under way at once does one of them lose its record: that loss is counted as no_start at
 * that moment. An end that finds no record is not counted again.
 *
 * A program declares its own array of a struct that begins with `struct task_slot`:
 *
 *	struct NAME_task { struct task_slot slot; ... };
 *	TASK_SLOTS(tasks, struct NAME_task);
 *
 * which defines tasks_find() and tasks_take(). `owner` is usually the thread id; a program
 * that knows a better identity of the thread passes that.
 */
#include "events.bpf.h"

#define TASK_SETS 16384
#define TASK_WAYS 4

struct task_slot {
	u64 owner; /* 0: nobody's yet */
	u64 busy;  /* when what is under way began; 0: nothing is */
};

static __always_inline struct task_slot *task_way(void *set, u32 size, u32 way)
{
	return set + way % TASK_WAYS * size;
}

/* The record of `owner` in a set; NULL: there is none. */
static __always_inline void *task_slot_of(void *set, u32 size, u32 first, u64 owner)
{
#pragma unroll
	for (u32 n = 0; n < TASK_WAYS; n++) {
		struct task_slot *slot = task_way(set, size, first + n);

		if (slot->owner == owner)
			return slot;
	}
	return NULL;
}

/* The record that `owner` is to have: its own, one that is free, or another's. */
static __always_inline void *task_slot_place(void *set, u32 size, u32 first, u64 owner)
{
	struct task_slot *slot = task_slot_of(set, size, first, owner);

	if (!slot)
		slot = task_slot_of(set, size, first, 0);
	if (slot)
		return slot;
#pragma unroll
	for (u32 n = 0; n < TASK_WAYS; n++) {
		slot = task_way(set, size, first + n);
		if (!slot->busy)
			return slot;
	}
	return task_way(set, size, first);
}

/* Begins something; what the same thread began before and did not end is lost. */
static __always_inline void task_slot_begin(struct task_slot *slot, u64 now)
{
	if (slot->busy)
		count_event(EVENT_NO_START);
	slot->busy = now;
}

/* Ends it and returns when it began; 0: nothing was under way. */
static __always_inline u64 task_slot_end(struct task_slot *slot)
{
	u64 began = slot->busy;

	slot->busy = 0;
	return began;
}

/* What is under way in a record that goes to another thread is lost. */
static __always_inline void task_slot_lose(void *task)
{
	struct task_slot *slot = task;

	if (slot->busy)
		count_event(EVENT_NO_START);
}

#define TASK_SLOTS(name, record) TASK_SLOTS_GIVEN_UP(name, record, task_slot_lose)

/* The same, with what is done to a record before it goes to another thread. */
#define TASK_SLOTS_GIVEN_UP(name, record, give_up)                                             \
	struct name##_set {                                                                    \
		u64 ways[TASK_WAYS * sizeof(record) / sizeof(u64)]; /* records */              \
	};                                                                                     \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                              \
		__uint(max_entries, TASK_SETS);                                                \
		__type(key, u32);                                                              \
		__type(value, struct name##_set);                                              \
	} name SEC(".maps");                                                                   \
                                                                                               \
	/* The record of `owner`; NULL: it has none. */                                        \
	static __always_inline __attribute__((unused)) record *name##_find(u32 tid, u64 owner) \
	{                                                                                      \
		u32 index = tid % TASK_SETS;                                                   \
		struct name##_set *set = bpf_map_lookup_elem(&name, &index);                   \
                                                                                               \
		return set ? task_slot_of(set, sizeof(record), tid / TASK_SETS, owner) : NULL; \
	}                                                                                      \
                                                                                               \
	/* The same, made of zeros where it has none. */                                       \
	static __always_inline __attribute__((unused)) record *name##_take(u32 tid, u64 owner) \
	{                                                                                      \
		u32 index = tid % TASK_SETS;                                                   \
		struct name##_set *set = bpf_map_lookup_elem(&name, &index);                   \
		record *task;                                                                  \
                                                                                               \
		if (!set)                                                                      \
			return NULL;                                                           \
		task = task_slot_place(set, sizeof(record), tid / TASK_SETS, owner);           \
		if (task->slot.owner != owner) {                                               \
			give_up(task);                                                         \
			__builtin_memset(task, 0, sizeof(record));                             \
			task->slot.owner = owner;                                              \
		}                                                                              \
		return task;                                                                   \
	}

static __always_inline u32 current_tid(void)
{
	return (u32)bpf_get_current_pid_tgid();
}

#endif /* __TASK_SLOTS_BPF_H */
