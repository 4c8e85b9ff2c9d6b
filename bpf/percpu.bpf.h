/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __PERCPU_BPF_H
#define __PERCPU_BPF_H

#include <bpf/bpf_core_read.h>

/* kernel/bpf/arraymap.c: where a per-CPU array keeps its values. */
struct bpf_array___per_cpu {
	u32 elem_size;
	void *pptrs[];
} __attribute__((preserve_access_index));

/* Through memory: the verifier permits no arithmetic on a pointer that it tracks. */
static __always_inline u64 number_of(const void *pointer)
{
	u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/*
 * The distance from the address of per-CPU memory to this CPU's copy of it. It is the same for all
 * per-CPU memory of the kernel, so it can be measured: `value` is this CPU's copy of the first
 * element of per-CPU array `array`, and the array holds the address. Reading it from a symbol would
 * need the privilege to see symbol addresses.
 */
static __always_inline u64 per_cpu_distance(void *array, const void *value)
{
	u64 at = number_of(array) + bpf_core_field_offset(struct bpf_array___per_cpu, pptrs);
	u64 base = 0;

	bpf_probe_read_kernel(&base, sizeof(base), (const void *)at);
	return number_of(value) - base;
}

#endif /* __PERCPU_BPF_H */
