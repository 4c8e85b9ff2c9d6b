// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Maps that no metric can be read from, and one that can. */
#include "trigger.bpf.h"

#define WITHOUT_KEYS(name, kind)                   \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(max_entries, 16);           \
		__type(value, u64);                \
	} name SEC(".maps")

#define OF_DESCRIPTORS(name, kind)                 \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(max_entries, 16);           \
		__uint(key_size, sizeof(u32));     \
		__uint(value_size, sizeof(u32));   \
	} name SEC(".maps")

WITHOUT_KEYS(kinds_queue, QUEUE);
WITHOUT_KEYS(kinds_stack, STACK);
WITHOUT_KEYS(kinds_bloom, BLOOM_FILTER);
OF_DESCRIPTORS(kinds_perf, PERF_EVENT_ARRAY);
OF_DESCRIPTORS(kinds_calls, PROG_ARRAY);
COUNTERS(kinds_hash, HASH, 16, u32);

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u64);
} kinds_task SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} kinds_ring SEC(".maps");

u64 kinds_zero, kinds_zeros;

ON_TRIGGER(kinds_triggered)
{
	u32 first = 0;

	kinds_zero++;
	kinds_zeros++;
	increment_map(&kinds_hash, &first, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
