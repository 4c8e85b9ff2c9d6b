/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TRIGGER_BPF_H
#define __TRIGGER_BPF_H

/*
 * What makes the test objects count: the system call prctl(TRIGGER_MAGIC, what, value), which the
 * kernel refuses, made by the process `trigger_tgid`. The test writes that number into the object's
 * file before it is loaded.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "maps.bpf.h"

#define TRIGGER_MAGIC 0x45425046

#if defined(__TARGET_ARCH_x86)
#define TRIGGER_PRCTL 157
#else
#define TRIGGER_PRCTL 167
#endif

const volatile u32 trigger_tgid = 0;

static __always_inline bool is_trigger(struct pt_regs *regs, long id)
{
	return id == TRIGGER_PRCTL && bpf_get_current_pid_tgid() >> 32 == trigger_tgid &&
	       (u32)PT_REGS_PARM1_CORE_SYSCALL(regs) == TRIGGER_MAGIC;
}

/* Begins a function that runs once for each trigger, with its two arguments. */
#define ON_TRIGGER(name)                                                       \
	static __always_inline int name##_run(void *ctx, u64 what, u64 value); \
	SEC("tp_btf/sys_enter")                                                \
	int BPF_PROG(name, struct pt_regs *regs, long id)                      \
	{                                                                      \
		if (!is_trigger(regs, id))                                     \
			return 0;                                              \
		return name##_run(ctx, PT_REGS_PARM2_CORE_SYSCALL(regs),       \
				  PT_REGS_PARM3_CORE_SYSCALL(regs));           \
	}                                                                      \
	static __always_inline int name##_run(void *ctx, u64 what, u64 value)

/* A map of counters. */
#define COUNTERS(name, kind, entries, key_type)    \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(max_entries, entries);      \
		__type(key, key_type);             \
		__type(value, u64);                \
	} name SEC(".maps")

#endif /* __TRIGGER_BPF_H */
