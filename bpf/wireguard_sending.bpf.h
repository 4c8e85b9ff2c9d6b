/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __WIREGUARD_SENDING_BPF_H
#define __WIREGUARD_SENDING_BPF_H

/*
 * Messages to peers: which are sent, and which the host drops below the tunnel.
 *
 * wg_socket_send_skb_to_peer() returns success even if the packet is dropped further down, because
 * udp_tunnel_xmit_skb() returns nothing. It calls ip_local_out() or ip6_local_out() for the packet.
 * Their result decides whether the interface counts it as sent.
 */
#include "wireguard_peers.bpf.h"

#define NET_XMIT_CN 2 /* include/linux/netdevice.h: another packet of the flow was dropped */

#define USER_DATA_FLAGS 7ULL /* include/net/sock.h: SK_USER_DATA_PTRMASK */

/* (peer, skb, ds): read the message before it is freed. */
static __noinline int on_send(u64 peer, u64 message)
{
	const struct sk_buff *skb = (const struct sk_buff *)message;
	const void *data = BPF_CORE_READ(skb, data);
	struct wireguard_task *t = task(true);
	u32 type = 0;

	if (!t)
		return 0;
	if (t->sends)
		count_event(EVENT_NO_START); /* the end of the last message is lost */
	bpf_probe_read_kernel(&type, sizeof(type), data);
	t->depth = 0;
	t->dropped = 0;
	t->message = message;
	t->is_keepalive = type == MESSAGE_DATA && BPF_CORE_READ(skb, len) == KEEPALIVE_BYTES;
	t->sends = peer;
	return 0;
}
ON_ENTRY_OF_2(wg_socket_send_skb_to_peer, send, on_send)

/* `peer` and `message`, which is freed by now, are 0 where they are not known. */
static __noinline int on_sent(u64 peer, u64 message, u64 result)
{
	struct wireguard_task *t = task(false);
	struct wireguard_packets *p;
	u64 sends = t ? t->sends : 0;

	if (t)
		t->sends = 0;
	if (!sends) {
		count_event(EVENT_NO_START);
		return 0;
	}
	/* Another message: the start of this one is lost, and so was the end of an earlier one. */
	if (peer && (peer != sends || message != t->message)) {
		count_event(EVENT_NO_START);
		count_event(EVENT_NO_START);
		return 0;
	}
	p = peer_packets(sends);
	if ((int)result < 0 || t->dropped) {
		ADD(p, not_sent, 1);
		return 0;
	}
	ADD(p, sent, 1);
	if (t->is_keepalive)
		ADD(p, sent_keepalives, 1);
	return 0;
}

SEC("fexit/wireguard:wg_socket_send_skb_to_peer")
int send_fexit(u64 *ctx)
{
	return on_sent(ctx[0], ctx[1], ctx[3]);
}

SEC("kretprobe/wg_socket_send_skb_to_peer")
int BPF_KRETPROBE(send_kretprobe, u64 result)
{
	return on_sent(0, 0, result);
}

/* include/linux/netdevice.h: net_xmit_eval() */
static __always_inline bool is_dropped(int result)
{
	return result && result != NET_XMIT_CN;
}

/*
 * The record of this thread, if it is sending a message through this socket. Other packets that it
 * sends meanwhile use another socket, such as a reply of the other end of a veth in a softirq.
 */
static __noinline struct wireguard_task *sends_by(const struct sock *sk)
{
	struct wireguard_task *t = task(false);
	u64 wg;

	if (!t || !t->sends)
		return NULL;
	wg = (u64)BPF_CORE_READ(sk, sk_user_data) & ~USER_DATA_FLAGS;
	return wg == read_pointer(t->sends + OFFSET_OF(wg_peer, device)) ? t : NULL;
}

static __always_inline int on_sent_below(u64 sk, int result)
{
	struct wireguard_task *t;

	/* This runs for each packet of the host. */
	if (!is_dropped(result))
		return 0;
	t = sends_by((const struct sock *)sk);
	if (t)
		t->dropped = 1;
	return 0;
}

/* A kretprobe does not get the socket, and a tunnel below calls the same function nested. */
static __noinline int on_send_below(u64 sk)
{
	struct wireguard_task *t = task(false);

	if (t && t->sends && (t->depth || sends_by((const struct sock *)sk)))
		t->depth++;
	return 0;
}

static __noinline int on_left_below(u64 result)
{
	struct wireguard_task *t = task(false);

	if (!t || !t->sends || !t->depth)
		return 0;
	t->depth--;
	if (!t->depth && is_dropped((int)result))
		t->dropped = 1;
	return 0;
}

/* (net, sk, skb) */
#define ON_OUT(function, name)                             \
	SEC("fexit/" #function)                            \
	int name##_fexit(u64 *ctx)                         \
	{                                                  \
		return on_sent_below(ctx[1], (int)ctx[3]); \
	}                                                  \
	SEC("kprobe/" #function)                           \
	int BPF_KPROBE(name##_kprobe, u64 net, u64 sk)     \
	{                                                  \
		return on_send_below(sk);                  \
	}                                                  \
	SEC("kretprobe/" #function)                        \
	int BPF_KRETPROBE(name##_kretprobe, u64 result)    \
	{                                                  \
		return on_left_below(result);              \
	}
ON_OUT(ip_local_out, local_out)
ON_OUT(ip6_local_out, local_out6)

#endif /* __WIREGUARD_SENDING_BPF_H */
