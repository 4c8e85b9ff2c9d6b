// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Does the ARC, the cache of ZFS, hit; what is evicted; how long does a read take?
 *
 * Hooks: kprobes on the empty functions of ZFS's static probe points arc__hit, arc__iohit,
 * arc__miss, arc__evict, l2arc__hit and l2arc__miss (exported, never inlined, called where arcstats
 * counts); on arc_access from 2.2 on; on arc_read, arc_read_done and arc_buf_access.
 * Cost: two memory reads and an increment for each lookup; two clock reads for a lookup that passes
 * arc_read; a hash entry for a miss.
 * Not seen: lookups in the dbuf cache above the ARC; latency of hits that do not pass arc_read (two
 * thirds of them: blocks already in use) and of I/O hits; embedded blocks (stored in their block
 * pointer), which arcstats does not count either.
 *
 * arc_read()'s return value is of no use: it is 0 for misses too.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "task_slots.bpf.h"
#include "zfs.bpf.h"

MEMBER(arc_buf_hdr, b_flags);
MEMBER(arc_buf_hdr, b_lsize);
MEMBER(arc_buf_hdr, b_l1hdr);
MEMBER(l1arc_buf_hdr, b_state);
MEMBER(l1arc_buf_hdr, b_refcnt);
MEMBER(arc_state, arcs_state);
MEMBER(zio, io_private);

/* enum arc_flags, the same from 2.0 to 2.4; b_lsize is in sectors. */
#define ARC_FLAG_PREFETCH (1 << 2)
#define ARC_FLAG_IN_HASH_TABLE (1 << 7)
#define ARC_FLAG_IO_IN_PROGRESS (1 << 8)
#define ARC_FLAG_BUFC_METADATA (1 << 17)
#define ARC_STATE_MRU 1
#define SECTOR 512
#define MAX_SECTORS 32768 /* SPA_MAXBLOCKSIZE */

/* blkptr_t, an on-disk format: the offset of blk_prop, and its bit for an embedded block. */
#define BLK_PROP 48
#define BLK_EMBEDDED (1ULL << 39)

enum zfs_arc_result {
	ZFS_ARC_HIT,
	ZFS_ARC_IOHIT,
	ZFS_ARC_MISS,
	ZFS_ARC_RESULTS,
};

/* The index in `lookups` is result * 4 + prefetch * 2 + metadata. */
#define ZFS_ARC_LOOKUPS 12

struct zfs_arc_lookups {
	u64 lookups;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ZFS_ARC_LOOKUPS);
	__type(key, u32);
	__type(value, struct zfs_arc_lookups);
} lookups SEC(".maps");

/*
 * Those of them for prefetch. The priority of arc_read does not tell: `zfs send` and `zfs diff`
 * wait for reads of the same priority.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct zfs_arc_lookups);
} prefetches SEC(".maps");

/* Counted without the struct layout. */
struct zfs_arc_counts {
	u64 hits;
	u64 misses;
	u64 evictions;
	u64 l2_hits;
	u64 l2_misses;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct zfs_arc_counts);
} counts SEC(".maps");

struct zfs_arc_evicted {
	u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct zfs_arc_evicted);
} evicted SEC(".maps");

struct zfs_arc_latency {
	struct hist latency; /* s */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ZFS_ARC_RESULTS);
	__type(key, u32); /* enum zfs_arc_result */
	__type(value, struct zfs_arc_latency);
} latencies SEC(".maps");

/* Busy: in arc_read, until the hit or miss. */
struct zfs_arc_task {
	struct task_slot slot;
};
TASK_SLOTS(tasks, struct zfs_arc_task);

/* Start times of reads from disk in progress, by header. A header has at most one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, u64);
} reads SEC(".maps");

#define COUNT(member)                                                               \
	do {                                                                        \
		u32 __zero = 0;                                                     \
		struct zfs_arc_counts *__c = bpf_map_lookup_elem(&counts, &__zero); \
		if (__c)                                                            \
			__sync_fetch_and_add(&__c->member, 1);                      \
	} while (0)

static __always_inline int count_lookup(enum zfs_arc_result result, bool prefetch, bool metadata)
{
	u32 index = result * 4 + prefetch * 2 + metadata, zero = 0;
	struct zfs_arc_lookups *l = bpf_map_lookup_elem(&lookups, &index);

	if (l)
		__sync_fetch_and_add(&l->lookups, 1);
	l = prefetch ? bpf_map_lookup_elem(&prefetches, &zero) : NULL;
	if (l)
		__sync_fetch_and_add(&l->lookups, 1);
	return 0;
}

static __always_inline u32 flags_of(u64 hdr)
{
	u32 flags = 0;

	READ_MEMBER(flags, hdr, arc_buf_hdr, b_flags);
	return flags;
}

static __always_inline void observe(u32 result, u64 ns)
{
	struct zfs_arc_latency *l = bpf_map_lookup_elem(&latencies, &result);

	if (l)
		hist_observe_s(&l->latency, ns);
}

/* Forget this thread's arc_read; returns its start, or 0 if it is in none. */
static __always_inline u64 take_start(void)
{
	u32 tid = current_tid();
	struct zfs_arc_task *t = tasks_find(tid, tid);

	return t ? task_slot_end(&t->slot) : 0;
}

/* Its third argument is the block pointer. */
SEC("kprobe/arc_read")
int BPF_KPROBE(read, u64 zio, u64 spa, u64 block)
{
	u32 tid = current_tid();
	struct zfs_arc_task *t = tasks_take(tid, tid);
	u64 properties = 0;

	bpf_probe_read_kernel(&properties, sizeof(properties), (void *)(block + BLK_PROP));
	/*
	 * A read of an embedded block is neither a hit nor a miss. An earlier start that is still
	 * here is not a loss: see buf_access below.
	 */
	if (t)
		t->slot.busy = properties & BLK_EMBEDDED ? 0 : bpf_ktime_get_ns();
	return 0;
}

/*
 * All hits outside of arc_read come from here. The thread's last arc_read may have ended without a
 * hit or miss: because another task already waits for a read of the block, or because it may only
 * use cached blocks. Forget its start, so that it is not taken for that of this hit.
 */
SEC("kprobe/arc_buf_access")
int BPF_KPROBE(buf_access)
{
	take_start();
	return 0;
}

SEC("kprobe/trace_zfs_arc__hit")
int BPF_KPROBE(hit)
{
	u64 started = take_start();

	COUNT(hits);
	if (started)
		observe(ZFS_ARC_HIT, elapsed_ns(started, bpf_ktime_get_ns()));
	return 0;
}

SEC("kprobe/trace_zfs_arc__miss")
int BPF_KPROBE(miss, u64 hdr)
{
	u64 started = take_start();

	COUNT(misses);
	if (started && HAS_MEMBER(zio, io_private) &&
	    bpf_map_update_elem(&reads, &hdr, &started, BPF_ANY))
		count_event(EVENT_MAP_FULL);
	return 0;
}

SEC("kprobe/arc_read_done")
int BPF_KPROBE(read_done, u64 zio)
{
	u64 hdr = 0, *started;

	READ_MEMBER(hdr, zio, zio, io_private);
	started = bpf_map_lookup_elem(&reads, &hdr);
	if (!started) {
		/* The header of an embedded block is not in the hash table. */
		if (flags_of(hdr) & ARC_FLAG_IN_HASH_TABLE)
			count_event(EVENT_NO_START);
		return 0;
	}
	observe(ZFS_ARC_MISS, elapsed_ns(*started, bpf_ktime_get_ns()));
	bpf_map_delete_elem(&reads, &hdr);
	return 0;
}

SEC("kprobe/trace_zfs_arc__evict")
int BPF_KPROBE(evict)
{
	COUNT(evictions);
	return 0;
}

SEC("kprobe/trace_zfs_l2arc__hit")
int BPF_KPROBE(l2_hit)
{
	COUNT(l2_hits);
	return 0;
}

SEC("kprobe/trace_zfs_l2arc__miss")
int BPF_KPROBE(l2_miss)
{
	COUNT(l2_misses);
	return 0;
}

/* The same hooks. These programs count by what was looked up, and need the struct layout. */
SEC("kprobe/trace_zfs_arc__miss")
int BPF_KPROBE(split_miss, u64 hdr)
{
	u32 flags = flags_of(hdr);

	/* The header was found in the hash table, or just inserted. */
	if (!(flags & ARC_FLAG_IN_HASH_TABLE)) {
		count_event(EVENT_IMPLAUSIBLE);
		return 0;
	}
	return count_lookup(ZFS_ARC_MISS, flags & ARC_FLAG_PREFETCH,
			    flags & ARC_FLAG_BUFC_METADATA);
}

/*
 * From 2.2 on, arc_access(hdr, flags, hit). With `hit` it is a hit. Without, it is an I/O hit if an
 * I/O for which the caller waits is in progress; otherwise a miss, or a write.
 */
SEC("kprobe/arc_access")
int BPF_KPROBE(access, u64 hdr, u32 wanted, u32 hit)
{
	u32 flags = flags_of(hdr);
	enum zfs_arc_result result = ZFS_ARC_HIT;

	if (!(u8)hit) {
		if (!(flags & ARC_FLAG_IO_IN_PROGRESS))
			return 0;
		result = ZFS_ARC_IOHIT;
	}
	return count_lookup(result, wanted & ARC_FLAG_PREFETCH, flags & ARC_FLAG_BUFC_METADATA);
}

/* Attaches only to ZFS 2.2 and later, whose arc_access has the arguments above. */
SEC("kprobe/trace_zfs_arc__iohit")
int BPF_KPROBE(iohit)
{
	return 0;
}

/*
 * Before 2.2, arcstats reads the header's prefetch flag after arc_access, which clears it if the
 * header is in use and in state MRU. This program runs before arc_access.
 */
SEC("kprobe/trace_zfs_arc__hit")
int BPF_KPROBE(split_hit, u64 hdr)
{
	u32 flags = flags_of(hdr), kind = 0;
	u64 l1 = hdr + OFFSET_OF(arc_buf_hdr, b_l1hdr), state = 0;
	s64 references = 0;
	bool prefetch = flags & ARC_FLAG_PREFETCH;

	if (prefetch) {
		READ_MEMBER(state, l1, l1arc_buf_hdr, b_state);
		READ_MEMBER(kind, state, arc_state, arcs_state);
		READ_MEMBER(references, l1, l1arc_buf_hdr, b_refcnt);
		if (kind == ARC_STATE_MRU && references > 0)
			prefetch = false;
	}
	return count_lookup(ZFS_ARC_HIT, prefetch, flags & ARC_FLAG_BUFC_METADATA);
}

SEC("kprobe/trace_zfs_arc__evict")
int BPF_KPROBE(evicted_bytes, u64 hdr)
{
	u32 zero = 0;
	struct zfs_arc_evicted *e = bpf_map_lookup_elem(&evicted, &zero);
	u16 sectors = 0;

	READ_MEMBER(sectors, hdr, arc_buf_hdr, b_lsize);
	if (!sectors || sectors > MAX_SECTORS)
		count_event(EVENT_IMPLAUSIBLE);
	else if (e)
		__sync_fetch_and_add(&e->bytes, (u64)sectors * SECTOR);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
