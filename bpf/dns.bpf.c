// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long do name look-ups take, how many fail?
 *
 * Hooks: ip_send_skb, ip6_send_skb and __udp_enqueue_schedule_skb for UDP: at the socket,
 * where each datagram passes once, before and after any address translation; tcp_sendmsg
 * and tcp_recvmsg for TCP; udp_err and udpv6_err for servers that are not there. By fentry
 * and fexit, else (UDP only) kprobe.
 * Cost: a port is compared for each UDP datagram and each call on a TCP socket; a question
 * costs two hash look-ups and a walk over its name.
 * A question that a local resolver asks in turn (dnsmasq, systemd-resolved, ...) is not one
 * more look-up: it is counted as upstream. A resolver is a process that answered from port
 * 53; before its first answer its questions are known by being those just asked of it.
 * Not seen: names asked over D-Bus, varlink, DNS over TLS, HTTPS or QUIC; mDNS and LLMNR;
 * answers by recvmmsg and io_uring over TCP.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "core_fixes.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "task_slots.bpf.h"

#define DNS_PORT 53
#define IPPROTO_UDP 17
#define AF_INET6 10
#define UDP_HEADER 8
#define DNS_HEADER 12
#define DNS_NAME_MAX 255
#define DNS_QR 0x80
#define DNS_OPCODE 0x78
#define DNS_RCODE 0x0f

enum dns_transport {
	DNS_UDP,
	DNS_TCP,
};

/* In the order of the words in userland. */
enum dns_type {
	DNS_A,
	DNS_AAAA,
	DNS_PTR,
	DNS_SRV,
	DNS_MX,
	DNS_TXT,
	DNS_CNAME,
	DNS_NS,
	DNS_SOA,
	DNS_HTTPS,
	DNS_OTHER_TYPE,
};

/* Why a look-up failed: the response code, or: */
#define DNS_UNREACHABLE 16
#define DNS_FAILURES 17

struct dns_number {
	u64 value;
};

struct dns_query_key {
	u32 transport; /* enum dns_transport */
	u32 type;      /* enum dns_type */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 64); /* more than there are transports and types */
	__type(key, struct dns_query_key);
	__type(value, struct dns_number);
} queries SEC(".maps");

const struct dns_number zero_number = {};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 16);
	__type(key, u32); /* response code */
	__type(value, struct dns_number);
} responses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DNS_FAILURES);
	__type(key, u32);
	__type(value, struct dns_number);
} failures SEC(".maps");

struct dns_counts {
	struct hist latency; /* us */
	struct hist upstream_latency;
	u64 upstream_queries;
	u64 upstream_failures;
	u64 retries;
	u64 unmatched; /* answers to nothing that we know of, or too late */
	u64 cache_hits;
	u64 cache_misses;
	u64 unparsed;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct dns_counts);
} counts SEC(".maps");

/* A question on its way, as both ends of a conversation can name it. */
struct dns_question {
	u64 net; /* struct net *: ports and ids are unique in a namespace only */
	u16 port;
	u16 id;
	u32 transport;
};

struct dns_asked {
	u64 first; /* sent first, and last */
	u64 last;
	u64 hash;     /* of name and type */
	u32 upstream; /* by a local resolver */
	u32 tgid;
};

/* Removed by the answer, or by userland when it takes too long. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct dns_question);
	__type(value, struct dns_asked);
} outstanding SEC(".maps");

struct dns_served {
	u64 arrived;
	u64 hash;
	u64 address; /* it was asked at */
};

/*
 * Questions that a local resolver was asked and has not answered. LRU: one that it never
 * answers is nobody's any more, and who asked has counted it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct dns_question); /* the asker's port */
	__type(value, struct dns_served);
} served SEC(".maps");

/* A question that local resolvers were asked last, by its hash. LRU as above. */
struct dns_wanted {
	u64 when;
	u64 address; /* that it was asked at: a resolver does not ask itself */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct dns_wanted);
} wanted SEC(".maps");

/* When a question was last asked, or answered, upstream. LRU: old ones matter no more. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); /* hash of the question */
	__type(value, u64);
} went_up SEC(".maps");

/* Processes that answered from port 53, and whether they ask others. LRU: they end. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, u32); /* process id */
	__type(value, u32);
} resolvers SEC(".maps");

#define RESOLVER_ANSWERS 1
#define RESOLVER_ASKS 2

/* A resolver has this long from a question to asking it in turn. */
#define WANTED_NS 1000000000ULL

/* A message, taken apart. */
struct dns_message {
	u8 header[4]; /* id, flags */
	u32 type;     /* enum dns_type */
	u64 hash;
	u64 address; /* it was sent to, folded into a word */
};

static __always_inline struct dns_counts *all(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&counts, &zero);
}

static __always_inline void add(void *map, u32 key)
{
	struct dns_number *n = bpf_map_lookup_elem(map, &key);

	if (n)
		__sync_fetch_and_add(&n->value, 1);
}

static __always_inline u32 type_of(u16 number)
{
	switch (number) {
	case 1:
		return DNS_A;
	case 28:
		return DNS_AAAA;
	case 12:
		return DNS_PTR;
	case 33:
		return DNS_SRV;
	case 15:
		return DNS_MX;
	case 16:
		return DNS_TXT;
	case 5:
		return DNS_CNAME;
	case 2:
		return DNS_NS;
	case 6:
		return DNS_SOA;
	case 65:
		return DNS_HTTPS;
	}
	return DNS_OTHER_TYPE;
}

/*
 * Hash (FNV-1a) of the question's name in lower case, as resolvers change letters' case
 * to make answers hard to forge, and of its type.
 */
static __always_inline bool read_question(const void *message, u32 length, bool user,
					  struct dns_message *m)
{
	u8 name[DNS_NAME_MAX + 1] = {};
	u64 hash = 0xcbf29ce484222325ULL;
	u32 size = length - DNS_HEADER, i, left = 0, end = 0;
	const void *from = message + DNS_HEADER;
	u16 type;

	if (size > DNS_NAME_MAX)
		size = DNS_NAME_MAX;
	asm volatile("" : "+r"(size));
	size &= DNS_NAME_MAX;
	if (user ? bpf_probe_read_user(name, size, from) : bpf_probe_read_kernel(name, size, from))
		return false;
	for (i = 0; i < DNS_NAME_MAX - 4; i++) {
		u8 c = name[i];

		if (!left) {
			if (!c) {
				end = i + 1;
				break;
			}
			left = c;
		} else {
			left--;
		}
		if (c >= 'A' && c <= 'Z')
			c += 'a' - 'A';
		hash = (hash ^ c) * 0x100000001b3ULL;
	}
	if (!end || end > DNS_NAME_MAX - 4)
		return false;
	type = name[end] << 8 | name[end + 1];
	m->type = type_of(type);
	m->hash = (hash ^ type) * 0x100000001b3ULL;
	return true;
}

static __always_inline bool is_answer(const struct dns_message *m)
{
	return m->header[2] & DNS_QR;
}

static __always_inline u16 id_of(const struct dns_message *m)
{
	return m->header[0] << 8 | m->header[1];
}

/* Whether the current process asks on behalf of others. */
static __always_inline bool asks_for_others(u32 tgid, const struct dns_message *m, u64 now)
{
	u32 *resolver = bpf_map_lookup_elem(&resolvers, &tgid), both;
	struct dns_wanted *w;
	u64 hash = m->hash;

	if (!resolver) {
		w = bpf_map_lookup_elem(&wanted, &hash);
		if (!w || now - w->when > WANTED_NS || w->address == m->address)
			return false;
	}
	both = RESOLVER_ASKS | (resolver ? *resolver : 0);
	if (!resolver || *resolver != both)
		bpf_map_update_elem(&resolvers, &tgid, &both, BPF_ANY);
	return true;
}

static __always_inline void on_query(struct dns_question *q, const struct dns_message *m)
{
	u64 now = bpf_ktime_get_ns();
	struct dns_query_key key = {.transport = q->transport, .type = m->type};
	struct dns_asked *old = bpf_map_lookup_elem(&outstanding, q);
	struct dns_asked asked = {.first = now, .last = now, .hash = m->hash};
	struct dns_counts *c = all();
	struct dns_number *n;
	u64 hash = m->hash;

	if (!c)
		return;
	asked.tgid = bpf_get_current_pid_tgid() >> 32;
	asked.upstream = asks_for_others(asked.tgid, m, now);
	if (asked.upstream) {
		__sync_fetch_and_add(&c->upstream_queries, 1);
		bpf_map_update_elem(&went_up, &hash, &now, BPF_ANY);
	} else {
		n = map_lookup_or_init(&queries, &key, &zero_number);
		if (n)
			__sync_fetch_and_add(&n->value, 1);
	}
	if (old && old->hash == hash) {
		__sync_fetch_and_add(&c->retries, 1);
		old->last = now;
		return;
	}
	if (bpf_map_update_elem(&outstanding, q, &asked, BPF_ANY))
		count_event(EVENT_MAP_FULL);
}

static __always_inline void on_answer(struct dns_question *q, const struct dns_message *m)
{
	struct dns_asked *asked = bpf_map_lookup_elem(&outstanding, q);
	struct dns_counts *c = all();
	u32 rcode = m->header[3] & DNS_RCODE;
	u64 now = bpf_ktime_get_ns(), hash;

	if (!c)
		return;
	if (!asked) {
		__sync_fetch_and_add(&c->unmatched, 1);
		return;
	}
	if (asked->upstream) {
		hist_observe_us(&c->upstream_latency, elapsed_ns(asked->first, now));
		if (rcode)
			__sync_fetch_and_add(&c->upstream_failures, 1);
		hash = asked->hash;
		bpf_map_update_elem(&went_up, &hash, &now, BPF_ANY);
	} else {
		hist_observe_us(&c->latency, elapsed_ns(asked->first, now));
		add(&responses, rcode);
		if (rcode)
			add(&failures, rcode);
	}
	bpf_map_delete_elem(&outstanding, q);
}

/* A local server is asked. */
static __always_inline void on_served(struct dns_question *q, const struct dns_message *m)
{
	u64 now = bpf_ktime_get_ns();
	struct dns_served s = {.arrived = now, .hash = m->hash, .address = m->address};
	struct dns_wanted w = {.when = now, .address = m->address};
	struct dns_wanted *old = bpf_map_lookup_elem(&wanted, &s.hash);

	bpf_map_update_elem(&served, q, &s, BPF_ANY);
	/* A resolver may ask another one here: the first that was asked is the one to know. */
	if (!old || now - old->when > WANTED_NS || old->address == m->address)
		bpf_map_update_elem(&wanted, &s.hash, &w, BPF_ANY);
}

/*
 * A local server answers. It had the answer unless it asked for it, or had an answer to
 * somebody else's same question, since it was asked.
 */
static __always_inline void on_serve(struct dns_question *q)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, answers = RESOLVER_ANSWERS;
	u32 *resolver = bpf_map_lookup_elem(&resolvers, &tgid);
	struct dns_served *s = bpf_map_lookup_elem(&served, q);
	struct dns_counts *c = all();
	struct dns_wanted *w;
	u64 hash, *up;

	if (!resolver || !(*resolver & RESOLVER_ANSWERS)) {
		answers |= resolver ? *resolver : 0;
		bpf_map_update_elem(&resolvers, &tgid, &answers, BPF_ANY);
	} else {
		answers = *resolver;
	}
	if (!s || !c)
		return;
	hash = s->hash;
	w = bpf_map_lookup_elem(&wanted, &hash);
	if (w && w->address == s->address)
		bpf_map_delete_elem(&wanted, &hash);
	/* One that asks nobody knows by itself: that is no cache. */
	if (answers & RESOLVER_ASKS) {
		up = bpf_map_lookup_elem(&went_up, &hash);
		if (up && *up >= s->arrived)
			__sync_fetch_and_add(&c->cache_misses, 1);
		else
			__sync_fetch_and_add(&c->cache_hits, 1);
	}
	bpf_map_delete_elem(&served, q);
}

/* Ports of a UDP datagram, and where its payload lies. */
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

/* An address as one word: to be compared, not to be shown. */
static __always_inline u64 fold(const u64 *v6)
{
	return v6[0] * 31 ^ v6[1];
}

static __always_inline u64 target_address(const struct sk_buff *skb)
{
	const void *ip = BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, network_header);
	u64 v6[2] = {};
	u32 v4 = 0;
	u8 version = 0;

	bpf_probe_read_kernel(&version, sizeof(version), ip);
	if (version >> 4 == 4) {
		bpf_probe_read_kernel(&v4, sizeof(v4), ip + 16);
		return v4;
	}
	bpf_probe_read_kernel(v6, sizeof(v6), ip + 24);
	return fold(v6);
}

static __always_inline const void *udp_header(const struct sk_buff *skb)
{
	return BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, transport_header);
}

static __always_inline bool read_message(const struct dns_datagram *d, struct dns_message *m)
{
	struct dns_counts *c = all();

	/* In fragments, which programs cannot read, or no message at all. */
	if ((s32)d->length < DNS_HEADER ||
	    bpf_probe_read_kernel(m->header, sizeof(m->header), d->payload)) {
		if (c)
			__sync_fetch_and_add(&c->unparsed, 1);
		return false;
	}
	return !(m->header[2] & DNS_OPCODE);
}

/* Our own `net` of a socket. */
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
	m.address = target_address(skb);
	if (!is_answer(&m) && d.target == DNS_PORT) {
		q.port = d.source;
		if (read_question(d.payload, d.length, false, &m))
			on_query(&q, &m);
	} else if (is_answer(&m) && d.source == DNS_PORT) {
		q.port = d.target;
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
	m.address = target_address(skb);
	if (is_answer(&m) && d.source == DNS_PORT) {
		q.port = d.target;
		on_answer(&q, &m);
	} else if (!is_answer(&m) && d.target == DNS_PORT) {
		q.port = d.source;
		if (read_question(d.payload, d.length, false, &m))
			on_served(&q, &m);
	}
	return 0;
}

/* An ICMP error quotes the datagram that it is about, which one of ours has sent. */
static __always_inline int on_error(const struct sk_buff *skb, const void *udp)
{
	struct dns_question q = {.transport = DNS_UDP};
	struct dns_counts *c = all();
	struct dns_datagram d = {};
	struct dns_message m = {};
	struct dns_asked *asked;

	if (!c || !read_udp(skb, udp, &d) || d.target != DNS_PORT ||
	    bpf_probe_read_kernel(m.header, sizeof(m.header), d.payload))
		return 0;
	q.net = (u64)BPF_CORE_READ(skb, dev, nd_net.net);
	q.port = d.source;
	q.id = id_of(&m);
	asked = bpf_map_lookup_elem(&outstanding, &q);
	if (!asked)
		return 0;
	if (asked->upstream)
		__sync_fetch_and_add(&c->upstream_failures, 1);
	else
		add(&failures, DNS_UNREACHABLE);
	bpf_map_delete_elem(&outstanding, &q);
	return 0;
}

struct dns_task {
	u32 tid;
	u32 zero;
	u64 sock;   /* that tcp_recvmsg is asked to read from; 0: none of ours */
	u64 buffer; /* and where to */
};
TASK_SLOTS(tasks, struct dns_task);

static __always_inline bool is_dns_client(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_dport) == bpf_htons(DNS_PORT);
}

/* Over TCP a message has its length before it, perhaps in a buffer of its own. */
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
		m->address = fold(v6);
	} else {
		m->address = BPF_CORE_READ(sk, __sk_common.skc_daddr);
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
	if (read_question(message, size, true, &m))
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
	task = task_slot(&tasks, tid);
	if (!task)
		return 0;
	task->tid = tid;
	task->sock = (u64)sk;
	/* The kernel moves on in the message while it reads. */
	task->buffer = (u64)message_buffer((const struct msghdr *)ctx[1], 0, &length);
	return 0;
}

static __always_inline int on_tcp_receive(const struct sock *sk, s64 length)
{
	u32 tid = current_tid(), size = 0;
	struct dns_task *task = task_slot(&tasks, tid);
	struct dns_question q = {};
	struct dns_message m = {};
	const void *message;

	if (!task || task->sock != (u64)sk || task->tid != tid)
		return 0;
	task->sock = 0;
	if (length <= 0 || !read_tcp((const void *)task->buffer, length, &message, &size, &m) ||
	    !is_answer(&m))
		return 0;
	question_of(sk, &m, &q);
	on_answer(&q, &m);
	return 0;
}

/* How many arguments are before the result changed: nonblock went in 5.19, addr_len later. */
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

/* (sk, skb); at entry, as afterwards the datagram may be gone. */
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
	u8 length = 0; /* in its lower half, in words */

	bpf_probe_read_kernel(&length, sizeof(length), ip);
	return on_error(skb, ip + (length & 0xf) * 4);
}

/* (skb, info): the quoted IP header is where data begins. */
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

/* (skb, opt, type, code, offset, info): the UDP header is at that offset. */
SEC("fentry/udpv6_err")
int error_v6_fentry(u64 *ctx)
{
	const struct sk_buff *skb = (const struct sk_buff *)ctx[0];

	return on_error(skb, BPF_CORE_READ(skb, data) + (u32)ctx[4]);
}

SEC("kprobe/udpv6_err")
int BPF_KPROBE(error_v6_kprobe, const struct sk_buff *skb, void *opt, u8 type, u8 code, u32 offset)
{
	return on_error(skb, BPF_CORE_READ(skb, data) + offset);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
