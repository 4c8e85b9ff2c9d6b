// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One program for every kind of section. Each adds its own prime number to its row, if it is the
 * process under test that runs into it; those that nobody runs on purpose add at any time.
 *
 * Userspace: the test puts itself into a folder of PATH under the name `custom-test-target`. It has
 * a function `custom_test_function` and a probe `custom_test:probe`.
 */
#include "trigger.bpf.h"
/* libbpf's header compares an unsigned number with a short. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wsign-compare"
#include <bpf/usdt.bpf.h>
#pragma clang diagnostic pop

enum sections_row {
	SECTIONS_KPROBE = 0,
	SECTIONS_KPROBE_OFFSET = 1,
	SECTIONS_KRETPROBE = 2,
	SECTIONS_KPROBE_MULTI = 3,
	SECTIONS_KSYSCALL = 4,
	SECTIONS_FENTRY = 5,
	SECTIONS_FEXIT = 6,
	SECTIONS_RAW_TP = 7,
	SECTIONS_TP = 8,
	SECTIONS_TP_BTF = 9,
	SECTIONS_UPROBE = 10,
	SECTIONS_URETPROBE = 11,
	SECTIONS_USDT = 12,
	SECTIONS_PERF_EVENT = 13,
	SECTIONS_XDP = 14,
	SECTIONS_ITER = 15,
	SECTIONS_OPTIONAL = 16,
	SECTIONS_CGROUP_SKB = 17,
};

COUNTERS(sections_total, HASH, 64, u32);

static __always_inline int sections_add(u32 row, u64 n)
{
	increment_map(&sections_total, &row, n);
	return 0;
}

static __always_inline int sections_ours(u32 row, u64 n)
{
	return bpf_get_current_pid_tgid() >> 32 == trigger_tgid ? sections_add(row, n) : 0;
}

SEC("kprobe/__do_sys_getpgid")
int sections_kprobe(void *ctx)
{
	return sections_ours(SECTIONS_KPROBE, 2);
}

SEC("kprobe/vfs_read+0")
int sections_kprobe_offset(void *ctx)
{
	return sections_ours(SECTIONS_KPROBE_OFFSET, 3);
}

SEC("kretprobe/vfs_read")
int sections_kretprobe(void *ctx)
{
	return sections_ours(SECTIONS_KRETPROBE, 5);
}

SEC("kprobe.multi/vfs_rea[d]")
int sections_kprobe_multi(void *ctx)
{
	return sections_ours(SECTIONS_KPROBE_MULTI, 7);
}

SEC("ksyscall/getpgid")
int sections_ksyscall(void *ctx)
{
	return sections_ours(SECTIONS_KSYSCALL, 11);
}

SEC("fentry/vfs_read")
int sections_fentry(void *ctx)
{
	return sections_ours(SECTIONS_FENTRY, 13);
}

SEC("fexit/vfs_read")
int sections_fexit(void *ctx)
{
	return sections_ours(SECTIONS_FEXIT, 17);
}

/* The arguments of a raw tracepoint: here registers and the call's number. */
SEC("raw_tp/sys_enter")
int sections_raw_tp(u64 *ctx)
{
	return is_trigger((void *)ctx[0], ctx[1]) ? sections_add(SECTIONS_RAW_TP, 19) : 0;
}

/* What the kernel hands to a program at a tracepoint of a system call. */
struct sections_syscall {
	u64 common;
	u64 id;
	u64 args[6];
};

SEC("tp/raw_syscalls/sys_enter")
int sections_tp(struct sections_syscall *ctx)
{
	return ctx->id == TRIGGER_PRCTL && (u32)ctx->args[0] == TRIGGER_MAGIC
		       ? sections_ours(SECTIONS_TP, 23)
		       : 0;
}

ON_TRIGGER(sections_tp_btf)
{
	return sections_add(SECTIONS_TP_BTF, 29);
}

SEC("uprobe/custom-test-target:custom_test_function")
int sections_uprobe(void *ctx)
{
	return sections_ours(SECTIONS_UPROBE, 31);
}

SEC("uretprobe/custom-test-target:custom_test_function")
int sections_uretprobe(void *ctx)
{
	return sections_ours(SECTIONS_URETPROBE, 37);
}

SEC("usdt/custom-test-target:custom_test:probe")
int sections_usdt(struct pt_regs *ctx)
{
	return sections_ours(SECTIONS_USDT, 41);
}

/* The software clock, which every machine has, 97 times per second and CPU. */
SEC("perf_event/type=1,config=0,frequency=97")
int sections_perf_event(void *ctx)
{
	return sections_add(SECTIONS_PERF_EVENT, 43);
}

SEC("xdp/lo")
int sections_xdp(void *ctx)
{
	sections_add(SECTIONS_XDP, 47);
	return 2; /* XDP_PASS */
}

/* Attached, but nobody reads it. */
SEC("iter/task")
int sections_iter(struct bpf_iter__task *ctx)
{
	return sections_add(SECTIONS_ITER, 53);
}

/* Not loaded, because nobody asks for it. */
SEC("?fentry/vfs_read")
int sections_optional(void *ctx)
{
	return sections_add(SECTIONS_OPTIONAL, 59);
}

/* Loaded and not attached: it would need a control group. */
SEC("cgroup_skb/ingress")
int sections_cgroup_skb(void *ctx)
{
	return sections_add(SECTIONS_CGROUP_SKB, 61) + 1;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
