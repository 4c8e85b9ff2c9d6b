// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Triggers of processes in control groups that the exporter put into a hash. */
#include "trigger.bpf.h"

COUNTERS(cgroup_map_ids, HASH, 1024, u64);
COUNTERS(cgroup_map_total, HASH, 1024, u64);
COUNTERS(cgroup_map_others_total, ARRAY, 1, u32);

ON_TRIGGER(cgroup_map_triggered)
{
	u64 cgroup = bpf_get_current_cgroup_id();
	u32 first = 0;

	if (bpf_map_lookup_elem(&cgroup_map_ids, &cgroup))
		increment_map(&cgroup_map_total, &cgroup, 19);
	else
		increment_map(&cgroup_map_others_total, &first, 23);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
