// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The same with storage of control groups, which kernels have since 6.2. */
#include "trigger.bpf.h"

/* enum bpf_map_type of 6.2. */
#define BPF_MAP_TYPE_CGRP_STORAGE 32

struct {
	__uint(type, BPF_MAP_TYPE_CGRP_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u64);
} cgroup_storage_ids SEC(".maps");

COUNTERS(cgroup_storage_total, HASH, 1024, u64);
COUNTERS(cgroup_storage_others_total, ARRAY, 1, u32);

ON_TRIGGER(cgroup_storage_triggered)
{
	struct task_struct *task = bpf_get_current_task_btf();
	u64 cgroup = bpf_get_current_cgroup_id();
	u32 first = 0;

	if (bpf_cgrp_storage_get(&cgroup_storage_ids, task->cgroups->dfl_cgrp, NULL, 0))
		increment_map(&cgroup_storage_total, &cgroup, 19);
	else
		increment_map(&cgroup_storage_others_total, &first, 23);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
