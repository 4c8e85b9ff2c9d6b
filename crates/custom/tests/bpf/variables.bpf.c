/* SPDX-License-Identifier: GPL-2.0 */
/* Variables of each section, and maps of sizes that metrics do not have. */
#include "tiny.bpf.h"

volatile u64 kaddr_zero;
volatile u64 kaddr_initialised = 7;
volatile u64 kaddr_other SEC(".data.other") = 7;
const volatile u32 kaddr_short = 0;

struct words {
	u64 first, second;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, u32);
	__type(value, struct words);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, u32);
	__type(value, u32);
} halves SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} records SEC(".maps");

SEC("tp_btf/sys_enter")
int sum(u64 *ctx)
{
	u32 slot = 0;
	u64 *value = bpf_map_lookup_elem(&counts, &slot);

	if (value)
		*value = kaddr_tgid + kaddr_zero + kaddr_initialised + kaddr_other + kaddr_short;
	return 0;
}
