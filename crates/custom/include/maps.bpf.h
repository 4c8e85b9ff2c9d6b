/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __MAPS_BPF_H
#define __MAPS_BPF_H

/*
 * Counters and histograms in maps whose values are u64. Include vmlinux.h before.
 *
 * A histogram's key is a struct with the member `bucket`, which is its last label. Slot max + 1
 * holds the sum of the values, so an array needs max + 2 entries.
 */

#include <bpf/bpf_helpers.h>

#include "bits.bpf.h"

/* The value of the key, which becomes 0 if it has none. NULL if the map is full. */
static __always_inline __attribute__((unused)) u64 *maps_value(void *map, const void *key)
{
	u64 zero = 0, *value;

	value = bpf_map_lookup_elem(map, key);
	if (value)
		return value;
	/* Another CPU may be first; then its entry is found below. */
	bpf_map_update_elem(map, key, &zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

/* Adds to the key's value and returns it. 0 if the map is full. */
static __always_inline __attribute__((unused)) u64 increment_map(void *map, const void *key,
								 u64 increment)
{
	u64 *value = maps_value(map, key);

	if (!value)
		return 0;
	__sync_fetch_and_add(value, increment);
	return *value;
}

/* The same without an atomic addition: for maps per CPU, in programs that do not interrupt
 * themselves. */
static __always_inline __attribute__((unused)) u64 increment_map_nosync(void *map, const void *key,
									u64 increment)
{
	u64 *value = maps_value(map, key);

	if (!value)
		return 0;
	*value += increment;
	return *value;
}

/*
 * Sets `into` to a pointer to the key's value, which becomes all zeros if the key has none. Returns
 * 0 from the calling function if the map is full.
 */
#define lookup_or_zero_init_key(map, key, into)                              \
	({                                                                   \
		into = bpf_map_lookup_elem(map, key);                        \
		if (!into) {                                                 \
			__typeof__(*(into)) __zero;                          \
			__builtin_memset(&__zero, 0, sizeof(__zero));        \
			bpf_map_update_elem(map, key, &__zero, BPF_NOEXIST); \
			into = bpf_map_lookup_elem(map, key);                \
		}                                                            \
		if (!into)                                                   \
			return 0;                                            \
	})

/*
 * Sets `into` to a pointer to the key's value. Returns 0 from the calling function if there is
 * none.
 */
#define read_array_ptr(map, key, into)                \
	({                                            \
		into = bpf_map_lookup_elem(map, key); \
		if (!into)                            \
			return 0;                     \
	})

/* ceil(log2(v)), 0 for 0 and 1: the first exp2 bucket whose bound is not below the value. */
static __always_inline __attribute__((unused)) u64 log2l_histogram(u64 v)
{
	return v > 1 ? log2l(v - 1) + 1 : 0;
}

#define __maps_histogram(map, key, slot, value, max, add)              \
	({                                                             \
		u64 __value = (value), __max = (max), __slot = (slot); \
		(key).bucket = __slot > __max ? __max : __slot;        \
		add(map, &(key), 1);                                   \
		if (__value > 0) {                                     \
			(key).bucket = __max + 1;                      \
			add(map, &(key), __value);                     \
		}                                                      \
	})

#define __maps_exp2_slot(value) log2l_histogram(value)
#define __maps_exp2zero_slot(value) ((value) ? log2l_histogram(value) + 1 : 0)

/* Counts a value in a histogram with `bucket_type: exp2` and `bucket_max: max`. */
#define increment_exp2_histogram(map, key, value, max) \
	__maps_histogram(map, key, __maps_exp2_slot(__value), value, max, increment_map)
#define increment_exp2_histogram_nosync(map, key, value, max) \
	__maps_histogram(map, key, __maps_exp2_slot(__value), value, max, increment_map_nosync)

/* The same for `bucket_type: exp2zero`, which has a bucket for the value 0. */
#define increment_exp2zero_histogram(map, key, value, max) \
	__maps_histogram(map, key, __maps_exp2zero_slot(__value), value, max, increment_map)
#define increment_exp2zero_histogram_nosync(map, key, value, max) \
	__maps_histogram(map, key, __maps_exp2zero_slot(__value), value, max, increment_map_nosync)

#endif /* __MAPS_BPF_H */
