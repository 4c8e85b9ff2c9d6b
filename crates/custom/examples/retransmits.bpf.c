// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Which services do we send TCP segments to again? retransmits.yaml makes a metric of it. */

/* Types of the kernel. Every program needs this file first. */
#include "vmlinux.h"
/* SEC, __uint, __type, and the functions that the kernel has for programs. */
#include <bpf/bpf_helpers.h>
/* bpf_ntohs: numbers in packets have their bytes the other way round. */
#include <bpf/bpf_endian.h>
/* BPF_PROG: gives names to a tracepoint's arguments. */
#include <bpf/bpf_tracing.h>
/* Counters in maps. */
#include "maps.bpf.h"

/* The key of the counter, without gaps. The config lists its members in this order. */
struct retransmits_key {
	u16 port;
	u16 family;
};

/*
 * The counter: the map has the metric's name, and its values are u64. If more ports than this are
 * contacted, those not seen for the longest time are forgotten.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct retransmits_key);
	__type(value, u64);
} retransmits_total SEC(".maps");

/* The kernel sends a segment again. */
SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(retransmits_skb, const struct sock *sk, const struct sk_buff *skb)
{
	struct retransmits_key key = {};

	/* The port of the other side. */
	key.port = bpf_ntohs(sk->__sk_common.skc_dport);
	/* 2 is IPv4, 10 is IPv6: the config has words for them. */
	key.family = sk->__sk_common.skc_family;
	/* Adds 1; makes the entry if there is none. */
	increment_map(&retransmits_total, &key, 1);
	return 0;
}

/* The kernel has functions that only programs with such a licence may call. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
