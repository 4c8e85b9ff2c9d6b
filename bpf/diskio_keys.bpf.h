/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __DISKIO_KEYS_BPF_H
#define __DISKIO_KEYS_BPF_H

/* What I/Os are counted by: disk and operation. */
#include "core_fixes.bpf.h"
#include "maps.bpf.h"

#define DISK_NAME_LEN 32 /* as in linux/blkdev.h, all kernels */

/* enum req_op; these numbers are the same since 4.10. */
#define OP_MASK 0xff
#define OP_READ 0
#define OP_WRITE 1
#define OP_FLUSH 2
#define OP_DISCARD 3
#define OP_SECURE_ERASE 5
#define OP_WRITE_SAME 7 /* removed in 5.18; then REQ_OP_ZONE_APPEND, a write too */
#define OP_WRITE_ZEROES 9
#define OP_FIRST_PASSTHROUGH 32

enum diskio_op {
	DISKIO_READ,
	DISKIO_WRITE,
	DISKIO_FLUSH,
	DISKIO_DISCARD,
	DISKIO_OTHER,
	DISKIO_PASSTHROUGH, /* never a key */
};

/* REQ_OP_ZONE_APPEND is a write; its number differs between kernels. */
const volatile u32 diskio_op_zone_append = OP_WRITE;

/* Above this many entries, those of completed I/Os are deleted at once. */
const volatile u64 diskio_start_crowded = 3072;

/*
 * The key is the disk's name, as in the label, not its number or address: both are reused for other
 * disks.
 */
struct diskio_key {
	char disk[DISK_NAME_LEN];
	u32 op; /* enum diskio_op */
	u32 zero;
} __attribute__((aligned(8)));

/*
 * As in diskstats (op_stat_group()): everything that changes data is a write, except discards. Zone
 * management moves no data and is other.
 */
static __always_inline u32 operation(u32 cmd_flags)
{
	u32 op = cmd_flags & OP_MASK;

	if (op == diskio_op_zone_append)
		return DISKIO_WRITE;
	switch (op) {
	case OP_READ:
		return DISKIO_READ;
	case OP_WRITE:
	case OP_SECURE_ERASE:
	case OP_WRITE_SAME:
	case OP_WRITE_ZEROES:
		return DISKIO_WRITE;
	case OP_FLUSH:
		return DISKIO_FLUSH;
	case OP_DISCARD:
		return DISKIO_DISCARD;
	}
	return op < OP_FIRST_PASSTHROUGH ? DISKIO_OTHER : DISKIO_PASSTHROUGH;
}

static __always_inline bool read_disk_name(struct gendisk *disk, struct diskio_key *key, bool btf)
{
	const u64 *name;
	u64 *to = (u64 *)key->disk;

	if (!disk)
		return false;
	if (!btf)
		return !bpf_probe_read_kernel(key->disk, sizeof(key->disk), disk->disk_name);
	name = (const u64 *)&disk->disk_name;
	to[0] = name[0];
	to[1] = name[1];
	to[2] = name[2];
	to[3] = name[3];
	return true;
}

/* The statistics of a key; the shared ones if there is no room; or NULL, which is counted. */
static __always_inline void *stats_of(void *map, struct diskio_key *key, const void *zero)
{
	struct diskio_key other = {.disk = FOLDED_NAME, .op = key->op};

	return map_lookup_or_fold(map, key, zero, &other);
}

#endif /* __DISKIO_KEYS_BPF_H */
