/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __ZFS_BPF_H
#define __ZFS_BPF_H

/*
 * The ZFS module. vmlinux.h does not have its types, so pointers to them are numbers here and
 * members are read with MEMBER() and READ_MEMBER().
 *
 * All probes are kprobes: a module can be unloaded while these are attached. fentry and
 * kprobe.multi hold a reference on the module.
 */
#include "offsets.bpf.h"

/* A pool's name in a key, truncated if longer; ZFS allows 255 bytes. */
#define ZFS_POOL_BYTES 64

/* struct spa begins with spa_name, struct dsl_pool with dp_spa: in all of 2.0 to 2.4. */
static __always_inline bool zfs_pool_of_spa(char pool[ZFS_POOL_BYTES], u64 spa)
{
	return spa && bpf_probe_read_kernel_str(pool, ZFS_POOL_BYTES, (const void *)spa) > 1;
}

static __always_inline bool zfs_pool_of_dsl(char pool[ZFS_POOL_BYTES], u64 dp)
{
	u64 spa = 0;

	bpf_probe_read_kernel(&spa, sizeof(spa), (const void *)dp);
	return zfs_pool_of_spa(pool, spa);
}

#endif /* __ZFS_BPF_H */
