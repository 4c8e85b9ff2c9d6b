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
 * thread that needs one, to one at a time. Only when more than TASK_WAYS threads of a set
 * have something under way at once does one of them lose its record: that loss is counted
 * as no_start at that moment. An end that finds no record is not counted again.
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

/* A record that nothing is under way in is taken before one that is in use. */
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
 * Whether nobody else takes this record at this moment: threads of a set that are on two CPUs,
 * or one that is preempted here. 16 bits of `takers` count those of each record: before 5.12 a
 * program can add at once, and neither exchange nor compare.
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

/* Another's record of this use, given to `owner`; NULL: there is none. */
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
		/* Somebody else may have been before the lock. */
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

/* The record that `owner` has or is given, made of zeros then; NULL, counted: none is free. */
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
	/* The record of `owner`; NULL: it has none. */                                        \
	static __always_inline __attribute__((unused)) record *name##_find(u32 tid, u64 owner) \
	{                                                                                      \
		u32 index = tid % TASK_SETS;                                                   \
		struct name##_set *set = bpf_map_lookup_elem(&name, &index);                   \
                                                                                               \
		return set ? task_slot_of(set->ways, sizeof(record), tid / TASK_SETS, owner)   \
			   : NULL;                                                             \
	}                                                                                      \
                                                                                               \
	/* The same, made of zeros where it has none; NULL, counted: none is free. */          \
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
