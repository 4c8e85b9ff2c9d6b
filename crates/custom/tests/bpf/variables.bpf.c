// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Addresses of kernel symbols in variables of every section, and in one that is too small. */
#include "trigger.bpf.h"

const volatile u64 kaddr_vfs_read = 0;
volatile u64 kaddr_vfs_write;
volatile u64 kaddr_vfs_open = 1;
volatile u64 kaddr_vfs_fsync SEC(".data.mine") = 1;
volatile u32 kaddr_vfs_llseek;

COUNTERS(variables_total, HASH, 16, u64);

static __always_inline void variables_add(u64 address, u64 n)
{
	increment_map(&variables_total, &address, n);
}

ON_TRIGGER(variables_triggered)
{
	variables_add(kaddr_vfs_read, 2);
	variables_add(kaddr_vfs_write, 3);
	variables_add(kaddr_vfs_open, 5);
	variables_add(kaddr_vfs_fsync, 7);
	variables_add(kaddr_vfs_llseek, 11);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
