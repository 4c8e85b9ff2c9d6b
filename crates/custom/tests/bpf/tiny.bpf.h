/* SPDX-License-Identifier: GPL-2.0 */
/* What the small programs of live tests need: no kernel types. */
#ifndef __TINY_BPF_H
#define __TINY_BPF_H

typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_CGRP_STORAGE = 32,
};

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static u64 (*bpf_get_current_cgroup_id)(void) = (void *)80;

char LICENSE[] SEC("license") = "GPL";

/* The test sets these as addresses of symbols. */
const volatile u64 kaddr_tgid = 0;
const volatile u64 kaddr_call = 0;

struct counts {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, u32);
	__type(value, u64);
} counts SEC(".maps");

static inline __attribute__((always_inline)) int count(u32 slot)
{
	u64 *value = bpf_map_lookup_elem(&counts, &slot);

	if (value)
		__sync_fetch_and_add(value, 1);
	return 0;
}

/* Counts the test's own system calls with one number. */
static inline __attribute__((always_inline)) int count_call(u32 slot, u64 call)
{
	if (bpf_get_current_pid_tgid() >> 32 != kaddr_tgid || call != kaddr_call)
		return 0;
	return count(slot);
}

#endif /* __TINY_BPF_H */
