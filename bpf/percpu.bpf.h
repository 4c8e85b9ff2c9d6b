/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __PERCPU_BPF_H
#define __PERCPU_BPF_H

#include <bpf/bpf_core_read.h>

/* kernel/bpf/arraymap.c: where a per-CPU array has its values. */
struct bpf_array___per_cpu {
	u32 elem_size;
	void *pptrs[];
} __attribute__((preserve_access_index));

/* By way of memory: the verifier lets nobody calculate with a pointer that it knows. */
static __always_inline u64 number_of(const void *pointer)
{
	u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/*
 * How far a CPU's part of any per-CPU memory of the kernel is from that memory's address: as far
 * as `value`, the first one of per-CPU array `array` on that CPU, from where the array has it. No
 * symbol tells that distance to who may not see addresses of symbols.
 */
static __always_inline u64 per_cpu_distance(void *array, const void *value)
{
	u64 at = number_of(array) + bpf_core_field_offset(struct bpf_array___per_cpu, pptrs);
	u64 base = 0;

	bpf_probe_read_kernel(&base, sizeof(base), (const void *)at);
	return number_of(value) - base;
}

#endif /* __PERCPU_BPF_H */
