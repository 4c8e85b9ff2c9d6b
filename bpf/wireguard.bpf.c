// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Whose handshakes fail and why, which packets are lost and why, per peer.
 *
 * Hooks: fentry and fexit on functions of the module if it has BTF, otherwise kprobes and
 * kretprobes. No kernel from 5.10 to 7.2 inlines any of these functions.
 * Cost: with --wireguard.detail session, one run for each handshake and each batch of received
 * packets. With packet, five runs for each sent and nine for each received packet, most with a hash
 * lookup, a comparison for each packet that the host sends, and a lookup in an array for each work
 * that the kernel queues. Not seen directly: packets with replayed or too old counters, because
 * that check is inlined. They are the packets taken from a peer's queue minus those that failed
 * decryption or were accepted. Handshake messages that find the queue full are dropped inside
 * wg_packet_receive(): they are those for which it returns without having called queue_work_on(),
 * which the kernel calls for all kinds of work.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#define AF_INET 2
#define AF_INET6 10

#include "wireguard_calls.bpf.h"
#include "wireguard_peers.bpf.h"

/* drivers/net/wireguard/messages.h */
#define MESSAGE_INITIATION 1
#define MESSAGE_RESPONSE 2
#define MESSAGE_COOKIE 3
#define MESSAGE_DATA 4
#define INITIATION_BYTES 148
#define RESPONSE_BYTES 92
#define COOKIE_BYTES 64
#define UDP_HEADER 8
#define KEEPALIVE_BYTES 32   /* also the minimum of a data message */
#define WG_DEVICE_BYTES 4096 /* more than sizeof(struct wg_device) */
#define MAX_HANDSHAKES 18
#define MAX_STAGED_PACKETS 128

/* drivers/net/wireguard/peerlookup.h */
#define LOOKUP_KEYPAIR 2

/* enum cookie_mac_state */
#define INVALID_MAC 0
#define VALID_MAC_BUT_NO_COOKIE 1
#define VALID_MAC_WITH_COOKIE_BUT_RATELIMITED 2

#define EDESTADDRREQ 89
#define EPROTONOSUPPORT 93
#define ENOKEY 126

#include "wireguard_sending.bpf.h"

/* --wireguard.detail packet */
const volatile bool wireguard_each_packet = false;

/* Handshakes. */

/*
 * (dst, handshake): the message is made, and is sent next. wg_timers_handshake_initiated() is
 * called only after that, when the response may have been handled by another CPU.
 */
static __noinline int on_initiated(u64 message, u64 handshake, u64 made)
{
	struct wireguard_peer *p = peer_stats(CONTAINER(handshake, wg_peer, handshake));

	if (!(u8)made)
		return 0;
	ADD(p, attempts, 1);
	if (p && is_one(p))
		p->asked = bpf_ktime_get_ns();
	return 0;
}
ON_EXIT_OF(wg_noise_handshake_create_initiation, initiated, 2, CALL_CREATE_INITIATION, on_initiated)

/* Update the endpoint and key age of a peer; not for peers that share an entry. */
static __noinline void note_session(struct wireguard_peer *p, u64 peer, bool new_key)
{
	struct wireguard_endpoint now = {};

	if (!is_one(p))
		return;
	if (new_key || !p->birthdate)
		p->birthdate = birthdate_of(peer);
	read_endpoint(&now, peer);
	if (now.family == p->endpoint.family && now.port == p->endpoint.port &&
	    now.address[0] == p->endpoint.address[0] && now.address[1] == p->endpoint.address[1])
		return;
	/* The first endpoint is not a change. */
	if (p->endpoint.family)
		__sync_fetch_and_add(&p->roamed, 1);
	p->endpoint = now;
}

/* On both sides: at the response, or at the first packet under a new key. */
static __noinline int on_complete(u64 peer)
{
	struct wireguard_peer *p = peer_stats(peer);

	if (!p)
		return 0;
	__sync_fetch_and_add(&p->completed, 1);
	note_session(p, peer, true);
	return 0;
}
ON_ENTRY_OF(wg_timers_handshake_complete, complete, on_complete)

/* Five seconds without an answer to the last initiation. */
static __noinline int on_no_answer(u64 timer)
{
	u64 peer = CONTAINER(timer, wg_peer, timer_retransmit_handshake);
	struct wireguard_peer *p = peer_stats(peer);
	u32 attempts = 0;

	READ_MEMBER(attempts, peer, wg_peer, timer_handshake_attempts);
	if (attempts > MAX_HANDSHAKES)
		ADD(p, gave_up, 1);
	else
		ADD(p, no_answer, 1);
	return 0;
}
ON_ENTRY_OF(wg_expired_retransmit_handshake, no_answer, on_no_answer)

static __noinline int on_key_gone(u64 timer)
{
	struct wireguard_peer *p = peer_stats(CONTAINER(timer, wg_peer, timer_zero_key_material));

	if (p)
		p->birthdate = 0;
	return 0;
}
ON_ENTRY_OF(wg_expired_zero_key_material, key_gone, on_key_gone)

/* (dst, handshake) */
static __noinline int on_response_made(u64 message, u64 handshake, u64 made)
{
	if ((u8)made)
		ADD(peer_stats(CONTAINER(handshake, wg_peer, handshake)), responses_sent, 1);
	return 0;
}
ON_EXIT_OF(wg_noise_handshake_create_response, create_response, 2, CALL_CREATE_RESPONSE,
	   on_response_made)

/* (src, wg) */
static __noinline int on_response(u64 message, u64 wg, u64 peer)
{
	struct wireguard_device *d = device_stats(wg);
	struct wireguard_peer *p;

	if (!peer) {
		ADD(d, bad_responses, 1);
		return 0;
	}
	p = peer_stats(peer);
	if (!p)
		return 0;
	__sync_fetch_and_add(&p->responses_received, 1);
	if (d && p->asked)
		hist_observe_s(&d->latency, elapsed_ns(p->asked, bpf_ktime_get_ns()));
	p->asked = 0;
	return 0;
}
ON_EXIT_OF(wg_noise_handshake_consume_response, consume_response, 2, CALL_CONSUME_RESPONSE,
	   on_response)

/* (src, wg) */
static __noinline int on_initiation(u64 message, u64 wg, u64 peer)
{
	if (!peer)
		ADD(device_stats(wg), bad_initiations, 1);
	return 0;
}
ON_EXIT_OF(wg_noise_handshake_consume_initiation, consume_initiation, 2, CALL_CONSUME_INITIATION,
	   on_initiation)

/* (checker, skb, check_cookie) */
static __noinline int on_validated(u64 checker, u64 skb, u64 check_cookie, u64 state)
{
	struct wireguard_device *d =
		device_stats(read_pointer(checker + OFFSET_OF(cookie_checker, device)));

	if ((u32)state == INVALID_MAC)
		ADD(d, bad_mac, 1);
	else if ((u32)state == VALID_MAC_BUT_NO_COOKIE && (u8)check_cookie)
		ADD(d, cookie_required, 1);
	else if ((u32)state == VALID_MAC_WITH_COOKIE_BUT_RATELIMITED)
		ADD(d, rate_limited, 1);
	return 0;
}
ON_EXIT_OF_3(wg_cookie_validate_packet, validate, 3, CALL_VALIDATE, on_validated)

/* (handshake, keypairs) */
static __noinline int on_session(u64 handshake, u64 keypairs, u64 begun)
{
	if ((u8)begun)
		ADD(peer_stats(CONTAINER(handshake, wg_peer, handshake)), rotations, 1);
	return 0;
}
ON_EXIT_OF(wg_noise_handshake_begin_session, begin_session, 2, CALL_BEGIN_SESSION, on_session)

static __noinline int on_purge(u64 peer)
{
	u64 queue = peer + OFFSET_OF(wg_peer, staged_packet_queue);
	u32 length = BPF_CORE_READ((const struct sk_buff_head *)queue, qlen);

	if (length)
		ADD(peer_stats(peer), purged, length);
	return 0;
}
ON_ENTRY_OF(wg_packet_purge_staged_packets, purge, on_purge)

static __noinline int on_removed(u64 peer)
{
	struct wireguard_id key = {};

	READ_MEMBER(key.id, peer, wg_peer, internal_id);
	bpf_map_delete_elem(&peers, &key);
	bpf_map_delete_elem(&packets, &key);
	return 0;
}
ON_ENTRY_OF(peer_remove_after_dead, removed, on_removed)

/* (napi, budget): once for a batch of packets. */
static __noinline int on_polled(u64 napi, u64 budget, u64 done)
{
	u64 peer = CONTAINER(napi, wg_peer, napi);
	struct wireguard_peer *p = peer_stats(peer);

	if (!p || !(u32)done)
		return 0;
	note_session(p, peer, false);
	if (wireguard_each_packet)
		ADD(peer_packets(peer), polled, (u32)done);
	return 0;
}
ON_EXIT_OF(wg_packet_rx_poll, poll, 2, CALL_POLL, on_polled)

/* Packets received. */

/* The type of a message; 0: malformed. */
static __always_inline u32 message_type(const struct sk_buff *skb, u32 bytes)
{
	u32 type = 0, linear = bytes - BPF_CORE_READ(skb, data_len);
	const u8 *data = BPF_CORE_READ(skb, data);

	/* The type is not in linear memory: most likely data. */
	if (linear < UDP_HEADER + sizeof(type))
		return bytes >= UDP_HEADER + KEEPALIVE_BYTES ? MESSAGE_DATA : 0;
	bpf_probe_read_kernel(&type, sizeof(type), data + UDP_HEADER);
	bytes -= UDP_HEADER;
	if ((type == MESSAGE_INITIATION && bytes == INITIATION_BYTES) ||
	    (type == MESSAGE_RESPONSE && bytes == RESPONSE_BYTES) ||
	    (type == MESSAGE_COOKIE && bytes == COOKIE_BYTES) ||
	    (type == MESSAGE_DATA && bytes >= KEEPALIVE_BYTES))
		return type;
	return 0;
}

/* (wg, skb); the data begins with the UDP header. */
static __noinline int on_receive(u64 wg, u64 datagram)
{
	const struct sk_buff *skb = (const struct sk_buff *)datagram;
	struct wireguard_traffic *s = traffic_stats(netdev_of(wg));
	struct wireguard_task *t = task(true);
	u32 message;

	ADD(s, entered, 1);
	message = message_type(skb, BPF_CORE_READ(skb, len));
	if (!message)
		ADD(s, malformed, 1);
	if (t) {
		t->receives = wg;
		t->queues = message && message != MESSAGE_DATA ? wg : 0;
	}
	return 0;
}
ON_ENTRY_OF_2(wg_packet_receive, receive, on_receive)

/*
 * (cpu, queue of works, work): whether it is the work for the handshake messages of the device
 * whose datagram this thread handles. Before its work_struct, struct multicore_worker has a pointer
 * to the queue of messages, which is a member of the device, or (before 5.16) to the device.
 */
static __noinline int on_queue_work(u64 cpu, u64 works, u64 work)
{
	struct wireguard_task *t = task(false);

	if (t && t->queues && read_pointer(work - sizeof(u64)) - t->queues < WG_DEVICE_BYTES)
		t->queues = 0;
	return 0;
}

SEC("fentry/queue_work_on")
int queue_work_fentry(u64 *ctx)
{
	return on_queue_work(ctx[0], ctx[1], ctx[2]);
}

SEC("kprobe/queue_work_on")
int BPF_KPROBE(queue_work_kprobe, u64 cpu, u64 works, u64 work)
{
	return on_queue_work(cpu, works, work);
}

/* A handshake message for which no work was queued was dropped. */
static __noinline int on_received(void)
{
	struct wireguard_task *t = task(false);

	if (t && t->queues)
		ADD(traffic_stats(netdev_of(t->queues)), queue_full, 1);
	if (t)
		t->queues = 0;
	return 0;
}

SEC("fexit/wireguard:wg_packet_receive")
int received_fexit(void *ctx)
{
	return on_received();
}

SEC("kretprobe/wg_packet_receive")
int received_kretprobe(void *ctx)
{
	return on_received();
}

/* (table, type_mask, index, peer). The device is that of the datagram that this thread handles. */
static __noinline int on_lookup_index(u64 table, u64 mask, u64 found)
{
	struct wireguard_task *t = task(false);

	if (found || (u32)mask != LOOKUP_KEYPAIR)
		return 0;
	if (t && t->receives)
		ADD(traffic_stats(netdev_of(t->receives)), no_session, 1);
	else
		count_event(EVENT_NO_START);
	return 0;
}
ON_EXIT_OF(wg_index_hashtable_lookup, lookup_index, 4, CALL_LOOKUP_INDEX, on_lookup_index)

static __always_inline u64 peer_of_keypair(u64 keypair)
{
	return read_pointer(keypair + OFFSET_OF(noise_keypair, entry) +
			    OFFSET_OF(index_hashtable_entry, peer));
}

/* (skb, keypair) */
static __noinline int on_decrypted(u64 skb, u64 keypair, u64 good)
{
	struct wireguard_packets *p = peer_packets(peer_of_keypair(keypair));

	if ((u8)good)
		ADD(p, decrypted, 1);
	else
		ADD(p, undecrypted, 1);
	return 0;
}
ON_EXIT_OF(decrypt_packet, decrypt, 2, CALL_DECRYPT, on_decrypted)

/* (keypairs, received_keypair): a data message with a good counter. */
static __noinline int on_accepted(u64 keypairs)
{
	u64 peer = CONTAINER(keypairs, wg_peer, keypairs);
	struct wireguard_task *t = task(true);

	if (t)
		t->accepts = peer;
	ADD(peer_packets(peer), accepted, 1);
	return 0;
}
ON_ENTRY_OF(wg_noise_received_with_keypair, accepted, on_accepted)

static __noinline int on_authenticated(u64 peer)
{
	ADD(peer_packets(peer), received, 1);
	return 0;
}
ON_ENTRY_OF(wg_timers_any_authenticated_packet_received, authenticated, on_authenticated)

static __noinline int on_data(u64 peer)
{
	ADD(peer_packets(peer), filled, 1);
	return 0;
}
ON_ENTRY_OF(wg_timers_data_received, data, on_data)

/* (table, skb): the owner of the packet's source address. */
static __noinline int on_source(u64 table, u64 skb, u64 owner)
{
	struct wireguard_task *t = task(false);
	struct wireguard_packets *p;

	if (!t || !t->accepts) {
		count_event(EVENT_NO_START);
		return 0;
	}
	p = peer_packets(t->accepts);
	if (owner == t->accepts)
		ADD(p, delivered, 1);
	else
		ADD(p, denied, 1);
	return 0;
}
ON_EXIT_OF(wg_allowedips_lookup_src, lookup_source, 2, CALL_LOOKUP_SOURCE, on_source)

/* Packets sent. */

/* (skb, dev) */
static __noinline int on_xmit(u64 skb, u64 dev, u64 result)
{
	struct wireguard_traffic *s;

	if ((int)result >= 0)
		return 0;
	s = traffic_stats((const struct net_device *)dev);
	if ((int)result == -ENOKEY)
		ADD(s, no_peer, 1);
	else if ((int)result == -EPROTONOSUPPORT)
		ADD(s, unsupported, 1);
	return 0;
}
ON_EXIT_OF(wg_xmit, xmit, 2, CALL_XMIT, on_xmit)

/* (table, skb): the peer of a packet to send, before it is queued. */
static __noinline int on_target(u64 table, u64 skb, u64 peer)
{
	struct wireguard_endpoint endpoint = {};
	u32 staged;

	if (!peer)
		return 0;
	read_endpoint(&endpoint, peer);
	if (endpoint.family != AF_INET && endpoint.family != AF_INET6) {
		ADD(peer_packets(peer), no_endpoint, 1);
		return 0;
	}
	/* wg_xmit drops the oldest before it adds one. */
	staged = BPF_CORE_READ(
		(const struct sk_buff_head *)(peer + OFFSET_OF(wg_peer, staged_packet_queue)),
		qlen);
	if (staged > MAX_STAGED_PACKETS)
		ADD(peer_packets(peer), overflowed, staged - MAX_STAGED_PACKETS);
	return 0;
}
ON_EXIT_OF(wg_allowedips_lookup_dst, lookup_target, 2, CALL_LOOKUP_TARGET, on_target)

/* (queue, skb): a peer's queue of packets that wait for encryption or decryption. */
static __noinline int on_enqueued(u64 queue, u64 message, u64 done)
{
	u64 cb = (u64)message + bpf_core_field_offset(struct sk_buff, cb), peer;
	struct wireguard_packets *p;

	if ((u8)done)
		return 0;
	peer = peer_of_keypair(read_pointer(cb + OFFSET_OF(packet_cb, keypair)));
	p = peer_packets(peer);
	if (queue == peer + OFFSET_OF(wg_peer, rx_queue))
		ADD(p, rx_full, 1);
	else
		ADD(p, tx_full, 1);
	return 0;
}
ON_EXIT_OF(wg_prev_queue_enqueue, enqueue, 2, CALL_ENQUEUE, on_enqueued)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
