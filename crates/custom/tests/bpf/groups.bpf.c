/* SPDX-License-Identifier: GPL-2.0 */
/* Maps of cgroups. Counts the test's system calls while its cgroup is in a map. */
#include "tiny.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, u64);
	__type(value, u64);
} groups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, 1); /* BPF_F_NO_PREALLOC */
	__type(key, int);
	__type(value, u64);
} storage SEC(".maps");

SEC("tp_btf/sys_enter")
int calls(u64 *ctx)
{
	u64 group = bpf_get_current_cgroup_id();

	return bpf_map_lookup_elem(&groups, &group) ? count_call(0, ctx[1]) : 0;
}
