// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Three programs that no kernel loads, for three reasons, and one that counts. */
#include "trigger.bpf.h"

COUNTERS(partial_total, ARRAY, 1, u32);

SEC("fentry/no_such_function")
int partial_no_function(void *ctx)
{
	return 0;
}

SEC("tp_btf/no_such_tracepoint")
int partial_no_tracepoint(void *ctx)
{
	return 0;
}

SEC("raw_tp/sys_enter")
int partial_refused(u64 *ctx)
{
	u64 *anywhere = (void *)ctx[1];

	/* The verifier refuses an address that it does not know. */
	__sync_fetch_and_add(anywhere, 1000);
	return 0;
}

ON_TRIGGER(partial_good)
{
	u32 first = 0;

	increment_map(&partial_total, &first, 17);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
