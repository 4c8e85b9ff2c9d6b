// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Triggers by control group, of which the config makes containers. Every trigger adds 31. */
#include "trigger.bpf.h"

COUNTERS(container_total, HASH, 64, u64);

ON_TRIGGER(container_triggered)
{
	u64 cgroup = bpf_get_current_cgroup_id();

	increment_map(&container_total, &cgroup, 31);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
