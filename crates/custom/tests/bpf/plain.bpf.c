// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Counters without labels, and a metric that two configs have: plain_other.bpf.c is this program
 * with other rows.
 */
#include "trigger.bpf.h"

#ifndef PLAIN_OWN
#define PLAIN_OWN 1
#define PLAIN_ADD 3
#endif

/* Both configs have this row of plain_shared_total. */
#define PLAIN_BOTH 0

COUNTERS(plain_total, ARRAY, 1, u32);
COUNTERS(plain_pair_total, ARRAY, 2, u32);
COUNTERS(plain_shared_total, HASH, 16, u32);

ON_TRIGGER(plain_triggered)
{
	u32 first = 0, second = 1, own = PLAIN_OWN, both = PLAIN_BOTH;

	increment_map(&plain_total, &first, 11);
	increment_map(&plain_pair_total, &second, 13);
	increment_map(&plain_shared_total, &own, PLAIN_ADD);
	increment_map(&plain_shared_total, &both, PLAIN_ADD);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
