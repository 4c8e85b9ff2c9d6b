/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TASK_SLOTS_BPF_H
#define __TASK_SLOTS_BPF_H

/*
 * Operations in progress, one per thread, in an array indexed by thread id. Nothing is inserted or
 * deleted (a hash takes 240 ns for that), nothing leaks if a thread never returns, and it works
 * without task storage (before 5.11).
 *
 * The array is set-associative: threads whose ids are a multiple of TASK_SETS apart share a set of
 * TASK_WAYS records. A record without an operation in progress goes to the next thread that needs
 * one, to one at a time. A thread loses its record only if more than TASK_WAYS threads of a set
 * have an operation in progress. That loss is counted as no_start at once. An end that finds no
 * record is not counted again.
 *
 * A program declares its own array of a struct that begins with `struct task_slot`:
 *
 *	struct NAME_task { struct task_slot slot; ... };
 *	TASK_SLOTS(tasks, struct NAME_task);
 *
 * This defines tasks_find() and tasks_take(). `owner` is usually the thread id. A program that
 * knows a better identity of the thread passes that.
 */
#include "events.bpf.h"

#define TASK_SETS 16384
#define TASK_WAYS 4

struct task_slot {
	u64 owner; /* 0: no owner yet */
	u64 busy;  /* start of the operation in progress; 0: none */
};

static __always_inline struct task_slot *task_way(void *set, u32 size, u32 way)
{
	return set + way % TASK_WAYS * size;
}

/* The record of `owner` in a set, or NULL. */
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

/* Prefer a record without an operation in progress to one in use. */
enum task_use {
	TASK_NEW,
	TASK_IDLE,
	TASK_BUSY,
};

static __always_inline bool task_slot_is(const struct task_slot *slot, enum task_use use)
{
	return use == TASK_BUSY || (use == TASK_IDLE ? !slot->busy : !slot->owner);
}

/*
 * Whether no other thread is taking this record now: threads of the same set on two CPUs, or one
 * that is preempted here. `takers` has a 16-bit count for each record: before 5.12 a program has
 * atomic add only, neither exchange nor compare-and-exchange.
 */
static __always_inline bool task_slot_lock(u64 *takers, u32 way)
{
	u32 shift = way % TASK_WAYS * 16;

	__sync_fetch_and_add(takers, 1ULL << shift);
	if ((*(volatile u64 *)takers >> shift & 0xffff) == 1)
		return true;
	__sync_fetch_and_add(takers, -(1ULL << shift));
	return false;
}

static __always_inline void task_slot_unlock(u64 *takers, u32 way)
{
	__sync_fetch_and_add(takers, -(1ULL << way % TASK_WAYS * 16));
}

/* Give another owner's record of this use to `owner`; NULL if there is none. */
static __always_inline void *task_slot_take_of(u64 *takers, void *set, u32 size, u32 first,
					       u64 owner, enum task_use use,
					       void (*give_up)(void *task))
{
#pragma unroll
	for (u32 n = 0; n < TASK_WAYS; n++) {
		struct task_slot *slot = task_way(set, size, first + n);
		bool taken;

		if (!task_slot_is(slot, use) || !task_slot_lock(takers, first + n))
			continue;
		/* Another thread may have taken it before the lock. */
		taken = task_slot_is(slot, use);
		if (taken) {
			give_up(slot);
			__builtin_memset(slot, 0, size);
			slot->owner = owner;
		}
		task_slot_unlock(takers, first + n);
		if (taken)
			return slot;
	}
	return NULL;
}

/* The record of `owner`, or a new one set to zero. NULL if none is free, which is counted. */
static __always_inline void *task_slot_take(u64 *takers, void *set, u32 size, u32 first, u64 owner,
					    void (*give_up)(void *task))
{
	void *task = task_slot_of(set, size, first, owner);

	if (!task)
		task = task_slot_take_of(takers, set, size, first, owner, TASK_NEW, give_up);
	if (!task)
		task = task_slot_take_of(takers, set, size, first, owner, TASK_IDLE, give_up);
	if (!task)
		task = task_slot_take_of(takers, set, size, first, owner, TASK_BUSY, give_up);
	if (!task)
		count_event(EVENT_NO_START);
	return task;
}

/* Start an operation. An unfinished one of the same thread is lost. */
static __always_inline void task_slot_begin(struct task_slot *slot, u64 now)
{
	if (slot->busy)
		count_event(EVENT_NO_START);
	slot->busy = now;
}

/* End the operation and return its start; 0 if there was none. */
static __always_inline u64 task_slot_end(struct task_slot *slot)
{
	u64 began = slot->busy;

	slot->busy = 0;
	return began;
}

/*
 * An operation in progress is lost: its record goes to another thread, or the thread is now in one
 * that the program leaves out.
 */
static __always_inline void task_slot_lose(void *task)
{
	struct task_slot *slot = task;

	if (task_slot_end(slot))
		count_event(EVENT_NO_START);
}

#define TASK_SLOTS(name, record) TASK_SLOTS_GIVEN_UP(name, record, task_slot_lose)

/* The same, with a function that is called before a record goes to another thread. */
#define TASK_SLOTS_GIVEN_UP(name, record, give_up)                                             \
	struct name##_set {                                                                    \
		u64 takers;                                                                    \
		u64 ways[TASK_WAYS * sizeof(record) / sizeof(u64)]; /* records */              \
	};                                                                                     \
	struct {                                                                               \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                              \
		__uint(max_entries, TASK_SETS);                                                \
		__type(key, u32);                                                              \
		__type(value, struct name##_set);                                              \
	} name SEC(".maps");                                                                   \
                                                                                               \
	/* The record of `owner`, or NULL. */                                                  \
	static __always_inline __attribute__((unused)) record *name##_find(u32 tid, u64 owner) \
	{                                                                                      \
		u32 index = tid % TASK_SETS;                                                   \
		struct name##_set *set = bpf_map_lookup_elem(&name, &index);                   \
                                                                                               \
		return set ? task_slot_of(set->ways, sizeof(record), tid / TASK_SETS, owner)   \
			   : NULL;                                                             \
	}                                                                                      \
                                                                                               \
	/* The same, or a new one set to zero. NULL if none is free, which is counted. */      \
	static __always_inline __attribute__((unused)) record *name##_take(u32 tid, u64 owner) \
	{                                                                                      \
		u32 index = tid % TASK_SETS;                                                   \
		struct name##_set *set = bpf_map_lookup_elem(&name, &index);                   \
                                                                                               \
		return set ? task_slot_take(&set->takers, set->ways, sizeof(record),           \
					    tid / TASK_SETS, owner, give_up)                   \
			   : NULL;                                                             \
	}

static __always_inline u32 current_tid(void)
{
	return (u32)bpf_get_current_pid_tgid();
}

#endif /* __TASK_SLOTS_BPF_H */
