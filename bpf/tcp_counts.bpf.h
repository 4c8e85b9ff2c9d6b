/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TCP_COUNTS_BPF_H
#define __TCP_COUNTS_BPF_H

/*
 * Connections, retransmits, resets and full listen queues, counted as the kernel's own counters do.
 * The hooks are in tcp.bpf.c.
 */
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "percpu.bpf.h"

#define IPPROTO_TCP 6
#define ETH_P_IP 0x0800
#define AF_INET6 10

/* include/net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LISTEN 10

/* Flags of a TCP header, and of tcp_skb_cb.tcp_flags. */
#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_RST 0x04
#define TCP_FLAGS_OFFSET 13

/* enum tcp_ca_state and icsk_pending, include/uapi/linux/tcp.h, net/inet_connection_sock.h */
#define TCP_CA_RECOVERY 3
#define TCP_CA_LOSS 4
#define ICSK_TIME_LOSS_PROBE 5

/* asm-generic/errno*.h */
#define EBUSY 16
#define ENETUNREACH 101
#define ETIMEDOUT 110
#define ECONNREFUSED 111
#define EHOSTUNREACH 113

/* Whether tcp_retransmit_skb has an error argument (7.x): set by userland from BTF. */
const volatile bool tcp_retransmit_error = false;

/* Index of ListenOverflows in the counters of a network namespace: set by userland from BTF. */
const volatile u32 tcp_listen_overflows = 0;

struct tcp_counts {
	u64 passive;
	u64 closes;
	u64 resets_received;
	u64 established; /* sockets that entered and left what the kernel calls CurrEstab */
	u64 left;
	struct hist rtt;      /* us */
	struct hist connect;  /* s */
	struct hist duration; /* long s */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct tcp_counts);
} counts SEC(".maps");

/* One number fed by one probe: absent without the probe. */
struct tcp_number {
	u64 value;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct tcp_number);
} opens SEC(".maps"), resets_sent SEC(".maps"), overflows SEC(".maps"), unsent SEC(".maps");

enum tcp_retransmit {
	TCP_RETRANSMIT_SYN,
	TCP_RETRANSMIT_SYNACK,
	TCP_RETRANSMIT_TIMEOUT,
	TCP_RETRANSMIT_SLOW_START,
	TCP_RETRANSMIT_FAST,
	TCP_RETRANSMIT_PROBE,
	TCP_RETRANSMIT_OTHER,
	TCP_RETRANSMITS,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TCP_RETRANSMITS);
	__type(key, u32); /* enum tcp_retransmit */
	__type(value, struct tcp_number);
} retransmits SEC(".maps");

/* An IPv6 address, or an IPv4-mapped one; all zero for "other". */
struct tcp_destination {
	u8 address[16];
} __attribute__((aligned(8)));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct tcp_destination);
	__type(value, struct tcp_number);
} by_dest SEC(".maps");

const struct tcp_number zero_number = {};

enum tcp_failure {
	TCP_REFUSED,
	TCP_TIMED_OUT,
	TCP_UNREACHABLE,
	TCP_ABORTED,
	TCP_FAILED_OTHERWISE,
	TCP_FAILURES,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, TCP_FAILURES);
	__type(key, u32); /* enum tcp_failure */
	__type(value, struct tcp_number);
} failures SEC(".maps");

/*
 * A connection that started, or retransmitted, while the programs are attached. Removed when its
 * socket is closed.
 */
struct tcp_connection {
	u64 asked; /* SYN sent */
	u64 established;
	u64 retransmitted; /* the part of tcp_sock.total_retrans that is counted or was there before
			    */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, u64); /* struct sock * */
	__type(value, struct tcp_connection);
} connections SEC(".maps");

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

static __always_inline void add(void *map, u32 key, u64 value)
{
	struct tcp_number *n = bpf_map_lookup_elem(map, &key);

	if (n && value)
		__sync_fetch_and_add(&n->value, value);
}

static __always_inline bool is_current(u32 state)
{
	return state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT;
}

static __always_inline void on_failure(const struct sock *sk, bool btf)
{
	u32 failure;

	switch (FIELD(btf, sk, sk_err)) {
	case ECONNREFUSED:
		failure = TCP_REFUSED;
		break;
	case ETIMEDOUT:
		failure = TCP_TIMED_OUT;
		break;
	case ENETUNREACH:
	case EHOSTUNREACH:
		failure = TCP_UNREACHABLE;
		break;
	case 0:
		failure = TCP_ABORTED; /* closed by the program itself */
		break;
	default:
		failure = TCP_FAILED_OTHERWISE;
	}
	add(&failures, failure, 1);
}

/* What this socket added to RetransSegs. A SYN-ACK has no socket. */
static __always_inline u32 total_retransmits(const struct sock *sk)
{
	return BPF_CORE_READ((const struct tcp_sock *)sk, total_retrans);
}

/* The entry of a new connection: the same socket may connect again. */
static __always_inline void remember(const struct sock *sk, u64 asked, u64 established)
{
	struct tcp_connection begin = {
		.asked = asked,
		.established = established,
		.retransmitted = total_retransmits(sk),
	};
	u64 id = (u64)sk;

	if (bpf_map_update_elem(&connections, &id, &begin, BPF_ANY))
		count_event(EVENT_MAP_FULL);
}

static __always_inline void count_destination(const struct sock_common *peer, u64 segments)
{
	struct tcp_destination key = {}, other = {};
	struct tcp_number *n;

	if (BPF_CORE_READ(peer, skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO(&key.address, peer, skc_v6_daddr);
	} else {
		key.address[10] = 0xff;
		key.address[11] = 0xff;
		*(u32 *)&key.address[12] = BPF_CORE_READ(peer, skc_daddr);
	}
	n = map_lookup_or_fold(&by_dest, &key, &zero_number, &other);
	if (n)
		__sync_fetch_and_add(&n->value, segments);
}

/* What the kernel counted since the last call. */
static __always_inline u64 uncounted_retransmits(const struct sock *sk, struct tcp_connection *conn)
{
	u32 total = total_retransmits(sk), uncounted = total - (u32)conn->retransmitted;

	conn->retransmitted = total; /* the socket is locked: nobody else is here */
	return uncounted;
}

/* As above; `guess` for a connection that is not known yet. */
static __always_inline u64 uncounted_or(const struct sock *sk, u64 guess)
{
	u64 id = (u64)sk;
	struct tcp_connection *conn = bpf_map_lookup_elem(&connections, &id);

	if (conn)
		return uncounted_retransmits(sk, conn);
	remember(sk, 0, 0);
	return guess;
}

static __always_inline void count_retransmits(const struct sock *sk, u32 kind, u64 segments)
{
	add(&retransmits, kind, segments);
	count_destination(&sk->__sk_common, segments);
}

/* Sending failed, and no hook reported it at that time. */
static __always_inline void count_unheard(const struct sock *sk, u64 segments)
{
	if (!segments)
		return;
	add(&unsent, 0, segments);
	count_retransmits(sk, TCP_RETRANSMIT_OTHER, segments);
}

static __always_inline void on_established(struct tcp_counts *c, const struct sock *sk)
{
	u64 id = (u64)sk, now = bpf_ktime_get_ns();
	struct tcp_connection *conn = bpf_map_lookup_elem(&connections, &id);

	if (!conn) {
		remember(sk, 0, now); /* passive */
		return;
	}
	if (conn->asked)
		hist_observe_s(&c->connect, elapsed_ns(conn->asked, now));
	conn->established = now;
}

static __always_inline void on_close(struct tcp_counts *c, const struct sock *sk, u32 old)
{
	const struct tcp_sock *tp = (const struct tcp_sock *)sk;
	u64 id = (u64)sk, srtt_us;
	struct tcp_connection *conn;

	if (old == TCP_LISTEN || old == TCP_CLOSE)
		return;
	conn = bpf_map_lookup_elem(&connections, &id);
	if (conn)
		count_unheard(sk, uncounted_retransmits(sk, conn));
	if (old == TCP_SYN_SENT || old == TCP_SYN_RECV)
		goto out;
	__sync_fetch_and_add(&c->closes, 1);
	srtt_us = BPF_CORE_READ(tp, srtt_us) >> 3;
	if (srtt_us)
		hist_observe_us(&c->rtt, srtt_us * 1000);
	if (conn && conn->established)
		hist_observe_long_s(&c->duration,
				    elapsed_ns(conn->established, bpf_ktime_get_ns()));
out:
	if (conn)
		bpf_map_delete_elem(&connections, &id);
}

static __always_inline int on_state(const struct sock *sk, u32 old, u32 new, bool btf)
{
	u32 zero = 0;
	struct tcp_counts *c = bpf_map_lookup_elem(&counts, &zero);

	if (!c || FIELD(btf, sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	if (new == TCP_SYN_SENT)
		remember(sk, bpf_ktime_get_ns(), 0);
	if (new == TCP_SYN_RECV && old == TCP_LISTEN)
		__sync_fetch_and_add(&c->passive, 1);
	if (is_current(new) && !is_current(old))
		__sync_fetch_and_add(&c->established, 1);
	if (is_current(old) && !is_current(new))
		__sync_fetch_and_add(&c->left, 1);
	if (new == TCP_ESTABLISHED)
		on_established(c, sk);
	if (new == TCP_CLOSE) {
		if (old == TCP_SYN_SENT)
			on_failure(sk, btf);
		on_close(c, sk, old);
	}
	return 0;
}

/* Why a segment is retransmitted, as the kernel's own counters distinguish it. */
static __always_inline u32 kind_of(const struct sock *sk, const struct tcp_skb_cb *cb)
{
	const struct inet_connection_sock *icsk = (const struct inet_connection_sock *)sk;
	u32 state;

	if (BPF_CORE_READ(cb, tcp_flags) & TCP_FLAG_SYN)
		return TCP_RETRANSMIT_SYN;
	state = congestion_state(sk);
	if (state == TCP_CA_LOSS)
		return BPF_CORE_READ(icsk, icsk_retransmits) ? TCP_RETRANSMIT_TIMEOUT
							     : TCP_RETRANSMIT_SLOW_START;
	if (state == TCP_CA_RECOVERY)
		return TCP_RETRANSMIT_FAST;
	if (BPF_CORE_READ(icsk, icsk_pending) == ICSK_TIME_LOSS_PROBE)
		return TCP_RETRANSMIT_PROBE;
	return TCP_RETRANSMIT_OTHER;
}

static __always_inline const struct tcp_skb_cb *control_block(const struct sk_buff *skb)
{
	return (const void *)skb + bpf_core_field_offset(struct sk_buff, cb);
}

/* Counts segments, not events: one event may send many. */
static __always_inline int on_retransmit(const struct sock *sk, const struct sk_buff *skb)
{
	const struct tcp_skb_cb *cb = control_block(skb);
	u64 segments = BPF_CORE_READ(cb, tcp_gso_segs), uncounted;

	if (!segments)
		segments = 1;
	uncounted = uncounted_or(sk, segments);
	if (uncounted > segments)
		count_unheard(sk, uncounted - segments);
	count_retransmits(sk, kind_of(sk, cb), segments);
	return 0;
}

/*
 * A retransmit failed. RetransSegs counts segments that reached the lower layers. If a queue there
 * drops them, the error is positive. If they did not get there, it is negative.
 */
static __always_inline int on_unsent(const struct sock *sk, const struct sk_buff *skb, int error)
{
	const struct tcp_skb_cb *cb = control_block(skb);
	u64 segments = uncounted_or(sk, error > 0 ? BPF_CORE_READ(cb, tcp_gso_segs) : 0);

	if (!segments)
		return 0;
	if (error != -EBUSY)
		add(&unsent, 0, segments);
	count_retransmits(sk, kind_of(sk, cb), segments);
	return 0;
}

/* At the start of a retransmit: what is not counted yet are earlier ones that failed. */
static __always_inline int on_next_retransmit(const struct sock *sk)
{
	count_unheard(sk, uncounted_or(sk, 0));
	return 0;
}

static __always_inline int on_retransmit_synack(const struct request_sock *req)
{
	add(&retransmits, TCP_RETRANSMIT_SYNACK, 1);
	count_destination(&req->__req_common, 1);
	return 0;
}

static __always_inline int on_connect(int result)
{
	if (!result)
		add(&opens, 0, 1);
	return 0;
}

/* A reset is never a reply to a reset. */
static __always_inline int on_reply_reset(const struct sk_buff *skb)
{
	u8 flags = 0;
	const void *header = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header);

	bpf_probe_read_kernel(&flags, sizeof(flags), header + TCP_FLAGS_OFFSET);
	if (!(flags & TCP_FLAG_RST))
		add(&resets_sent, 0, 1);
	return 0;
}

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

static __always_inline int on_receive_reset(void)
{
	u32 zero = 0;
	struct tcp_counts *c = bpf_map_lookup_elem(&counts, &zero);

	if (c)
		__sync_fetch_and_add(&c->resets_received, 1);
	return 0;
}

#endif /* __TCP_COUNTS_BPF_H */
