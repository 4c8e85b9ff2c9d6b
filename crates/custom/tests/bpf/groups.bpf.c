// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Triggers by control group, of which the config wants nothing but names. */
#include "trigger.bpf.h"

COUNTERS(groups_total, HASH, 4096, u64);

ON_TRIGGER(groups_triggered)
{
	u64 cgroup = bpf_get_current_cgroup_id();

	increment_map(&groups_total, &cgroup, 19);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
