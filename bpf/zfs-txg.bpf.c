// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long do transaction groups take, per pool and phase; dirty data and delayed writers.
 *
 * Hooks: kprobes on the empty functions of ZFS's static probe points txg__opened, _quiescing,
 * _quiesced, _syncing, _synced (dsl_pool, txg) and delay__mintime (dmu_tx, dirty, ns); exported and
 * never inlined in 2.0 to 2.4. The name of a pool needs no layout.
 * Cost: five hash lookups for each transaction group; a pool has one every 5 s.
 * Not seen: phases that began before attaching.
 * The phases are those of /proc/spl/kstat/zfs/POOL/txgs. sync includes the work of ZFS for that
 * table itself (two walks over the vdev statistics).
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "zfs.bpf.h"

MEMBER(dmu_tx, tx_pool);
MEMBER(dsl_pool, dp_dirty_total);

struct zfs_txg_key {
	char pool[ZFS_POOL_BYTES];
};

struct zfs_txg_pool {
	struct hist sync; /* us */
	struct hist open; /* s */
	struct hist quiesce;
	struct hist wait;
	struct hist syncing;
	u64 syncs;
	u64 last_us;
};

/* Not per CPU: a value has 8 kB, and is rarely written. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct zfs_txg_key);
	__type(value, struct zfs_txg_pool);
} pools SEC(".maps");

struct zfs_txg_delays {
	u64 delays;
	u64 delay_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct zfs_txg_key);
	__type(value, struct zfs_txg_delays);
} delays SEC(".maps");

struct zfs_txg_dirty {
	u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct zfs_txg_key);
	__type(value, struct zfs_txg_dirty);
} dirty SEC(".maps");

enum zfs_txg_phase {
	ZFS_TXG_OPEN,
	ZFS_TXG_QUIESCE,
	ZFS_TXG_WAIT,
	ZFS_TXG_SYNC,
};

struct zfs_txg_state {
	u64 dp;
	u64 txg;
};

struct zfs_txg_begun {
	u64 ns;
	u64 phase;
};

/* LRU: a pool that is exported leaves a group that never syncs. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct zfs_txg_state);
	__type(value, struct zfs_txg_begun);
} begun SEC(".maps");

const struct zfs_txg_pool zero_pool = {};
const struct zfs_txg_delays zero_delays = {};

static __always_inline struct zfs_txg_pool *pool_of(u64 dp)
{
	struct zfs_txg_key key = {}, other = {.pool = FOLDED_NAME};

	if (!zfs_pool_of_dsl(key.pool, dp))
		return NULL;
	return map_lookup_or_fold(&pools, &key, &zero_pool, &other);
}

/* Phase `phase` of a group begins, and the one before it ends. */
static __always_inline int on_phase(u64 dp, u64 txg, u64 phase)
{
	struct zfs_txg_state key = {.dp = dp, .txg = txg};
	struct zfs_txg_begun now = {.ns = bpf_ktime_get_ns(), .phase = phase}, *last;
	struct zfs_txg_pool *pool = pool_of(dp);
	u64 ns;

	last = bpf_map_lookup_elem(&begun, &key);
	if (pool && last && last->phase + 1 == phase) {
		ns = elapsed_ns(last->ns, now.ns);
		if (phase == ZFS_TXG_QUIESCE)
			hist_observe_s(&pool->open, ns);
		else if (phase == ZFS_TXG_WAIT)
			hist_observe_s(&pool->quiesce, ns);
		else
			hist_observe_s(&pool->wait, ns);
	}
	bpf_map_update_elem(&begun, &key, &now, BPF_ANY);
	return 0;
}

static __always_inline int on_synced(u64 dp, u64 txg)
{
	struct zfs_txg_state key = {.dp = dp, .txg = txg};
	struct zfs_txg_begun *last = bpf_map_lookup_elem(&begun, &key);
	struct zfs_txg_pool *pool = pool_of(dp);
	u64 ns;

	if (!pool)
		return 0;
	if (!last || last->phase != ZFS_TXG_SYNC) {
		count_event(EVENT_NO_START);
		return 0;
	}
	ns = elapsed_ns(last->ns, bpf_ktime_get_ns());
	hist_observe_us(&pool->sync, ns);
	hist_observe_s(&pool->syncing, ns);
	pool->last_us = ns / 1000;
	__sync_fetch_and_add(&pool->syncs, 1);
	bpf_map_delete_elem(&begun, &key);
	return 0;
}

SEC("kprobe/trace_zfs_txg__opened")
int BPF_KPROBE(opened, u64 dp, u64 txg)
{
	return on_phase(dp, txg, ZFS_TXG_OPEN);
}

SEC("kprobe/trace_zfs_txg__quiescing")
int BPF_KPROBE(quiescing, u64 dp, u64 txg)
{
	return on_phase(dp, txg, ZFS_TXG_QUIESCE);
}

SEC("kprobe/trace_zfs_txg__quiesced")
int BPF_KPROBE(quiesced, u64 dp, u64 txg)
{
	return on_phase(dp, txg, ZFS_TXG_WAIT);
}

SEC("kprobe/trace_zfs_txg__syncing")
int BPF_KPROBE(syncing, u64 dp, u64 txg)
{
	return on_phase(dp, txg, ZFS_TXG_SYNC);
}

SEC("kprobe/trace_zfs_txg__synced")
int BPF_KPROBE(synced, u64 dp, u64 txg)
{
	return on_synced(dp, txg);
}

/* Above any size of memory (x86-64 has 52 physical address bits), and below any pointer. */
#define MAX_DIRTY (1ULL << 52)

static __always_inline int note_dirty(u64 dp, u64 bytes)
{
	struct zfs_txg_key key = {};
	struct zfs_txg_dirty now = {.bytes = bytes};

	if (!zfs_pool_of_dsl(key.pool, dp))
		return 0;
	if (bytes > MAX_DIRTY) {
		count_event(EVENT_IMPLAUSIBLE);
		return 0;
	}
	if (bpf_map_update_elem(&dirty, &key, &now, BPF_ANY))
		count_event(EVENT_MAP_FULL);
	return 0;
}

/* Dirty data when a group is closed to writers, and when it is synced. */
SEC("kprobe/trace_zfs_txg__quiescing")
int BPF_KPROBE(dirty_closed, u64 dp)
{
	u64 bytes = 0;

	READ_MEMBER(bytes, dp, dsl_pool, dp_dirty_total);
	return note_dirty(dp, bytes);
}

SEC("kprobe/trace_zfs_txg__synced")
int BPF_KPROBE(dirty_synced, u64 dp)
{
	u64 bytes = 0;

	READ_MEMBER(bytes, dp, dsl_pool, dp_dirty_total);
	return note_dirty(dp, bytes);
}

SEC("kprobe/trace_zfs_delay__mintime")
int BPF_KPROBE(delay, u64 tx, u64 bytes, u64 ns)
{
	struct zfs_txg_key key = {}, other = {.pool = FOLDED_NAME};
	struct zfs_txg_delays *d;
	u64 dp = 0;

	READ_MEMBER(dp, tx, dmu_tx, tx_pool);
	if (!dp || !zfs_pool_of_dsl(key.pool, dp))
		return 0;
	d = map_lookup_or_fold(&delays, &key, &zero_delays, &other);
	if (!d)
		return 0;
	__sync_fetch_and_add(&d->delays, 1);
	__sync_fetch_and_add(&d->delay_ns, ns);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
