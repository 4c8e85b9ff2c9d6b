// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long does allocating space in a pool take, how often does it fail, how full is the pool?
 *
 * Hooks: kprobe and kretprobe on metaslab_alloc_range (2.4) or metaslab_alloc; a kprobe on the
 * empty function of txg__synced for the space used in the pool. Cost: one kprobe, one kretprobe and
 * a hash lookup for each allocation, that is for each block written. Failures: ENOSPC of the log
 * classes is normal without a log device, because each block of the intent log tries them first.
 * Only ENOSPC of class "normal" is a failure: then the block is split into smaller ones (ganged),
 * or the write fails.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "task_slots.bpf.h"
#include "zfs.bpf.h"

MEMBER(spa, spa_normal_class);
MEMBER(spa, spa_log_class);
MEMBER(spa, spa_embedded_log_class);
MEMBER(spa, spa_special_class);
MEMBER(spa, spa_dedup_class);
MEMBER(spa, spa_special_embedded_log_class);
MEMBER(metaslab_class, mc_alloc);
MEMBER(metaslab_class, mc_space);

/* The order is that of the words in crates/zfs-metaslab. */
enum zfs_metaslab_class {
	ZFS_METASLAB_NORMAL,
	ZFS_METASLAB_LOG,
	ZFS_METASLAB_EMBEDDED_LOG,
	ZFS_METASLAB_SPECIAL,
	ZFS_METASLAB_DEDUP,
	ZFS_METASLAB_SPECIAL_EMBEDDED_LOG,
	ZFS_METASLAB_CLASSES,
};

struct zfs_metaslab_key {
	char pool[ZFS_POOL_BYTES];
	u32 class;
};

struct zfs_metaslab_allocs {
	struct hist latency; /* us */
	u64 succeeded;
	u64 failed;
	u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct zfs_metaslab_key);
	__type(value, struct zfs_metaslab_allocs);
} allocs SEC(".maps");

struct zfs_metaslab_pool {
	char pool[ZFS_POOL_BYTES];
};

struct zfs_metaslab_fill {
	u64 allocated;
	u64 free;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct zfs_metaslab_pool);
	__type(value, struct zfs_metaslab_fill);
} fill SEC(".maps");

struct zfs_metaslab_task {
	struct task_slot slot;
	u64 spa;
	u64 mc;
	u64 bytes; /* requested */
	u64 most;  /* the most that it may allocate */
	u64 given; /* address at which the function returns the allocated size; 0: none */
};
TASK_SLOTS(tasks, struct zfs_metaslab_task);

const struct zfs_metaslab_allocs zero_allocs = {};

#define IS_CLASS(spa, mc, member)                               \
	({                                                      \
		u64 __class = 0;                                \
		if (HAS_MEMBER(spa, member))                    \
			READ_MEMBER(__class, spa, spa, member); \
		__class &&__class == (mc);                      \
	})

static __always_inline u32 class_of(u64 spa, u64 mc)
{
	if (IS_CLASS(spa, mc, spa_normal_class))
		return ZFS_METASLAB_NORMAL;
	if (IS_CLASS(spa, mc, spa_log_class))
		return ZFS_METASLAB_LOG;
	if (IS_CLASS(spa, mc, spa_embedded_log_class))
		return ZFS_METASLAB_EMBEDDED_LOG;
	if (IS_CLASS(spa, mc, spa_special_class))
		return ZFS_METASLAB_SPECIAL;
	if (IS_CLASS(spa, mc, spa_dedup_class))
		return ZFS_METASLAB_DEDUP;
	if (IS_CLASS(spa, mc, spa_special_embedded_log_class))
		return ZFS_METASLAB_SPECIAL_EMBEDDED_LOG;
	return ZFS_METASLAB_CLASSES;
}

static __always_inline int on_alloc(u64 spa, u64 mc, u64 bytes, u64 most, u64 given)
{
	u32 tid = current_tid();
	struct zfs_metaslab_task *t = tasks_take(tid, tid);

	if (!t)
		return 0;
	task_slot_begin(&t->slot, bpf_ktime_get_ns());
	t->spa = spa;
	t->mc = mc;
	t->bytes = bytes;
	t->most = most;
	t->given = given;
	return 0;
}

/* The allocated size. Blocks of the intent log and of gangs may get more than they request. */
static __always_inline u64 bytes_given(const struct zfs_metaslab_task *t)
{
	u64 bytes = t->bytes;

	if (!t->given || t->most == t->bytes)
		return bytes;
	if (bpf_probe_read_kernel(&bytes, sizeof(bytes), (const void *)t->given) ||
	    bytes < t->bytes || bytes > t->most) {
		count_event(EVENT_IMPLAUSIBLE);
		return t->bytes;
	}
	return bytes;
}

static __always_inline int on_alloc_end(int error)
{
	struct zfs_metaslab_key key = {},
				other = {.pool = FOLDED_NAME, .class = ZFS_METASLAB_NORMAL};
	u32 tid = current_tid();
	struct zfs_metaslab_task *t = tasks_find(tid, tid);
	struct zfs_metaslab_allocs *a;
	u64 began = t ? task_slot_end(&t->slot) : 0;

	if (!began) {
		count_event(EVENT_NO_START);
		return 0;
	}
	key.class = class_of(t->spa, t->mc);
	if (zfs_pool_of_spa(key.pool, t->spa)) {
		a = map_lookup_or_fold(&allocs, &key, &zero_allocs, &other);
		if (a) {
			hist_observe_us(&a->latency, elapsed_ns(began, bpf_ktime_get_ns()));
			if (error) {
				__sync_fetch_and_add(&a->failed, 1);
			} else {
				__sync_fetch_and_add(&a->succeeded, 1);
				__sync_fetch_and_add(&a->bytes, bytes_given(t));
			}
		}
	}
	return 0;
}

/* An argument on the stack, at the entry of a function. `number` 0 is the first argument. */
static __always_inline u64 stack_argument(const struct pt_regs *ctx, u32 number)
{
#if defined(__TARGET_ARCH_x86)
	u64 at = PT_REGS_SP(ctx) + sizeof(u64) * (number - 6 + 1); /* above the return address */
#elif defined(__TARGET_ARCH_arm64)
	u64 at = PT_REGS_SP(ctx) + sizeof(u64) * (number - 8);
#else
#error "where are arguments on the stack?"
#endif
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (const void *)at);
	return value;
}

/* (spa, class, psize, max_psize, bp, ndvas, txg, hintbp, flags, zal, allocator, tag, actual) */
SEC("kprobe/metaslab_alloc_range")
int BPF_KPROBE(range, u64 spa, u64 mc, u64 bytes, u64 most)
{
	return on_alloc(spa, mc, bytes, most, stack_argument(ctx, 12));
}

SEC("kretprobe/metaslab_alloc_range")
int BPF_KRETPROBE(range_end, int error)
{
	return on_alloc_end(error);
}

SEC("kprobe/metaslab_alloc")
int BPF_KPROBE(alloc, u64 spa, u64 mc, u64 bytes)
{
	return on_alloc(spa, mc, bytes, bytes, 0);
}

SEC("kretprobe/metaslab_alloc")
int BPF_KRETPROBE(alloc_end, int error)
{
	return on_alloc_end(error);
}

/* Above the space of any class, and below any pointer, which a wrong layout may yield. */
#define MAX_SPACE (1ULL << 60)

#define ADD_CLASS(spa, member)                                           \
	do {                                                             \
		u64 __class = 0, __alloc = 0, __space = 0;               \
		if (HAS_MEMBER(spa, member))                             \
			READ_MEMBER(__class, spa, spa, member);          \
		if (!__class)                                            \
			break;                                           \
		READ_MEMBER(__alloc, __class, metaslab_class, mc_alloc); \
		READ_MEMBER(__space, __class, metaslab_class, mc_space); \
		implausible |= __alloc > __space || __space > MAX_SPACE; \
		now.allocated += __alloc;                                \
		now.free += __space - __alloc;                           \
	} while (0)

/* All classes except that of log devices, as in `zpool list` (spa_prop_get_config). */
SEC("kprobe/trace_zfs_txg__synced")
int BPF_KPROBE(synced, u64 dp)
{
	struct zfs_metaslab_pool key = {};
	struct zfs_metaslab_fill now = {};
	bool implausible = false;
	u64 spa = 0;

	bpf_probe_read_kernel(&spa, sizeof(spa), (const void *)dp);
	if (!zfs_pool_of_spa(key.pool, spa))
		return 0;
	ADD_CLASS(spa, spa_normal_class);
	ADD_CLASS(spa, spa_special_class);
	ADD_CLASS(spa, spa_dedup_class);
	ADD_CLASS(spa, spa_embedded_log_class);
	ADD_CLASS(spa, spa_special_embedded_log_class);
	if (implausible) {
		count_event(EVENT_IMPLAUSIBLE);
		return 0;
	}
	if (bpf_map_update_elem(&fill, &key, &now, BPF_ANY))
		count_event(EVENT_MAP_FULL);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
