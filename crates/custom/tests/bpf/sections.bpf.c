/* SPDX-License-Identifier: GPL-2.0 */
/* A program for each kind of section that this system knows, and for some that it does not. */
#include "tiny.bpf.h"

SEC("tp_btf/sys_enter")
int btf_tracepoint(u64 *ctx)
{
	return count_call(0, ctx[1]);
}

SEC("raw_tp/sys_enter")
int raw_tracepoint(u64 *ctx)
{
	return count_call(1, ctx[1]);
}

SEC("perf_event/type=1,config=0,frequency=997")
int samples(void *ctx)
{
	return count(2);
}

SEC("xdp/lo")
int packets(void *ctx)
{
	count(3);
	return 2; /* XDP_PASS */
}

SEC("uprobe//proc/self/exe:post_attach_mark")
int mark(void *ctx)
{
	return count(4);
}

SEC("perf_event/type=1,config=0,period=9")
int unknown_item(void *ctx)
{
	return count(5);
}

SEC("perf_event/type=1,config=9999,frequency=1")
int no_such_event(void *ctx)
{
	return count(6);
}

SEC("xdp/nosuchif0")
int no_such_interface(void *ctx)
{
	return 2; /* XDP_PASS */
}

SEC("cgroup_skb/ingress")
int packets_of_group(void *ctx)
{
	return 1;
}

SEC("kretprobe/no_such_function_here")
int missing_function(void *ctx)
{
	return count(7);
}

SEC("no_such_section/x")
int unknown_section(void *ctx)
{
	return count(8);
}
