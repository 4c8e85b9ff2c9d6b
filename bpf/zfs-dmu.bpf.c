// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How much is read from and written to each dataset?
 *
 * Hooks: kprobes on dataset_kstats_update_read_kstats and _write_kstats. ZFS calls them once for
 * each read(2), write(2), page fault and volume request with the bytes moved, whichever DMU entry
 * point served it (dmu_read, dmu_read_uio, dmu_assign_arcbuf, direct I/O). The DMU functions
 * themselves also see copies for the intent log and block cloning, which moves no data, and count a
 * request once for each record.
 * Cost: three memory reads and a hash lookup for each request.
 * Not seen: zfs send and receive, snapshots, unmounted datasets; with ZFS 2.0 mapped files. The
 * kernel's own counters (kstat objset-ID) do not include these either.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "events.bpf.h"
#include "maps.bpf.h"
#include "zfs.bpf.h"

MEMBER(dataset_kstats, dk_kstats);
MEMBER(kstat_s, ks_proc);
MEMBER(kstat_proc_entry, kpe_name);
MEMBER(kstat_proc_entry, kpe_module);

struct zfs_dmu_key {
	char pool[ZFS_POOL_BYTES];
	u64 objset; /* of the dataset, within the pool */
};

struct zfs_dmu_requests {
	u64 reads;
	u64 writes;
	u64 read_bytes;
	u64 written_bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct zfs_dmu_key);
	__type(value, struct zfs_dmu_requests);
} datasets SEC(".maps");

const struct zfs_dmu_requests zero_requests = {};

/* The hexadecimal number after "objset-0x", of up to 16 digits. */
static __always_inline u64 objset_of(const char name[32])
{
	u64 id = 0;

#pragma unroll
	for (int i = 9; i < 25; i++) {
		char c = name[i];

		if (c >= '0' && c <= '9')
			id = id << 4 | (u64)(c - '0');
		else if (c >= 'a' && c <= 'f')
			id = id << 4 | (u64)(c - 'a' + 10);
		else
			return id;
	}
	return id;
}

/* A dataset's kstat is called objset-0xID, in the module zfs/POOL. */
static __always_inline struct zfs_dmu_requests *requests_of(u64 dk)
{
	struct zfs_dmu_key key = {}, other = {.pool = FOLDED_NAME};
	char name[32] = {};
	u64 kstat = 0, entry;

	READ_MEMBER(kstat, dk, dataset_kstats, dk_kstats);
	if (!kstat)
		return NULL; /* it has none: not mounted, or being mounted */
	entry = kstat + OFFSET_OF(kstat_s, ks_proc);
	READ_MEMBER(name, entry, kstat_proc_entry, kpe_name);
	key.objset = objset_of(name);
	/* The pool's name follows "zfs/". */
	bpf_probe_read_kernel_str(
		key.pool, sizeof(key.pool),
		(const void *)(entry + OFFSET_OF(kstat_proc_entry, kpe_module) + 4));
	return map_lookup_or_fold(&datasets, &key, &zero_requests, &other);
}

SEC("kprobe/dataset_kstats_update_read_kstats")
int BPF_KPROBE(read, u64 dk, u64 bytes)
{
	struct zfs_dmu_requests *r = requests_of(dk);

	if (r) {
		__sync_fetch_and_add(&r->reads, 1);
		__sync_fetch_and_add(&r->read_bytes, bytes);
	}
	return 0;
}

SEC("kprobe/dataset_kstats_update_write_kstats")
int BPF_KPROBE(write, u64 dk, u64 bytes)
{
	struct zfs_dmu_requests *r = requests_of(dk);

	if (r) {
		__sync_fetch_and_add(&r->writes, 1);
		__sync_fetch_and_add(&r->written_bytes, bytes);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
