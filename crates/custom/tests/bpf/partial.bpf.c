/* SPDX-License-Identifier: GPL-2.0 */
/* Three programs that cannot be loaded, a good one, and one that is not to be loaded. */
#include "tiny.bpf.h"

SEC("fentry/no_such_function_here")
int missing_function(u64 *ctx)
{
	return count(1);
}

SEC("tp_btf/no_such_tracepoint_here")
int missing_tracepoint(u64 *ctx)
{
	return count(2);
}

SEC("tp_btf/sys_enter")
int good(u64 *ctx)
{
	return count_call(0, ctx[1]);
}

SEC("raw_tp/sys_enter")
int rejected(u64 *ctx)
{
	u32 slot = 3;
	u64 *value = bpf_map_lookup_elem(&counts, &slot);

	/* The verifier demands a check. */
	*value += 1;
	return 0;
}

SEC("?tp_btf/sys_enter")
int left_out(u64 *ctx)
{
	return count(4);
}
