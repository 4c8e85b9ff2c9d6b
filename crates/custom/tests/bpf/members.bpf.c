// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A value with members that are negative, an array, a pointer and bit fields. */
#include "trigger.bpf.h"

struct members_value {
	u64 count;
	void *pointer;
	s64 balance;
	u32 low : 3;
	u32 high : 5;
	s32 offset;
	u32 slots[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, s64);
} members_level SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct members_value);
} members_values SEC(".maps");

ON_TRIGGER(members_triggered)
{
	struct members_value values = {.count = 3, .balance = -5, .offset = -7, .slots = {11, 13}};
	s64 level = -17;
	u32 key = 0;

	bpf_map_update_elem(&members_values, &key, &values, BPF_ANY);
	bpf_map_update_elem(&members_level, &key, &level, BPF_ANY);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
