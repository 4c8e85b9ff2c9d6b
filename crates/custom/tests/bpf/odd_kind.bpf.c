// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A map of a type that no kernel has. */
#include "trigger.bpf.h"

#define BPF_MAP_TYPE_NONE 250

COUNTERS(odd_kind_total, ARRAY, 1, u32);
COUNTERS(odd_kind_unknown, NONE, 1, u32);

ON_TRIGGER(odd_kind_triggered)
{
	u32 key = 0;

	if (bpf_map_lookup_elem(&odd_kind_unknown, &key))
		increment_map(&odd_kind_total, &key, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
