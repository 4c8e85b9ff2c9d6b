// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Addresses of kernel symbols in .rodata, and the hook that runs once after everything is attached.
 * kaddr_no_variable and kaddr_no_symbol are this program with a config that is refused.
 */
#include "trigger.bpf.h"

const volatile u64 kaddr_jiffies = 0;
const volatile u64 kaddr_vfs_read = 0;

COUNTERS(kaddr_total, HASH, 16, u64);
COUNTERS(kaddr_mark_total, ARRAY, 1, u32);

ON_TRIGGER(kaddr_triggered)
{
	u64 data = kaddr_jiffies, function = kaddr_vfs_read;

	increment_map(&kaddr_total, &data, 5);
	increment_map(&kaddr_total, &function, 7);
	return 0;
}

SEC("uprobe//proc/self/exe:post_attach_mark")
int kaddr_mark(void *ctx)
{
	u32 first = 0;

	increment_map(&kaddr_mark_total, &first, 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
