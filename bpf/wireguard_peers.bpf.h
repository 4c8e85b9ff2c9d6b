/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __WIREGUARD_PEERS_BPF_H
#define __WIREGUARD_PEERS_BPF_H

/*
 * Peers and interfaces of WireGuard, and what is counted of each. The module's own types
 * are in no vmlinux.h, so pointers to them are numbers here.
 */
#include "events.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "offsets.bpf.h"

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
MEMBER(wg_device, dev);
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
#define WIREGUARD_NAME_BYTES 16 /* IFNAMSIZ */

/* What is counted of all that find no room: ids begin at 1. */
#define WIREGUARD_OTHER 0

/* wg_peer.internal_id: no other peer has it until the module is loaded anew. */
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
	char interface[WIREGUARD_NAME_BYTES];
	u32 netns; /* inode number of the namespace: interfaces in two may have the same index */
	u32 ifindex;
	u64 attempts;
	u64 completed;
	u64 no_answer;
	u64 gave_up;
	u64 responses_sent;
	u64 responses_received;
	u64 rotations;
	u64 roamed;
	u64 purged;
	u64 asked;     /* when the last initiation was sent, monotonic; 0: it was answered */
	u64 birthdate; /* of the key in use, boot time; 0: not known, or none */
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

struct wireguard_interface {
	u32 netns;
	u32 ifindex;
};

struct wireguard_device {
	char interface[WIREGUARD_NAME_BYTES];
	struct hist latency; /* s */
	u64 bad_mac;
	u64 cookie_required;
	u64 rate_limited;
	u64 bad_initiations;
	u64 bad_responses;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct wireguard_interface);
	__type(value, struct wireguard_device);
} devices SEC(".maps");

/* Fed by probes that run for each packet. */
struct wireguard_traffic {
	char interface[WIREGUARD_NAME_BYTES];
	u64 entered;
	u64 malformed;
	u64 no_session;
	u64 no_peer;
	u64 unsupported;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct wireguard_interface);
	__type(value, struct wireguard_traffic);
} traffic SEC(".maps");

/* Too large for a stack. One program at a time uses it on a CPU: none calls another. */
const struct wireguard_device zero_device = {};
const struct wireguard_packets zero_packets = {};

static __always_inline u64 read_pointer(u64 at)
{
	u64 pointer = 0;

	bpf_probe_read_kernel(&pointer, sizeof(pointer), (const void *)at);
	return pointer;
}

static __always_inline const struct net_device *netdev_of(u64 wg)
{
	return (const struct net_device *)read_pointer(wg + OFFSET_OF(wg_device, dev));
}

static __always_inline void read_interface(struct wireguard_interface *key,
					   const struct net_device *dev)
{
	key->netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
	key->ifindex = BPF_CORE_READ(dev, ifindex);
}

static __always_inline void read_name(char name[WIREGUARD_NAME_BYTES], const struct net_device *dev)
{
	bpf_core_read_str(name, WIREGUARD_NAME_BYTES, &dev->name);
}

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

/* Whether an entry is one peer's, not that of all which found no room. */
static __always_inline bool is_one(const struct wireguard_peer *stats)
{
	return stats->ifindex != 0;
}

static __noinline struct wireguard_peer *peer_stats(u64 peer)
{
	struct wireguard_id key = {}, other = {.id = WIREGUARD_OTHER};
	struct wireguard_peer fresh = {}, *stats;
	struct wireguard_interface interface = {};
	const struct net_device *dev;
	u8 is_dead = 0;

	READ_MEMBER(key.id, peer, wg_peer, internal_id);
	if (key.id == WIREGUARD_OTHER) {
		count_event(EVENT_IMPLAUSIBLE);
		return NULL;
	}
	stats = bpf_map_lookup_elem(&peers, &key);
	if (stats)
		return stats;
	/* What is removed is flushed once more afterwards. */
	READ_MEMBER(is_dead, peer, wg_peer, is_dead);
	if (is_dead)
		return NULL;
	dev = netdev_of(read_pointer(peer + OFFSET_OF(wg_peer, device)));
	read_interface(&interface, dev);
	fresh.netns = interface.netns;
	fresh.ifindex = interface.ifindex;
	read_name(fresh.interface, dev);
	READ_MEMBER(fresh.public_key, peer + OFFSET_OF(wg_peer, handshake), noise_handshake,
		    remote_static);
	read_endpoint(&fresh.endpoint, peer);
	return map_lookup_or_fold(&peers, &key, &fresh, &other);
}

static __noinline struct wireguard_packets *peer_packets(u64 peer)
{
	struct wireguard_id key = {}, other = {.id = WIREGUARD_OTHER};
	struct wireguard_packets *stats;

	READ_MEMBER(key.id, peer, wg_peer, internal_id);
	stats = bpf_map_lookup_elem(&packets, &key);
	if (stats)
		return stats;
	/* It says whose they are; of one that found no room there nobody could say it here. */
	if (!peer_stats(peer))
		return NULL;
	if (bpf_map_lookup_elem(&peers, &key))
		return map_lookup_or_fold(&packets, &key, &zero_packets, &other);
	stats = bpf_map_lookup_elem(&packets, &other);
	count_event(stats ? EVENT_FOLDED : EVENT_MAP_FULL);
	return stats;
}

static __noinline struct wireguard_device *device_stats(u64 wg)
{
	const struct net_device *dev = netdev_of(wg);
	struct wireguard_interface key = {}, other = {};
	struct wireguard_device *stats;

	read_interface(&key, dev);
	stats = bpf_map_lookup_elem(&devices, &key);
	if (stats)
		return stats;
	stats = map_lookup_or_fold(&devices, &key, &zero_device, &other);
	if (stats)
		read_name(stats->interface, dev);
	return stats;
}

static __noinline struct wireguard_traffic *traffic_stats(const struct net_device *dev)
{
	struct wireguard_interface key = {}, other = {};
	struct wireguard_traffic fresh = {}, *stats;

	read_interface(&key, dev);
	stats = bpf_map_lookup_elem(&traffic, &key);
	if (stats)
		return stats;
	read_name(fresh.interface, dev);
	return map_lookup_or_fold(&traffic, &key, &fresh, &other);
}

/* Adds to a member of what a look-up found, if it found something. */
#define ADD(stats, member, n)                                  \
	do {                                                   \
		typeof(stats) __s = (stats);                   \
		if (__s)                                       \
			__sync_fetch_and_add(&__s->member, n); \
	} while (0)

#endif /* __WIREGUARD_PEERS_BPF_H */
