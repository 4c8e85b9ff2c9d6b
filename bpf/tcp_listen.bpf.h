/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TCP_LISTEN_BPF_H
#define __TCP_LISTEN_BPF_H

/* Full listen queues, counted as the kernel's ListenOverflows. */
#include "percpu.bpf.h"
#include "tcp_counts.bpf.h"

#define ETH_P_IP 0x0800

/* Index of ListenOverflows in the counters of a network namespace: set by userland from BTF. */
const volatile u32 tcp_listen_overflows = 0;

/*
 * The segment that now arrives at a listener. Per CPU: softirqs are off from entry to exit. (With
 * PREEMPT_RT another task may run in between. Then the segment at exit is another one and nothing
 * is counted.)
 */
struct tcp_arrival {
	u64 segment;   /* struct sk_buff *; 0: not known, in kprobes */
	u64 counter;   /* address of this CPU's part of ListenOverflows; 0: no segment arrives */
	u64 overflows; /* its value at entry */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct tcp_arrival);
} arrivals SEC(".maps");

static __always_inline u64 overflows_here(struct tcp_arrival *arrival)
{
	u64 overflows = 0;

	bpf_probe_read_kernel(&overflows, sizeof(overflows), (const void *)arrival->counter);
	return overflows;
}

/*
 * A segment for a listener, which drops it if its accept queue is full. Other CPUs add to the queue
 * and take from it all the time, so a program cannot see whether the queue is full when the kernel
 * looks. Instead, compare this CPU's part of the namespace's ListenOverflows at entry and exit.
 */
static __always_inline int on_arrival(const struct sock *listener, u64 segment)
{
	u32 zero = 0;
	struct tcp_arrival *arrival = bpf_map_lookup_elem(&arrivals, &zero);
	const struct linux_mib *counters;

	if (!arrival)
		return 0;
	counters = BPF_CORE_READ(listener, __sk_common.skc_net.net, mib.net_statistics);
	arrival->segment = segment;
	arrival->counter = (u64)&counters->mibs[tcp_listen_overflows];
	arrival->counter += per_cpu_distance(&arrivals, arrival);
	arrival->overflows = overflows_here(arrival);
	return 0;
}

static __always_inline int on_arrival_exit(u64 segment)
{
	u32 zero = 0;
	struct tcp_arrival *arrival = bpf_map_lookup_elem(&arrivals, &zero);

	if (!arrival || !arrival->counter || arrival->segment != segment)
		return 0;
	/*
	 * One segment is dropped once. Any other difference is memory of a namespace that is gone.
	 */
	if (overflows_here(arrival) == arrival->overflows + 1)
		add(&overflows, 0, 1);
	arrival->counter = 0;
	return 0;
}

/* For IPv4, tcp_v6_syn_recv_sock() calls tcp_v4_syn_recv_sock(), which is counted. */
static __always_inline bool is_left_to_ipv4(const struct sk_buff *skb)
{
	return BPF_CORE_READ(skb, protocol) == bpf_htons(ETH_P_IP);
}

#endif /* __TCP_LISTEN_BPF_H */
