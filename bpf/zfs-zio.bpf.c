// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long do ZIOs take, by type and device? How far is the scrub?
 *
 * Hooks: kprobes on zio_wait and zio_nowait (start of every ZIO), vdev_stat_update (once for each
 * completed ZIO), zio_destroy (removes the rest), zfs_ereport_post_checksum (each bad column of a
 * raidz or dRAID, whose ZIOs have no checksum of their own), dsl_scan_scrub_done (each block
 * scrubbed) and the empty function of txg__synced (state of the scan).
 * Cost: a hash insert, lookup and delete for each logical ZIO, flush and trim. Device ZIOs, of
 * which a block has a few, carry their time with them. Not seen: ZIOs of type null, which only wait
 * for others; ZIOs of a mirror or raidz, which are neither logical nor at a device; plain frees,
 * which make no ZIO.
 *
 * zio_execute cannot serve as start: a ZIO passes it many times or never. zio_done cannot serve as
 * end: it returns early while children are outstanding, and is called again.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "zfs.bpf.h"

MEMBER(zio, io_type);
MEMBER(zio, io_child_type);
MEMBER(zio, io_priority);
MEMBER(zio, io_spa);
MEMBER(zio, io_size);
MEMBER(zio, io_vd);
MEMBER(zio, io_delta);
MEMBER(zio, io_flags);
MEMBER(zio, io_error);
MEMBER(vdev, vdev_ops);
MEMBER(vdev, vdev_path);
MEMBER(vdev, vdev_state);
MEMBER(vdev_ops, vdev_op_leaf);
MEMBER(dsl_pool, dp_scan);
MEMBER(dsl_scan, scn_phys);
MEMBER(dsl_scan, scn_issued_before_pass);
MEMBER(dsl_scan_phys, scn_func);
MEMBER(dsl_scan_phys, scn_state);
MEMBER(dsl_scan_phys, scn_to_examine);
MEMBER(dsl_scan_phys, scn_examined);
MEMBER(dsl_scan_phys, scn_skipped);
MEMBER(spa, spa_scan_pass_issued);

/* enum zio_type, zio_child, zio_priority: the same from 2.0 to 2.4. */
enum { ZIO_TYPE_NULL, ZIO_TYPE_READ, ZIO_TYPE_WRITE, ZIO_TYPE_FREE, ZIO_TYPE_CLAIM, ZIO_TYPES = 7 };
enum { ZIO_CHILD_LOGICAL = 3 };
enum { ZIO_PRIORITY_QUEUEABLE = 9, ZIO_PRIORITIES = 11 };

/* Bits of io_flags. Those from 19 on moved in 2.3; the lower ones did not. */
#define ZIO_FLAG_RESILVER (1 << 3)
#define ZIO_FLAG_SPECULATIVE (1 << 8)
const volatile u64 zfs_zio_flag_bypass = 1 << 21;

#define ISSUED_UNKNOWN (~0ULL)

#define ECKSUM 52 /* EBADE on Linux */

#define VDEV_STATE_DEGRADED 6 /* of enum vdev_state, as vdev_is_dead() compares */

/* Bytes of a device's path in a key, truncated if longer. */
#define ZFS_VDEV_BYTES 128

struct zfs_zio_pool {
	char pool[ZFS_POOL_BYTES];
};

struct zfs_zio_key {
	char pool[ZFS_POOL_BYTES];
	u32 type;
	u32 priority;
};

struct zfs_zio_logical {
	struct hist read; /* us */
	struct hist write;
	struct hist free;
};

/* Logical ZIOs. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct zfs_zio_pool);
	__type(value, struct zfs_zio_logical);
} logical SEC(".maps");

struct zfs_zio_all {
	struct hist latency; /* s */
};

/* Logical ZIOs by type and priority, and those that exist only at devices. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, struct zfs_zio_key);
	__type(value, struct zfs_zio_all);
} all SEC(".maps");

struct zfs_zio_device {
	char pool[ZFS_POOL_BYTES];
	char vdev[ZFS_VDEV_BYTES];
	u32 type;
	u32 zero;
};

struct zfs_zio_device_stats {
	struct hist latency; /* s */
	u64 ops;
	u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct zfs_zio_device);
	__type(value, struct zfs_zio_device_stats);
} devices SEC(".maps");

struct zfs_zio_error {
	char pool[ZFS_POOL_BYTES];
	u32 type;
	u32 error; /* 0: the shared entry, for all that found no room */
};

struct zfs_zio_errors {
	u64 errors;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct zfs_zio_error);
	__type(value, struct zfs_zio_errors);
} errors SEC(".maps");

struct zfs_zio_scan {
	u64 ios;
	u64 bytes;
	u64 errors;
};

struct zfs_zio_scans {
	struct zfs_zio_scan scrub;
	struct zfs_zio_scan resilver;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct zfs_zio_pool);
	__type(value, struct zfs_zio_scans);
} scans SEC(".maps");

/* State of the scan when the last transaction group was synced. */
struct zfs_zio_progress {
	u64 func;  /* enum pool_scan_func: 1 scrub, 2 resilver */
	u64 state; /* enum dsl_scan_state: 1 scanning */
	u64 to_examine;
	u64 examined;
	u64 issued;
	u64 skipped;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct zfs_zio_pool);
	__type(value, struct zfs_zio_progress);
} progress SEC(".maps");

/*
 * Start times of ZIOs in progress, by address. An address is not reused before zio_destroy. Not
 * preallocated: a transaction group of 4 GiB in blocks of 16 KiB has 262,144 ZIOs, but most
 * machines never have a thousand.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1048576);
	__type(key, u64);
	__type(value, u64);
} started SEC(".maps");

/* Keys of the shared entries, for all that found no room. Other ZIOs of type null do not count. */
const struct zfs_zio_pool other_pool = {.pool = FOLDED_NAME};
const struct zfs_zio_key other_key = {.pool = FOLDED_NAME};
const struct zfs_zio_device other_device = {.pool = FOLDED_NAME, .vdev = FOLDED_NAME};
const struct zfs_zio_error other_error = {.pool = FOLDED_NAME};
const struct zfs_zio_logical zero_logical = {};
const struct zfs_zio_all zero_all = {};
const struct zfs_zio_device_stats zero_device = {};
const struct zfs_zio_errors zero_errors = {};
const struct zfs_zio_scans zero_scans = {};

/* Whether the start of a ZIO is recorded: of logical ZIOs, and of all flushes and trims. */
static __always_inline bool is_timed(u32 type, u32 child)
{
	return type > ZIO_TYPE_CLAIM || (type != ZIO_TYPE_NULL && child == ZIO_CHILD_LOGICAL);
}

static __always_inline int on_start(u64 zio)
{
	u32 type = ZIO_TYPE_NULL, child = 0;
	u64 now;

	if (!zio)
		return 0;
	READ_MEMBER(type, zio, zio, io_type);
	READ_MEMBER(child, zio, zio, io_child_type);
	if (!is_timed(type, child))
		return 0;
	now = bpf_ktime_get_ns();
	/*
	 * A ZIO starts once. An entry that exists is left from an earlier ZIO at this address. If
	 * there is no room, the end of the ZIO counts the loss as no_start.
	 */
	bpf_map_update_elem(&started, &zio, &now, BPF_ANY);
	return 0;
}

SEC("kprobe/zio_wait")
int BPF_KPROBE(wait, u64 zio)
{
	return on_start(zio);
}

SEC("kprobe/zio_nowait")
int BPF_KPROBE(nowait, u64 zio)
{
	return on_start(zio);
}

SEC("kprobe/zio_destroy")
int BPF_KPROBE(destroy, u64 zio)
{
	bpf_map_delete_elem(&started, &zio);
	return 0;
}

/* A completed ZIO, and space for keys. Too large for the stack. */
struct zfs_zio_done {
	char pool[ZFS_POOL_BYTES];
	u64 zio;
	u64 vd;
	u64 size;
	u64 flags;
	u64 ns;
	u32 type;
	u32 child;
	u32 priority;
	u32 error;
	struct zfs_zio_key key;
	struct zfs_zio_device device;
	struct zfs_zio_error failure;
};

/* Only one program at a time uses it on a CPU: kprobes do not nest. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct zfs_zio_done);
} scratch SEC(".maps");

static __always_inline void count_logical(struct zfs_zio_done *d)
{
	struct zfs_zio_logical *l;
	struct zfs_zio_all *a;

	l = d->type <= ZIO_TYPE_FREE
		    ? map_lookup_or_fold(&logical, d->pool, &zero_logical, &other_pool)
		    : NULL;
	if (l && d->type == ZIO_TYPE_READ)
		hist_observe_us(&l->read, d->ns);
	else if (l && d->type == ZIO_TYPE_WRITE)
		hist_observe_us(&l->write, d->ns);
	else if (l)
		hist_observe_us(&l->free, d->ns);
	__builtin_memcpy(d->key.pool, d->pool, sizeof(d->key.pool));
	d->key.type = d->type;
	d->key.priority = d->priority;
	a = map_lookup_or_fold(&all, &d->key, &zero_all, &other_key);
	if (a)
		hist_observe_s(&a->latency, d->ns);
}

static __always_inline void count_error(struct zfs_zio_done *d)
{
	struct zfs_zio_errors *e;

	__builtin_memcpy(d->failure.pool, d->pool, sizeof(d->failure.pool));
	d->failure.type = d->type;
	d->failure.error = d->error;
	e = map_lookup_or_fold(&errors, &d->failure, &zero_errors, &other_error);
	if (e)
		__sync_fetch_and_add(&e->errors, 1);
}

/* A device that ZFS does not use. Its ZIOs fail with ENXIO, which `zpool status` does not count. */
static __always_inline bool is_dead(u64 vd)
{
	u64 state = VDEV_STATE_DEGRADED;

	if (HAS_MEMBER(vdev, vdev_state))
		READ_MEMBER(state, vd, vdev, vdev_state);
	return state < VDEV_STATE_DEGRADED;
}

/* As `zpool iostat` counts: ZIOs that passed a device's queue. Aggregated ones count as one. */
static __always_inline void count_device(struct zfs_zio_done *d)
{
	struct zfs_zio_device_stats *stats;
	u64 path = 0, delta = 0;

	if (d->priority >= ZIO_PRIORITY_QUEUEABLE || d->flags & zfs_zio_flag_bypass)
		return;
	__builtin_memset(&d->device, 0, sizeof(d->device));
	__builtin_memcpy(d->device.pool, d->pool, sizeof(d->device.pool));
	d->device.type = d->type;
	READ_MEMBER(path, d->vd, vdev, vdev_path);
	bpf_probe_read_kernel_str(d->device.vdev, sizeof(d->device.vdev), (const void *)path);
	stats = map_lookup_or_fold(&devices, &d->device, &zero_device, &other_device);
	if (!stats)
		return;
	/*
	 * The time in queue and device, which ZFS measures for ZIOs that it queues. A distributed
	 * spare has no queue: it passes its operations to the disks that it is spread over.
	 */
	READ_MEMBER(delta, d->zio, zio, io_delta);
	if (delta)
		hist_observe_s(&stats->latency, delta);
	__sync_fetch_and_add(&stats->ops, 1);
	__sync_fetch_and_add(&stats->bytes, d->size);
}

/* Read a completed ZIO; returns whether its values are plausible. */
static __always_inline bool read_zio(struct zfs_zio_done *d, u64 zio)
{
	u64 spa = 0;

	READ_MEMBER(d->child, zio, zio, io_child_type);
	READ_MEMBER(d->priority, zio, zio, io_priority);
	READ_MEMBER(d->vd, zio, zio, io_vd);
	READ_MEMBER(d->error, zio, zio, io_error);
	READ_MEMBER(d->flags, zio, zio, io_flags);
	READ_MEMBER(spa, zio, zio, io_spa);
	__builtin_memset(d->pool, 0, sizeof(d->pool));
	d->zio = zio;
	return d->type < ZIO_TYPES && d->child <= ZIO_CHILD_LOGICAL &&
	       d->priority < ZIO_PRIORITIES && zfs_pool_of_spa(d->pool, spa);
}

SEC("kprobe/vdev_stat_update")
int BPF_KPROBE(done, u64 zio, u64 size)
{
	u32 type = ZIO_TYPE_NULL, zero = 0, leaf = 0;
	u64 ops = 0, *start;
	struct zfs_zio_done *d = bpf_map_lookup_elem(&scratch, &zero);

	READ_MEMBER(type, zio, zio, io_type);
	if (!d || type == ZIO_TYPE_NULL)
		return 0;
	d->type = type;
	d->size = size;
	if (!read_zio(d, zio)) {
		count_event(EVENT_IMPLAUSIBLE);
		return 0;
	}
	if (d->vd) {
		READ_MEMBER(ops, d->vd, vdev, vdev_ops);
		READ_MEMBER(leaf, ops, vdev_ops, vdev_op_leaf);
	}
	if (is_timed(type, d->child)) {
		start = bpf_map_lookup_elem(&started, &zio);
		if (!start) {
			count_event(EVENT_NO_START);
		} else {
			d->ns = elapsed_ns(*start, bpf_ktime_get_ns());
			bpf_map_delete_elem(&started, &zio);
			/* A mirror's own flush is neither logical nor at a device. */
			if (leaf || d->child == ZIO_CHILD_LOGICAL)
				count_logical(d);
		}
	}
	if (leaf && !d->error)
		count_device(d);
	else if (leaf && !(d->flags & ZIO_FLAG_SPECULATIVE) && !is_dead(d->vd))
		count_error(d);
	return 0;
}

/* (spa, device, bookmark, the ZIO of the raidz, ...) */
SEC("kprobe/zfs_ereport_post_checksum")
int BPF_KPROBE(column, u64 spa, u64 vd, u64 bookmark, u64 zio)
{
	u32 zero = 0;
	struct zfs_zio_done *d = bpf_map_lookup_elem(&scratch, &zero);

	if (!d)
		return 0;
	d->type = ZIO_TYPE_NULL;
	READ_MEMBER(d->type, zio, zio, io_type);
	__builtin_memset(d->pool, 0, sizeof(d->pool));
	if (d->type >= ZIO_TYPES || !zfs_pool_of_spa(d->pool, spa)) {
		count_event(EVENT_IMPLAUSIBLE);
		return 0;
	}
	d->error = ECKSUM;
	count_error(d);
	return 0;
}

SEC("kprobe/dsl_scan_scrub_done")
int BPF_KPROBE(scrub_done, u64 zio)
{
	struct zfs_zio_pool key = {};
	struct zfs_zio_scans *scan;
	struct zfs_zio_scan *s;
	u64 spa = 0, size = 0, flags = 0;
	u32 error = 0;

	READ_MEMBER(spa, zio, zio, io_spa);
	READ_MEMBER(flags, zio, zio, io_flags);
	READ_MEMBER(size, zio, zio, io_size);
	READ_MEMBER(error, zio, zio, io_error);
	if (!zfs_pool_of_spa(key.pool, spa)) {
		count_event(EVENT_IMPLAUSIBLE);
		return 0;
	}
	scan = map_lookup_or_fold(&scans, &key, &zero_scans, &other_pool);
	if (!scan)
		return 0;
	s = flags & ZIO_FLAG_RESILVER ? &scan->resilver : &scan->scrub;
	__sync_fetch_and_add(&s->ios, 1);
	__sync_fetch_and_add(&s->bytes, size);
	/* As dsl_scan_scrub_done counts scn_errors. */
	if (error && (error != ECKSUM || !(flags & ZIO_FLAG_SPECULATIVE)))
		__sync_fetch_and_add(&s->errors, 1);
	return 0;
}

/* Above all values of both enums in 2.4. With a wrong layout, most values read are greater. */
#define MAX_ENUM 7

SEC("kprobe/trace_zfs_txg__synced")
int BPF_KPROBE(synced, u64 dp)
{
	struct zfs_zio_pool key = {};
	struct zfs_zio_progress now = {};
	u64 scan = 0, phys, spa = 0, pass = 0;

	if (!zfs_pool_of_dsl(key.pool, dp))
		return 0;
	READ_MEMBER(scan, dp, dsl_pool, dp_scan);
	if (!scan)
		return 0;
	phys = scan + OFFSET_OF(dsl_scan, scn_phys);
	READ_MEMBER(now.func, phys, dsl_scan_phys, scn_func);
	READ_MEMBER(now.state, phys, dsl_scan_phys, scn_state);
	if (now.func > MAX_ENUM || now.state > MAX_ENUM) {
		count_event(EVENT_IMPLAUSIBLE);
		return 0;
	}
	READ_MEMBER(now.to_examine, phys, dsl_scan_phys, scn_to_examine);
	READ_MEMBER(now.examined, phys, dsl_scan_phys, scn_examined);
	if (HAS_MEMBER(dsl_scan_phys, scn_skipped))
		READ_MEMBER(now.skipped, phys, dsl_scan_phys, scn_skipped);
	if (HAS_MEMBER(spa, spa_scan_pass_issued)) {
		READ_MEMBER(now.issued, scan, dsl_scan, scn_issued_before_pass);
		bpf_probe_read_kernel(&spa, sizeof(spa), (const void *)dp);
		READ_MEMBER(pass, spa, spa, spa_scan_pass_issued);
		now.issued += pass;
	} else {
		now.issued = ISSUED_UNKNOWN;
	}
	if (bpf_map_update_elem(&progress, &key, &now, BPF_ANY))
		count_event(EVENT_MAP_FULL);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
