// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Maps per CPU. Every trigger adds 7 on the CPU where it happens. */
#include "trigger.bpf.h"

COUNTERS(percpu_array_total, PERCPU_ARRAY, 2, u32);
COUNTERS(percpu_added_total, PERCPU_ARRAY, 2, u32);
COUNTERS(percpu_only_total, PERCPU_ARRAY, 1, u32);
COUNTERS(percpu_hash_total, PERCPU_HASH, 64, u64);
COUNTERS(percpu_lru_total, LRU_PERCPU_HASH, 64, u64);

ON_TRIGGER(percpu_triggered)
{
	u32 slot = what & 1, first = 0;

	increment_map_nosync(&percpu_array_total, &slot, 7);
	increment_map_nosync(&percpu_added_total, &slot, 7);
	increment_map_nosync(&percpu_only_total, &first, 7);
	increment_map_nosync(&percpu_hash_total, &value, 7);
	increment_map_nosync(&percpu_lru_total, &value, 7);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
