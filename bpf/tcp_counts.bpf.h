/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TCP_COUNTS_BPF_H
#define __TCP_COUNTS_BPF_H

/*
 * Connections, retransmits and resets, counted as the kernel's own counters do.
 * The hooks are in tcp.bpf.c.
 */
#include "hist.bpf.h"
#include "maps.bpf.h"

#define IPPROTO_TCP 6
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

/*
 * Whether a retransmit that no program saw was one that failed: only kprobes hook
 * __tcp_retransmit_skb, and they do not tell of failures. Set by userland.
 */
const volatile bool tcp_unseen_failed = false;

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
	TCP_RETRANSMIT_UNSEEN,
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
	TCP_NOT_SENT,
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
	u64 asked; /* SYN sent; 0: not yet, or passive */
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

/* Threads in tcp_connect(), where kprobes are used. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, u64);   /* id of the thread */
	__type(value, u64); /* struct sock * */
} connecting SEC(".maps");

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

/*
 * Whether this socket has sent a segment, which is at first a SYN. The kernel enters SYN_SENT
 * before it has a local port and a route, and Fast Open waits there for data. A connection that is
 * restored (TCP_REPAIR) needs no SYN.
 */
static __always_inline bool has_sent(const struct sock *sk)
{
	return BPF_CORE_READ((const struct tcp_sock *)sk, segs_out);
}

static __always_inline void on_failure(const struct sock *sk, bool btf)
{
	u32 failure;

	if (!has_sent(sk)) {
		add(&failures, TCP_NOT_SENT, 1);
		return;
	}
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

/* No program saw these retransmits: sending failed, or the kernel ran no program for them. */
static __always_inline void count_unseen(const struct sock *sk, u64 segments)
{
	if (!segments)
		return;
	if (tcp_unseen_failed)
		add(&unsent, 0, segments);
	count_retransmits(sk, TCP_RETRANSMIT_UNSEEN, segments);
}

static __always_inline void on_established(struct tcp_counts *c, const struct sock *sk)
{
	u64 id = (u64)sk, now = bpf_ktime_get_ns();
	struct tcp_connection *conn = bpf_map_lookup_elem(&connections, &id);

	if (!conn) {
		remember(sk, 0, now); /* passive */
		return;
	}
	if (conn->asked && has_sent(sk))
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
		count_unseen(sk, uncounted_retransmits(sk, conn));
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
	/* Without a hook at tcp_connect(), it is not known when a deferred SYN is sent. */
	if (new == TCP_SYN_SENT)
		remember(sk, may_defer_syn(sk) ? 0 : bpf_ktime_get_ns(), 0);
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
		count_unseen(sk, uncounted - segments);
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
	count_unseen(sk, uncounted_or(sk, 0));
	return 0;
}

static __always_inline int on_retransmit_synack(const struct request_sock *req)
{
	add(&retransmits, TCP_RETRANSMIT_SYNACK, 1);
	count_destination(&req->__req_common, 1);
	return 0;
}

/* tcp_connect() sends the SYN. */
static __always_inline int on_connect(const struct sock *sk)
{
	u64 id = (u64)sk;
	struct tcp_connection *conn = bpf_map_lookup_elem(&connections, &id);

	if (conn)
		conn->asked = bpf_ktime_get_ns();
	return 0;
}

static __always_inline int on_connect_exit(const struct sock *sk, int result)
{
	if (!result && has_sent(sk))
		add(&opens, 0, 1);
	return 0;
}

/* A kretprobe does not get the socket: the kprobe leaves it here. */
static __always_inline int on_connect_kprobe(const struct sock *sk)
{
	u64 thread = bpf_get_current_pid_tgid(), id = (u64)sk;

	if (bpf_map_update_elem(&connecting, &thread, &id, BPF_ANY))
		count_event(EVENT_MAP_FULL);
	return on_connect(sk);
}

static __always_inline int on_connect_kretprobe(int result)
{
	u64 thread = bpf_get_current_pid_tgid();
	u64 *id = bpf_map_lookup_elem(&connecting, &thread);

	if (!id)
		return 0;
	on_connect_exit((const struct sock *)*id, result);
	bpf_map_delete_elem(&connecting, &thread);
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

static __always_inline int on_receive_reset(void)
{
	u32 zero = 0;
	struct tcp_counts *c = bpf_map_lookup_elem(&counts, &zero);

	if (c)
		__sync_fetch_and_add(&c->resets_received, 1);
	return 0;
}

#endif /* __TCP_COUNTS_BPF_H */
