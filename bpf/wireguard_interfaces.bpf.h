/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __WIREGUARD_INTERFACES_BPF_H
#define __WIREGUARD_INTERFACES_BPF_H

/*
 * WireGuard interfaces: where each one is, and what is counted of it.
 *
 * The key of an interface is the address of its net_device. A namespace's inode number and an
 * interface index would not do: the kernel reuses both, and an interface that moves gets others.
 * The address is not reused before wg_destruct() has removed the entries here.
 */
#include "events.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "offsets.bpf.h"
#include "wireguard_calls.bpf.h"

MEMBER(wg_device, dev);

#define WIREGUARD_NAME_BYTES 16 /* IFNAMSIZ */

/*
 * Keys of the shared entries: for all that found no room, and for all in network namespaces of
 * other users that userland did not ask for. No interface has such an address, no peer such an id.
 */
#define WIREGUARD_OTHER 0ULL
#define WIREGUARD_FOREIGN (~0ULL)

struct wireguard_interface {
	u64 address; /* of its net_device */
};

struct wireguard_place {
	char interface[WIREGUARD_NAME_BYTES];
	u32 netns; /* inode number */
	u32 ifindex;
	u32 is_down; /* down: it may be moved, so its place may be out of date */
	u32 zero;
};

/* As many as the default for peers: each peer may be on another interface. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct wireguard_interface);
	__type(value, struct wireguard_place);
} places SEC(".maps");

/*
 * Inode numbers of named namespaces, set by userland. Looked up only for namespaces of other users:
 * a user who can create a namespace must not be able to fill the maps.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, u64);
} asked SEC(".maps");

struct wireguard_device {
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
	u64 entered;
	u64 malformed;
	u64 no_session;
	u64 queue_full;
	u64 no_peer;
	u64 unsupported;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct wireguard_interface);
	__type(value, struct wireguard_traffic);
} traffic SEC(".maps");

/* Templates for new values. Never written. */
const struct wireguard_device zero_device = {};
const struct wireguard_traffic zero_traffic = {};

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

static __always_inline void read_place(struct wireguard_place *to, const struct net_device *dev)
{
	to->netns = BPF_CORE_READ(dev, nd_net.net, ns.inum);
	to->ifindex = BPF_CORE_READ(dev, ifindex);
	bpf_core_read_str(to->interface, sizeof(to->interface), &dev->name);
}

/* Whether the interface has an entry in `places`, or room for one. */
static __noinline bool has_place(const struct net_device *dev)
{
	struct wireguard_interface key = {.address = (u64)dev};
	struct wireguard_place fresh = {};

	if (bpf_map_lookup_elem(&places, &key))
		return true;
	read_place(&fresh, dev);
	return map_lookup_or_init(&places, &key, &fresh) != NULL;
}

/* Whether an interface is in a network namespace of another user that userland did not ask for. */
static __noinline bool is_foreign(const struct net_device *dev)
{
	const struct net *net = BPF_CORE_READ(dev, nd_net.net);
	u32 inode;

	if (!BPF_CORE_READ(net, user_ns, level))
		return false;
	inode = BPF_CORE_READ(net, ns.inum);
	return !bpf_map_lookup_elem(&asked, &inode);
}

/* The key for something that has no entry yet. */
static __always_inline u64 owner_of(const struct net_device *dev)
{
	if (!dev)
		return WIREGUARD_OTHER;
	if (is_foreign(dev))
		return WIREGUARD_FOREIGN;
	return has_place(dev) ? (u64)dev : WIREGUARD_OTHER;
}

/* A new entry for an owner, or the shared one that userland created. */
static __always_inline void *stats_of_owner(void *map, u64 owner, const void *zero)
{
	u64 other = WIREGUARD_OTHER;
	void *stats;

	if (owner != WIREGUARD_OTHER && owner != WIREGUARD_FOREIGN)
		return map_lookup_or_fold(map, &owner, zero, &other);
	stats = bpf_map_lookup_elem(map, &owner);
	if (!stats)
		count_event(EVENT_MAP_FULL);
	else if (owner == WIREGUARD_OTHER)
		count_event(EVENT_FOLDED);
	return stats;
}

static __noinline struct wireguard_device *device_stats(u64 wg)
{
	const struct net_device *dev = netdev_of(wg);
	struct wireguard_interface key = {.address = (u64)dev};
	struct wireguard_device *stats = bpf_map_lookup_elem(&devices, &key);

	return stats ? stats : stats_of_owner(&devices, owner_of(dev), &zero_device);
}

static __noinline struct wireguard_traffic *traffic_stats(const struct net_device *dev)
{
	struct wireguard_interface key = {.address = (u64)dev};
	struct wireguard_traffic *stats = bpf_map_lookup_elem(&traffic, &key);

	return stats ? stats : stats_of_owner(&traffic, owner_of(dev), &zero_traffic);
}

/* Also runs after a move, which takes the interface down. Nothing is counted there before this. */
static __noinline int on_opened(u64 dev)
{
	struct wireguard_interface key = {.address = dev};
	struct wireguard_place now = {};

	read_place(&now, (const struct net_device *)dev);
	/* An interface without an entry gets one when something is counted. */
	bpf_map_update_elem(&places, &key, &now, BPF_EXIST);
	return 0;
}
ON_ENTRY_OF(wg_open, opened, on_opened)

static __noinline int on_stopped(u64 dev)
{
	struct wireguard_interface key = {.address = dev};
	struct wireguard_place *place = bpf_map_lookup_elem(&places, &key);

	if (place)
		place->is_down = 1;
	return 0;
}
ON_ENTRY_OF(wg_stop, stopped, on_stopped)

/*
 * wg_destruct() stops everything that counts, then calls this function, and frees the net_device
 * before it returns. This function is also called without an interface, after a failed creation.
 */
static __noinline int on_destroyed(void)
{
	struct wireguard_frame frame = {.tid = task_id(), .call = CALL_DESTRUCT};
	struct wireguard_arguments *kept = bpf_map_lookup_elem(&frames, &frame);
	struct wireguard_interface key = {};

	if (!kept)
		return 0;
	key.address = kept->first;
	bpf_map_delete_elem(&frames, &frame);
	bpf_map_delete_elem(&traffic, &key);
	bpf_map_delete_elem(&devices, &key);
	bpf_map_delete_elem(&places, &key);
	return 0;
}

SEC("fentry/wireguard:wg_destruct")
int destruct_fentry(u64 *ctx)
{
	return keep(CALL_DESTRUCT, ctx[0], 0, 0);
}

SEC("kprobe/wg_destruct")
int BPF_KPROBE(destruct_kprobe, u64 dev)
{
	return keep(CALL_DESTRUCT, dev, 0, 0);
}

SEC("fentry/wireguard:wg_ratelimiter_uninit")
int destroyed_fentry(void *ctx)
{
	return on_destroyed();
}

SEC("kprobe/wg_ratelimiter_uninit")
int destroyed_kprobe(void *ctx)
{
	return on_destroyed();
}

#endif /* __WIREGUARD_INTERFACES_BPF_H */
