/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __MAPS_BPF_H
#define __MAPS_BPF_H

#include "events.bpf.h"

/* The value under `key`, made from `zero` where there is none yet; NULL when the map is full. */
static __always_inline void *map_lookup_or_init(void *map, const void *key, const void *zero)
{
	void *value = bpf_map_lookup_elem(map, key);

	if (value)
		return value;
	/* Another CPU may have been first: EEXIST is as good as success. */
	bpf_map_update_elem(map, key, zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

/*
 * As map_lookup_or_init; when the map is full the value under `other`, which userland
 * has put there; NULL, counted, when there is none.
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
