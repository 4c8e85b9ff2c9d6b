// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long do DNS lookups take, and how many fail?
 *
 * Hooks: ip_send_skb, ip6_send_skb and __udp_enqueue_schedule_skb for UDP (at the socket, where
 * each datagram passes once, outside of any address translation); tcp_sendmsg and tcp_recvmsg for
 * TCP; udp_err and __udp6_lib_err for unreachable servers. By fentry and fexit, or (UDP only) by
 * kprobe. Cost: a port comparison for each UDP datagram and each call on a TCP socket; a query
 * costs two hash lookups and a walk over its name. A query that a local resolver (dnsmasq,
 * systemd-resolved, ...) sends on is not another lookup: it is counted as upstream. A resolver is a
 * process that answered from port 53. Before its first answer, its queries are recognised because
 * they were just received on one of its own sockets. Not seen: lookups over D-Bus, varlink, DNS
 * over TLS, HTTPS or QUIC; mDNS and LLMNR; answers over TCP that are read with recvmmsg or
 * io_uring.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "core_fixes.bpf.h"
#include "dns_lookups.bpf.h"
#include "task_slots.bpf.h"

#define DNS_PORT 53
#define IPPROTO_UDP 17
#define AF_INET6 10
#define UDP_HEADER 8

/* Ports of a UDP datagram, and its payload. */
struct dns_datagram {
	u16 source;
	u16 target;
	u32 length;
	const void *payload;
};

static __always_inline bool read_udp(const struct sk_buff *skb, const void *udp,
				     struct dns_datagram *d)
{
	__be16 ports[2] = {};

	if (bpf_probe_read_kernel(ports, sizeof(ports), udp))
		return false;
	d->source = bpf_ntohs(ports[0]);
	d->target = bpf_ntohs(ports[1]);
	if (d->source != DNS_PORT && d->target != DNS_PORT)
		return false;
	d->payload = udp + UDP_HEADER;
	d->length = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, tail) - d->payload;
	return true;
}

/* An address as one word, for comparison only. */
static __always_inline u64 fold(const u64 *v6)
{
	return v6[0] * 31 ^ v6[1];
}

/* The source or destination address of a datagram, from its IP header. */
static __always_inline u64 address_in(const void *ip, bool target)
{
	u64 v6[2] = {};
	u32 v4 = 0;
	u8 version = 0;

	bpf_probe_read_kernel(&version, sizeof(version), ip);
	if (version >> 4 == 4) {
		bpf_probe_read_kernel(&v4, sizeof(v4), ip + (target ? 16 : 12));
		return v4;
	}
	bpf_probe_read_kernel(v6, sizeof(v6), ip + (target ? 24 : 8));
	return fold(v6);
}

static __always_inline u64 address_of(const struct sk_buff *skb, bool target)
{
	return address_in(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header), target);
}

static __always_inline const void *udp_header(const struct sk_buff *skb)
{
	return BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header);
}

/* The message is in fragments, which a program cannot read, or it is malformed. */
static __always_inline bool unparsed(void)
{
	struct dns_counts *c = all();

	if (c)
		__sync_fetch_and_add(&c->unparsed, 1);
	return false;
}

static __always_inline bool read_message(const struct dns_datagram *d, struct dns_message *m)
{
	if ((s32)d->length < DNS_HEADER ||
	    bpf_probe_read_kernel(m->header, sizeof(m->header), d->payload))
		return unparsed();
	return !(m->header[2] & DNS_OPCODE);
}

/* The network namespace of a socket. */
static __always_inline u64 net_of(const struct sock *sk)
{
	return (u64)BPF_CORE_READ(sk, __sk_common.skc_net.net);
}

static __always_inline int on_send(const struct sk_buff *skb)
{
	const struct sock *sk = BPF_CORE_READ(skb, sk);
	struct dns_question q = {.transport = DNS_UDP};
	struct dns_datagram d = {};
	struct dns_message m = {};

	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_UDP)
		return 0;
	if (!read_udp(skb, udp_header(skb), &d) || !read_message(&d, &m))
		return 0;
	q.net = net_of(sk);
	q.id = id_of(&m);
	if (!is_answer(&m) && d.target == DNS_PORT) {
		q.port = d.source;
		q.server = address_of(skb, true);
		if (read_question(d.payload, d.length, false, &m) || unparsed())
			on_query(&q, &m);
	} else if (is_answer(&m) && d.source == DNS_PORT) {
		q.port = d.target;
		q.server = address_of(skb, false);
		on_serve(&q);
	}
	return 0;
}

static __always_inline int on_receive(const struct sock *sk, const struct sk_buff *skb)
{
	struct dns_question q = {.transport = DNS_UDP};
	struct dns_datagram d = {};
	struct dns_message m = {};

	if (!read_udp(skb, udp_header(skb), &d) || !read_message(&d, &m))
		return 0;
	q.net = net_of(sk);
	q.id = id_of(&m);
	if (is_answer(&m) && d.source == DNS_PORT) {
		q.port = d.target;
		q.server = address_of(skb, false);
		on_answer(&q, &m, d.payload, d.length, false);
	} else if (!is_answer(&m) && d.target == DNS_PORT) {
		q.port = d.source;
		q.server = address_of(skb, true);
		if (read_question(d.payload, d.length, false, &m) || unparsed())
			on_served(&q, &m, (u64)BPF_CORE_READ(sk, sk_socket));
	}
	return 0;
}

/* An ICMP error quotes the datagram that caused it, sent by one of our sockets. */
static __always_inline int on_error(const struct sk_buff *skb, const void *ip, const void *udp)
{
	struct dns_question q = {.transport = DNS_UDP};
	struct dns_counts *c = all();
	struct dns_datagram d = {};
	struct dns_message m = {};
	struct dns_asked *asked;
	u32 upstream;

	if (!c || !read_udp(skb, udp, &d) || d.target != DNS_PORT ||
	    bpf_probe_read_kernel(m.header, sizeof(m.header), d.payload))
		return 0;
	q.net = (u64)BPF_CORE_READ(skb, dev, nd_net.net);
	q.server = address_in(ip, true);
	q.port = d.source;
	q.id = id_of(&m);
	asked = bpf_map_lookup_elem(&outstanding, &q);
	if (!asked)
		return 0;
	upstream = asked->upstream;
	/* An answer or the timeout may come at the same moment: the one that deletes counts. */
	if (bpf_map_delete_elem(&outstanding, &q))
		return 0;
	if (upstream)
		__sync_fetch_and_add(&c->upstream_failures, 1);
	else
		add(&failures, DNS_UNREACHABLE);
	return 0;
}

struct dns_task {
	struct task_slot slot; /* busy: the socket that tcp_recvmsg reads from */
	u64 buffer;	       /* and the buffer */
};
TASK_SLOTS(tasks, struct dns_task);

static __always_inline bool is_dns_client(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_dport) == bpf_htons(DNS_PORT);
}

/* Over TCP the length precedes the message, possibly in a separate buffer. */
static __always_inline bool read_tcp(const void *buffer, u64 length, const void **message,
				     u32 *size, struct dns_message *m)
{
	u8 start[6] = {};

	if (!buffer || length < DNS_HEADER || bpf_probe_read_user(start, sizeof(start), buffer))
		return false;
	if ((u64)(start[0] << 8 | start[1]) == length - 2) {
		buffer += 2;
		length -= 2;
		__builtin_memcpy(m->header, start + 2, sizeof(m->header));
	} else {
		__builtin_memcpy(m->header, start, sizeof(m->header));
	}
	*message = buffer;
	*size = length;
	return length >= DNS_HEADER && !(m->header[2] & DNS_OPCODE);
}

static __always_inline void question_of(const struct sock *sk, struct dns_message *m,
					struct dns_question *q)
{
	u64 v6[2] = {};

	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6) {
		BPF_CORE_READ_INTO(&v6, sk, __sk_common.skc_v6_daddr);
		q->server = fold(v6);
	} else {
		q->server = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	}
	q->transport = DNS_TCP;
	q->net = net_of(sk);
	q->port = BPF_CORE_READ(sk, __sk_common.skc_num);
	q->id = id_of(m);
}

/* (sk, msg, size) */
SEC("fentry/tcp_sendmsg")
int tcp_send_fentry(u64 *ctx)
{
	const struct sock *sk = (const struct sock *)ctx[0];
	struct dns_question q = {};
	struct dns_message m = {};
	const void *buffer, *message;
	u64 length = 0;
	u32 size = 0;

	if (!is_dns_client(sk))
		return 0;
	buffer = message_buffer((const struct msghdr *)ctx[1], 0, &length);
	if (length == 2)
		buffer = message_buffer((const struct msghdr *)ctx[1], 1, &length);
	if (!read_tcp(buffer, length, &message, &size, &m) || is_answer(&m))
		return 0;
	question_of(sk, &m, &q);
	if (read_question(message, size, true, &m) || unparsed())
		on_query(&q, &m);
	return 0;
}

/* (sk, msg, ...) */
SEC("fentry/tcp_recvmsg")
int tcp_receive_fentry(u64 *ctx)
{
	const struct sock *sk = (const struct sock *)ctx[0];
	u32 tid = current_tid();
	struct dns_task *task;
	u64 length = 0;

	if (!is_dns_client(sk))
		return 0;
	task = tasks_take(tid, tid);
	if (!task)
		return 0;
	task_slot_begin(&task->slot, (u64)sk);
	/* The kernel advances the iterator while it reads. */
	task->buffer = (u64)message_buffer((const struct msghdr *)ctx[1], 0, &length);
	return 0;
}

static __always_inline int on_tcp_receive(const struct sock *sk, s64 length)
{
	u32 tid = current_tid(), size = 0;
	struct dns_task *task = tasks_find(tid, tid);
	struct dns_question q = {};
	struct dns_message m = {};
	const void *message;

	if (!task || task->slot.busy != (u64)sk)
		return 0;
	task_slot_end(&task->slot);
	if (length <= 0 || !read_tcp((const void *)task->buffer, length, &message, &size, &m) ||
	    !is_answer(&m))
		return 0;
	question_of(sk, &m, &q);
	on_answer(&q, &m, message, size, true);
	return 0;
}

/*
 * The number of arguments before the result changed: nonblock was removed in 5.19, addr_len later.
 */
SEC("fexit/tcp_recvmsg")
int tcp_receive_four_fexit(u64 *ctx)
{
	return on_tcp_receive((const struct sock *)ctx[0], (int)ctx[4]);
}

SEC("fexit/tcp_recvmsg")
int tcp_receive_five_fexit(u64 *ctx)
{
	return on_tcp_receive((const struct sock *)ctx[0], (int)ctx[5]);
}

SEC("fexit/tcp_recvmsg")
int tcp_receive_six_fexit(u64 *ctx)
{
	return on_tcp_receive((const struct sock *)ctx[0], (int)ctx[6]);
}

/* (net, skb) */
SEC("fentry/ip_send_skb")
int send_v4_fentry(u64 *ctx)
{
	return on_send((const struct sk_buff *)ctx[1]);
}

SEC("kprobe/ip_send_skb")
int BPF_KPROBE(send_v4_kprobe, void *net, const struct sk_buff *skb)
{
	return on_send(skb);
}

/* (skb) */
SEC("fentry/ip6_send_skb")
int send_v6_fentry(u64 *ctx)
{
	return on_send((const struct sk_buff *)ctx[0]);
}

SEC("kprobe/ip6_send_skb")
int BPF_KPROBE(send_v6_kprobe, const struct sk_buff *skb)
{
	return on_send(skb);
}

/* (sk, skb); at entry, because afterwards the datagram may be freed. */
SEC("fentry/__udp_enqueue_schedule_skb")
int receive_fentry(u64 *ctx)
{
	return on_receive((const struct sock *)ctx[0], (const struct sk_buff *)ctx[1]);
}

SEC("kprobe/__udp_enqueue_schedule_skb")
int BPF_KPROBE(receive_kprobe, const struct sock *sk, const struct sk_buff *skb)
{
	return on_receive(sk, skb);
}

static __always_inline int on_error_v4(const struct sk_buff *skb)
{
	const void *ip = BPF_CORE_READ(skb, data);
	u8 length = 0; /* in the lower 4 bits, in 32-bit words */

	bpf_probe_read_kernel(&length, sizeof(length), ip);
	return on_error(skb, ip, ip + (length & 0xf) * 4);
}

/* (skb, info): the data begins with the quoted IP header. */
SEC("fentry/udp_err")
int error_v4_fentry(u64 *ctx)
{
	return on_error_v4((const struct sk_buff *)ctx[0]);
}

SEC("kprobe/udp_err")
int BPF_KPROBE(error_v4_kprobe, const struct sk_buff *skb)
{
	return on_error_v4(skb);
}

/*
 * (skb, opt, type, code, offset, ...): the UDP header is at that offset. udpv6_err only
 * calls __udp6_lib_err, often by a jump, and the kernels of Debian 11 and 12 refuse to
 * trace it.
 */
static __always_inline int on_error_v6(const struct sk_buff *skb, u32 offset)
{
	const void *ip = BPF_CORE_READ(skb, data);

	return on_error(skb, ip, ip + offset);
}

SEC("kprobe/__udp6_lib_err")
int BPF_KPROBE(error_v6_lib_kprobe, const struct sk_buff *skb, void *opt, u8 type, u8 code,
	       u32 offset)
{
	return on_error_v6(skb, offset);
}

SEC("fentry/udpv6_err")
int error_v6_fentry(u64 *ctx)
{
	return on_error_v6((const struct sk_buff *)ctx[0], ctx[4]);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
