// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * An LRU of 1,000 entries in which every trigger makes `what` new ones, up to 10,000. Each has the
 * value 31. `value` is the first key, so that the test never uses a key twice.
 */
#include "trigger.bpf.h"

COUNTERS(churn_total, LRU_HASH, 1000, u64);
COUNTERS(churn_made_total, ARRAY, 1, u32);

static long churn_insert(u32 i, u64 *begin)
{
	u64 key = *begin + i;
	u32 first = 0;

	increment_map(&churn_total, &key, 31);
	increment_map(&churn_made_total, &first, 1);
	return 0;
}

ON_TRIGGER(churn_triggered)
{
	bpf_loop(what < 10000 ? what : 10000, churn_insert, &value, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
