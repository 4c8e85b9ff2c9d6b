// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Maps whose types are unusual: only their bytes count. odd_twin is this program with one map of
 * the config; odd_value4 and odd_value16 name maps whose values are no u64.
 */
#include "trigger.bpf.h"

struct odd_union {
	union {
		u32 number;
		u8 bytes[4];
	};
};

struct odd_bits {
	u32 low : 4;
	u32 high : 28;
};

struct odd_pair {
	u16 a;
	u16 b;
};

struct odd_structs {
	struct odd_pair pairs[2];
};

struct odd_value {
	u64 first;
	u64 second;
};

COUNTERS(odd_pointer_total, HASH, 16, struct task_struct *);
COUNTERS(odd_union_total, HASH, 16, struct odd_union);
COUNTERS(odd_bits_total, HASH, 16, struct odd_bits);
COUNTERS(odd_structs_total, HASH, 16, struct odd_structs);
/* The name that the exporters' own programs have for their losses. */
COUNTERS(events, HASH, 16, u32);
COUNTERS(start, HASH, 16, u32);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__uint(key_size, 16);
	__uint(value_size, 8);
} odd_sizes_total SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, u32);
	__type(value, u32);
} odd_value4_total SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, u32);
	__type(value, struct odd_value);
} odd_value16_total SEC(".maps");

#define ADD(map, n, ...)                                  \
	({                                                \
		__typeof__(*(map).key) key = __VA_ARGS__; \
		increment_map(&map, &key, n);             \
	})

ON_TRIGGER(odd_triggered)
{
	struct odd_value *value16, zero16 = {1, 2};
	char bytes[16] = "sixteen bytes";
	u32 first = 0;

	ADD(odd_pointer_total, 2, (void *)0x1234);
	ADD(odd_union_total, 3, {{5}});
	ADD(odd_bits_total, 5, {.low = 1, .high = 2});
	ADD(odd_structs_total, 7, {{{1, 2}, {3, 4}}});
	ADD(events, 11, 1);
	ADD(start, 13, 1);
	increment_map(&odd_sizes_total, bytes, 17);
	bpf_map_update_elem(&odd_value4_total, &first, &first, BPF_ANY);
	bpf_map_update_elem(&odd_value16_total, &first, &zero16, BPF_ANY);
	lookup_or_zero_init_key(&odd_value16_total, &first, value16);
	__sync_fetch_and_add(&value16->first, 19);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
