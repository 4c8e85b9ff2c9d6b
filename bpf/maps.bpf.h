/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __MAPS_BPF_H
#define __MAPS_BPF_H

#include "events.bpf.h"

#define ENOMEM 12

/*
 * The name in the key of the entry that all keys without room share. No pool, disk or process can
 * have it: the kernel's names end at the first zero byte, and the rest of a key is zero. "other"
 * itself would not do, because somebody may have chosen that name. Userland's FOLDED.
 */
#define FOLDED_NAME "\0other"

/*
 * Whether a map operation failed with this error. Compare 32 bits only: before 6.4 the map's own
 * function, which the verifier calls instead of the helper, returned an int, and the register's
 * upper half is 0 (d7ba4cc900bf, "bpf: return long from bpf_map_ops funcs").
 */
static __always_inline bool failed_with(long result, s32 error)
{
	return (s32)result == -error;
}

/* The value of `key`, created from `zero` if missing; NULL if the map is full. */
static __always_inline void *map_lookup_or_init(void *map, const void *key, const void *zero)
{
	void *value = bpf_map_lookup_elem(map, key);

	if (value)
		return value;
	/* Another CPU may have inserted it first: EEXIST is as good as success. */
	bpf_map_update_elem(map, key, zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

/*
 * As map_lookup_or_init, for a hash of large per-CPU values that is not preallocated. The kernel
 * takes these values from a pool of a few pages that a worker refills later (mm/percpu.c:
 * pcpu_balance_workfn), so several new keys in a row can fail although there is memory. Until then
 * they are counted under the same key in `spill`: a preallocated hash of the same types with one
 * value for all CPUs. Userland adds both maps up.
 */
static __always_inline void *map_lookup_or_spill(void *map, void *spill, const void *key,
						 const void *zero)
{
	void *value = bpf_map_lookup_elem(map, key);

	if (value)
		return value;
	if (!failed_with(bpf_map_update_elem(map, key, zero, BPF_NOEXIST), ENOMEM))
		return bpf_map_lookup_elem(map, key);
	return map_lookup_or_init(spill, key, zero);
}

/*
 * As map_lookup_or_init. If the map is full: the value of `other`, which userland inserted, or
 * NULL, which is counted.
 */
static __always_inline void *map_lookup_or_fold(void *map, const void *key, const void *zero,
						const void *other)
{
	void *value = map_lookup_or_init(map, key, zero);

	if (value)
		return value;
	value = bpf_map_lookup_elem(map, other);
	count_event(value ? EVENT_FOLDED : EVENT_MAP_FULL);
	return value;
}

#endif /* __MAPS_BPF_H */
