/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __WIREGUARD_PEERS_BPF_H
#define __WIREGUARD_PEERS_BPF_H

/*
 * WireGuard peers, and what is counted of each. vmlinux.h does not have the module's types, so
 * pointers to them are numbers here.
 */
#include "wireguard_interfaces.bpf.h"

MEMBER(wg_peer, device);
MEMBER(wg_peer, rx_queue);
MEMBER(wg_peer, staged_packet_queue);
MEMBER(wg_peer, keypairs);
MEMBER(wg_peer, endpoint);
MEMBER(wg_peer, handshake);
MEMBER(wg_peer, timer_retransmit_handshake);
MEMBER(wg_peer, timer_zero_key_material);
MEMBER(wg_peer, timer_handshake_attempts);
MEMBER(wg_peer, internal_id);
MEMBER(wg_peer, napi);
MEMBER(wg_peer, is_dead);
MEMBER(noise_handshake, remote_static);
MEMBER(noise_keypairs, current_keypair);
MEMBER(noise_keypair, entry);
MEMBER(noise_keypair, sending);
MEMBER(noise_symmetric_key, birthdate);
MEMBER(index_hashtable_entry, peer);
MEMBER(cookie_checker, device);
MEMBER(packet_cb, keypair);

/* The struct of which `pointer` is a member. */
#define CONTAINER(pointer, type, member) ((pointer)-OFFSET_OF(type, member))

#define WIREGUARD_KEY_BYTES 32

/* wg_peer.internal_id: not reused until the module is loaded again. */
struct wireguard_id {
	u64 id;
};

struct wireguard_endpoint {
	u64 address[2];
	u16 family;
	u16 port;
	u32 zero;
};

struct wireguard_peer {
	u8 public_key[WIREGUARD_KEY_BYTES];
	u64 device; /* address of its interface's net_device; 0: an entry shared by many peers */
	u64 attempts;
	u64 completed;
	u64 no_answer;
	u64 gave_up;
	u64 responses_sent;
	u64 responses_received;
	u64 rotations;
	u64 roamed;
	u64 purged;
	u64 asked;     /* time of the last initiation, monotonic; 0: answered */
	u64 birthdate; /* of the key in use, boot time; 0: unknown, or no key */
	struct wireguard_endpoint endpoint;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct wireguard_id);
	__type(value, struct wireguard_peer);
} peers SEC(".maps");

/* Fed by probes that run for each packet. */
struct wireguard_packets {
	u64 sent;
	u64 sent_keepalives;
	u64 not_sent;
	u64 received;  /* authenticated, handshakes included */
	u64 decrypted; /* of data */
	u64 undecrypted;
	u64 polled; /* data in order, decrypted or not */
	u64 accepted;
	u64 filled; /* accepted and no keepalive */
	u64 delivered;
	u64 denied;
	u64 no_endpoint;
	u64 overflowed;
	u64 rx_full;
	u64 tx_full;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct wireguard_id);
	__type(value, struct wireguard_packets);
} packets SEC(".maps");

const struct wireguard_packets zero_packets = {};

/* struct endpoint begins with a union of socket addresses, in all kernels. */
static __always_inline void read_endpoint(struct wireguard_endpoint *to, u64 peer)
{
	u64 from = peer + OFFSET_OF(wg_peer, endpoint);
	struct {
		u16 family;
		u16 port;
		u32 v4; /* in IPv6 the flow */
		u32 v6[4];
	} address = {};

	bpf_probe_read_kernel(&address, sizeof(address), (const void *)from);
	to->family = address.family;
	to->port = address.port;
	if (to->family == AF_INET6)
		__builtin_memcpy(to->address, address.v6, sizeof(to->address));
	else if (to->family == AF_INET)
		to->address[0] = address.v4;
}

static __always_inline u64 birthdate_of(u64 peer)
{
	u64 birthdate = 0, keypair;

	keypair = read_pointer(peer + OFFSET_OF(wg_peer, keypairs) +
			       OFFSET_OF(noise_keypairs, current_keypair));
	if (keypair)
		READ_MEMBER(birthdate, keypair + OFFSET_OF(noise_keypair, sending),
			    noise_symmetric_key, birthdate);
	return birthdate;
}

/* Whether an entry belongs to one peer, not to many that share it. */
static __always_inline bool is_one(const struct wireguard_peer *stats)
{
	return stats->device != 0;
}

static __always_inline const struct net_device *netdev_of_peer(u64 peer)
{
	return netdev_of(read_pointer(peer + OFFSET_OF(wg_peer, device)));
}

static __noinline struct wireguard_peer *peer_stats(u64 peer)
{
	struct wireguard_peer fresh = {}, *stats;
	const struct net_device *dev;
	struct wireguard_id key = {};
	u8 is_dead = 0;
	u64 owner;

	READ_MEMBER(key.id, peer, wg_peer, internal_id);
	if (key.id == WIREGUARD_OTHER || key.id == WIREGUARD_FOREIGN) {
		count_event(EVENT_IMPLAUSIBLE);
		return NULL;
	}
	stats = bpf_map_lookup_elem(&peers, &key);
	if (stats)
		return stats;
	/* A peer is flushed once more after its removal. */
	READ_MEMBER(is_dead, peer, wg_peer, is_dead);
	if (is_dead)
		return NULL;
	dev = netdev_of_peer(peer);
	owner = owner_of(dev);
	if (owner == (u64)dev)
		owner = key.id;
	fresh.device = (u64)dev;
	READ_MEMBER(fresh.public_key, peer + OFFSET_OF(wg_peer, handshake), noise_handshake,
		    remote_static);
	read_endpoint(&fresh.endpoint, peer);
	return stats_of_owner(&peers, owner, &fresh);
}

static __noinline struct wireguard_packets *peer_packets(u64 peer)
{
	struct wireguard_packets *stats;
	struct wireguard_id key = {};
	struct wireguard_peer *p;

	READ_MEMBER(key.id, peer, wg_peer, internal_id);
	stats = bpf_map_lookup_elem(&packets, &key);
	if (stats)
		return stats;
	/*
	 * The entry in `peers` says whose packets these are. A peer without its own entry there has
	 * none here either.
	 */
	p = peer_stats(peer);
	if (!p)
		return NULL;
	if (!is_one(p))
		key.id = is_foreign(netdev_of_peer(peer)) ? WIREGUARD_FOREIGN : WIREGUARD_OTHER;
	return stats_of_owner(&packets, key.id, &zero_packets);
}

/* Add to a member of a lookup's result, if there is one. */
#define ADD(stats, member, n)                                  \
	do {                                                   \
		typeof(stats) __s = (stats);                   \
		if (__s)                                       \
			__sync_fetch_and_add(&__s->member, n); \
	} while (0)

#endif /* __WIREGUARD_PEERS_BPF_H */
