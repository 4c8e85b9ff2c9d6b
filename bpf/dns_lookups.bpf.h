/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __DNS_LOOKUPS_BPF_H
#define __DNS_LOOKUPS_BPF_H

/*
 * DNS lookups: which query an answer belongs to, and for whom it was sent. The hooks are in
 * dns.bpf.c.
 */
#include "dns_message.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"

enum dns_transport {
	DNS_UDP,
	DNS_TCP,
};

/* Why a query failed: the response code, or: */
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
	u64 unmatched; /* no outstanding query, or too late */
	u64 cache_hits;
	u64 cache_misses;
	u64 unparsed;
	u64 replaced; /* the asker used port and id again, and got no answer before that */
	u64 upstream_replaced;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct dns_counts);
} counts SEC(".maps");

/* Identifies an outstanding query. Known from the query and from its answer alike. */
struct dns_question {
	u64 net;    /* struct net *: ports and ids are unique in a namespace only */
	u64 server; /* its address, folded into a word: a client may query several servers at once
		     */
	u16 port;
	u16 id;
	u32 transport;
};

struct dns_asked {
	u64 first; /* first and last send */
	u64 last;
	u64 hash;     /* of name and type */
	u32 upstream; /* by a local resolver */
	u32 tgid;
	u64 again; /* port and id had another question, whose answer may still come */
};

/* Removed by the answer, or by userland after the timeout. */
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
};

/*
 * Queries that a local resolver received and has not answered. LRU: a query that it never answers
 * is of no use, and its sender has counted it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct dns_question); /* the asker's port */
	__type(value, struct dns_served);
} served SEC(".maps");

#define DNS_WANTED_OF 4

/*
 * Local servers that received a query, by its hash. LRU as above. Two that receive one at the same
 * time may overwrite each other: then one of them is recognised by its first answer.
 */
struct dns_wanted {
	u64 when; /* the query was last received */
	u64 next;
	u64 sockets[DNS_WANTED_OF]; /* struct socket * */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct dns_wanted);
} wanted SEC(".maps");

/* When a query was last sent, or answered, upstream. LRU: old entries are of no use. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); /* hash of the question */
	__type(value, u64);
} went_up SEC(".maps");

/* Processes that answered from port 53, and whether they query others. LRU: they exit. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, u32); /* process id */
	__type(value, u32);
} resolvers SEC(".maps");

#define RESOLVER_ANSWERS 1
#define RESOLVER_ASKS 2

/* A resolver must query upstream within this time after it received a query. */
#define WANTED_NS 1000000000ULL

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

/* Another CPU may receive the query again after `now` was read: that is recent too. */
static __always_inline bool was_just_received(const struct dns_wanted *w, u64 now)
{
	return now <= w->when + WANTED_NS;
}

/* Open files of a process to check: a server opens its sockets early. */
#define DNS_FILES 256

/* Of these, for one call of is_wanted_at(). */
#define DNS_FILES_STEP 16

/* Whether one of `n` files, DNS_FILES_STEP at most, is a socket that received the query. */
__noinline int is_wanted_at(u64 files, u32 n, u64 hash)
{
	struct dns_wanted *w = bpf_map_lookup_elem(&wanted, &hash);

	if (!w)
		return false;
	for (u32 i = 0; i < DNS_FILES_STEP && i < n; i++) {
		struct file *file = NULL;
		u64 data;

		bpf_probe_read_kernel(&file, sizeof(file), (void **)files + i);
		if (!file)
			continue;
		data = (u64)BPF_CORE_READ(file, private_data);
		if (!data)
			continue;
		for (int k = 0; k < DNS_WANTED_OF; k++) {
			if (data == w->sockets[k])
				return true;
		}
	}
	return false;
}

/* Whether the current process has one of the sockets open that just received the query. */
__noinline int was_asked(u64 hash, u64 now)
{
	struct dns_wanted *w = bpf_map_lookup_elem(&wanted, &hash);
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *table;
	void **files;
	u32 n;

	if (!w || !was_just_received(w, now))
		return false;
	table = BPF_CORE_READ(task, files, fdt);
	files = BPF_CORE_READ(table, fd);
	n = BPF_CORE_READ(table, max_fds);
	for (u32 i = 0; i < DNS_FILES && i < n; i += DNS_FILES_STEP) {
		if (is_wanted_at((u64)(files + i), n - i, hash))
			return true;
	}
	return false;
}

/* Whether the current process queries on behalf of others. */
static __always_inline bool asks_for_others(u32 tgid, const struct dns_message *m, u64 now)
{
	u32 *resolver = bpf_map_lookup_elem(&resolvers, &tgid), both;

	/*
	 * A process that never answered may send the same query as a client by chance, or query
	 * several servers.
	 */
	if ((!resolver || !(*resolver & RESOLVER_ANSWERS)) && !was_asked(m->hash, now))
		return false;
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
	bool before;

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
	before = old && old->upstream;
	/* An answer or the timeout may come at the same moment: the one that deletes counts. */
	asked.again = old != NULL;
	if (old && !bpf_map_delete_elem(&outstanding, q))
		__sync_fetch_and_add(before ? &c->upstream_replaced : &c->replaced, 1);
	if (bpf_map_update_elem(&outstanding, q, &asked, BPF_ANY))
		count_event(EVENT_MAP_FULL);
}

/* `length` bytes of an answer, in user memory if `user`. */
static __always_inline void on_answer(struct dns_question *q, struct dns_message *m,
				      const void *message, u32 length, bool user)
{
	struct dns_asked *found = bpf_map_lookup_elem(&outstanding, q), asked;
	struct dns_counts *c = all();
	u32 rcode = m->header[3] & DNS_RCODE;
	u64 now = bpf_ktime_get_ns(), hash;

	if (!c)
		return;
	if (found)
		asked = *found;
	/* The question of an answer is that of its query. One without is taken for the last
	 * query's. */
	if (found && asked.again && read_question(message, length, user, m) &&
	    m->hash != asked.hash)
		found = NULL;
	/*
	 * A second answer or the timeout may come at the same moment: the one that deletes counts.
	 */
	if (!found || bpf_map_delete_elem(&outstanding, q)) {
		__sync_fetch_and_add(&c->unmatched, 1);
		return;
	}
	if (asked.upstream) {
		hist_observe_us(&c->upstream_latency, elapsed_ns(asked.first, now));
		if (rcode)
			__sync_fetch_and_add(&c->upstream_failures, 1);
		hash = asked.hash;
		bpf_map_update_elem(&went_up, &hash, &now, BPF_ANY);
	} else {
		hist_observe_us(&c->latency, elapsed_ns(asked.first, now));
		add(&responses, rcode);
		if (rcode)
			add(&failures, rcode);
	}
}

/* A local server receives a query, on that struct socket. */
static __always_inline void on_served(struct dns_question *q, const struct dns_message *m,
				      u64 socket)
{
	u64 now = bpf_ktime_get_ns(), hash = m->hash;
	struct dns_served s = {.arrived = now, .hash = hash};
	struct dns_wanted first = {.when = now, .next = 1, .sockets = {socket}};
	struct dns_wanted *w = bpf_map_lookup_elem(&wanted, &hash);

	bpf_map_update_elem(&served, q, &s, BPF_ANY);
	if (!w || !was_just_received(w, now)) {
		bpf_map_update_elem(&wanted, &hash, &first, BPF_ANY);
		return;
	}
	w->when = now;
	for (int k = 0; k < DNS_WANTED_OF; k++) {
		if (w->sockets[k] == socket)
			return;
	}
	w->sockets[w->next++ % DNS_WANTED_OF] = socket;
}

/*
 * A local server answers. It is a cache hit unless, since the query arrived, the server sent the
 * same query upstream or got an answer to it, for this client or another.
 */
static __always_inline void on_serve(struct dns_question *q)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32, answers = RESOLVER_ANSWERS;
	u32 *resolver = bpf_map_lookup_elem(&resolvers, &tgid);
	struct dns_served *s = bpf_map_lookup_elem(&served, q);
	struct dns_counts *c = all();
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
	/* A server that never queries others is authoritative: that is not a cache. */
	if (answers & RESOLVER_ASKS) {
		up = bpf_map_lookup_elem(&went_up, &hash);
		if (up && *up >= s->arrived)
			__sync_fetch_and_add(&c->cache_misses, 1);
		else
			__sync_fetch_and_add(&c->cache_hits, 1);
	}
	bpf_map_delete_elem(&served, q);
}

#endif /* __DNS_LOOKUPS_BPF_H */
