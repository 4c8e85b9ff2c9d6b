// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Many entries, with the labels that configs often have. A trigger makes as many as `what` says. */
#include "trigger.bpf.h"

#define MANY_ENTRIES 10000

struct many_key {
	char comm[16];
	u64 id;
	u32 operation;
	u32 cpu;
};

COUNTERS(many_total, HASH, MANY_ENTRIES, struct many_key);

static long many_insert(u32 i, void *unused)
{
	struct many_key key = {.id = i, .operation = i & 1, .cpu = i & 7};

	bpf_get_current_comm(key.comm, sizeof(key.comm));
	increment_map(&many_total, &key, 43);
	return 0;
}

ON_TRIGGER(many_triggered)
{
	bpf_loop(what < MANY_ENTRIES ? what : MANY_ENTRIES, many_insert, NULL, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
