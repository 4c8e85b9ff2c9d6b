// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One program for every kind of section. Each adds its own prime number to its row, if it is the
 * process under test that runs into it; those that nobody runs on purpose add at any time.
 *
 * User space: the test is in a folder of PATH under the name `custom-test-target`. It has a
 * function `custom_test_function` and a probe `custom_test:probe`, whose argument is what its row
 * grows by.
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
	SECTIONS_KRETPROBE_MULTI = 18,
	SECTIONS_KRETSYSCALL = 19,
	SECTIONS_RAW_TP_WRITABLE = 20,
	SECTIONS_UPROBE_MULTI = 21,
	SECTIONS_URETPROBE_MULTI = 22,
	SECTIONS_FMOD_RET = 23,
	SECTIONS_LSM = 24,
	SECTIONS_UPROBE_SLEEPABLE = 25,
	SECTIONS_ITER_SLEEPABLE = 26,
	SECTIONS_KPROBE_SESSION = 27,
	SECTIONS_UPROBE_SESSION = 28,
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

SEC("kprobe/vfs_fallocate")
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

SEC("kprobe.multi/vfs_rea?")
int sections_kprobe_multi(void *ctx)
{
	return sections_ours(SECTIONS_KPROBE_MULTI, 7);
}

SEC("ksyscall/getpgid")
int sections_ksyscall(void *ctx)
{
	return sections_ours(SECTIONS_KSYSCALL, 11);
}

SEC("kretprobe.multi/vfs_rea?")
int sections_kretprobe_multi(void *ctx)
{
	return sections_ours(SECTIONS_KRETPROBE_MULTI, 67);
}

/* These two run at the entry and at the return of each call. */
SEC("kprobe.session/vfs_rea?")
int sections_kprobe_session(void *ctx)
{
	return sections_ours(SECTIONS_KPROBE_SESSION, 107);
}

SEC("uprobe.session/custom-test-target:custom_test_functio?")
int sections_uprobe_session(void *ctx)
{
	return sections_ours(SECTIONS_UPROBE_SESSION, 109);
}

SEC("kretsyscall/getpgid")
int sections_kretsyscall(void *ctx)
{
	return sections_ours(SECTIONS_KRETSYSCALL, 71);
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

/* The result of a test run of a program, which this program may change. */
SEC("raw_tp.w/bpf_test_finish")
int sections_raw_tp_writable(u64 *ctx)
{
	int *result = (void *)ctx[0];

	*result = *result;
	return sections_ours(SECTIONS_RAW_TP_WRITABLE, 73);
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

SEC("uprobe.multi/custom-test-target:custom_test_functio?")
int sections_uprobe_multi(void *ctx)
{
	return sections_ours(SECTIONS_UPROBE_MULTI, 79);
}

SEC("uretprobe.multi/custom-test-target:custom_test_functio?")
int sections_uretprobe_multi(void *ctx)
{
	return sections_ours(SECTIONS_URETPROBE_MULTI, 83);
}

SEC("uprobe.s/custom-test-target:custom_test_function")
int sections_uprobe_sleepable(void *ctx)
{
	return sections_ours(SECTIONS_UPROBE_SLEEPABLE, 101);
}

SEC("usdt/custom-test-target:custom_test:probe")
int sections_usdt(struct pt_regs *ctx)
{
	long n = 0;

	bpf_usdt_arg(ctx, 0, &n);
	return sections_ours(SECTIONS_USDT, n);
}

/* These decide about getpgid, and allow it. */
SEC("fmod_ret/security_task_getpgid")
int sections_fmod_ret(void *ctx)
{
	return sections_ours(SECTIONS_FMOD_RET, 97);
}

SEC("lsm/task_getpgid")
int sections_lsm(void *ctx)
{
	return sections_ours(SECTIONS_LSM, 89);
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

SEC("iter.s/task")
int sections_iter_sleepable(struct bpf_iter__task *ctx)
{
	return sections_add(SECTIONS_ITER_SLEEPABLE, 103);
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
