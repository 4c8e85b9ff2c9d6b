/* SPDX-License-Identifier: GPL-2.0 */
/* Compiled without debug information, so without BTF: it can have variables, and no maps. */
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))

char LICENSE[] SEC("license") = "GPL";

const volatile u64 first = 1;
const volatile u64 kaddr_zero = 0;

SEC("raw_tp/sys_enter")
int nothing(void *ctx)
{
	return first == kaddr_zero;
}
