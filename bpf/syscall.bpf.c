// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which system calls run, how often, how long, with which errors?
 *
 * Hooks: sys_enter; for latency and errors sys_exit too. Each as tp_btf and, for
 * kernels without their own BTF, as raw_tp.
 * Cost: an increment in a per-CPU array for each call; with latency or errors a clock
 * read and a per-task record at both ends. That the tracepoint is in use at all sends
 * every system call of the machine through the kernel's slow path (70 ns).
 * Not seen: calls that begin before attaching have no latency; exit and exit_group never
 * return, so they have neither latency nor errors. Calls for the x32 ABI are "invalid".
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "core_fixes.bpf.h"
#include "events.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "task_slots.bpf.h"

/* Slots of native calls, then of compat ones, then one for numbers that are none. */
#define SYSCALL_SLOTS 512
#define SYSCALL_INVALID (2 * SYSCALL_SLOTS)
/* A key of `errors` only: what finds no room there. */
#define SYSCALL_OTHER (SYSCALL_INVALID + 1)

/* An error is returned as its negative number, none greater than this (linux/err.h). */
#define MAX_ERRNO 4095

/* Set by userland from flags and from the architecture's table. */
const volatile bool syscall_latency = false;
const volatile bool syscall_errors = false;
/* Slots of the calls that never return; the first two native, the others compat. */
const volatile u32 syscall_no_return[4] = {};

struct syscall_count {
	u64 calls;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SYSCALL_INVALID + 1);
	__type(key, u32);
	__type(value, struct syscall_count);
} counts SEC(".maps");

struct syscall_latency {
	struct hist latency; /* us */
};

/* As many as there are slots: none is ever refused. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SYSCALL_INVALID + 1);
	__type(key, u32);
	__type(value, struct syscall_latency);
} latencies SEC(".maps");

/*
 * Twice as many as are new at once when the exporter starts on a busy machine. Userland makes
 * it one where latencies are not asked for.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key, u32);
	__type(value, struct syscall_latency);
} spilled_latencies SEC(".maps");

struct syscall_error {
	u32 slot;
	u32 error; /* 0: what finds no room */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct syscall_error);
	__type(value, struct syscall_count);
} errors SEC(".maps");

struct syscall_task {
	u32 tid;
	u32 slot;
	u64 entered; /* 0: in no call */
};
TASK_SLOTS(tasks, struct syscall_task);

const struct syscall_latency zero_latency = {};
const struct syscall_count zero_count = {};

static __always_inline u32 slot_of(struct pt_regs *regs, u64 id, bool btf)
{
	if (id >= SYSCALL_SLOTS)
		return SYSCALL_INVALID;
	return is_compat_call(regs, btf) ? SYSCALL_SLOTS + id : id;
}

static __always_inline bool returns(u32 slot)
{
	return slot != syscall_no_return[0] && slot != syscall_no_return[1] &&
	       slot != syscall_no_return[2] && slot != syscall_no_return[3];
}

static __always_inline void remember(u32 slot)
{
	u32 tid = current_tid();
	struct syscall_task *task = task_slot(&tasks, tid);

	if (!task)
		return;
	task->tid = tid;
	task->slot = slot;
	task->entered = returns(slot) ? bpf_ktime_get_ns() : 0;
}

/* Plain adds: no program runs twice at a time on one CPU, and a call's entry is nested in none. */
static __always_inline int on_enter(struct pt_regs *regs, u64 id, bool btf)
{
	u32 slot = slot_of(regs, id, btf);
	struct syscall_count *count = bpf_map_lookup_elem(&counts, &slot);

	if (count)
		count->calls++;
	if (syscall_latency || syscall_errors)
		remember(slot);
	return 0;
}

static __always_inline void count_error(u32 slot, u32 error)
{
	struct syscall_error key = {.slot = slot, .error = error}, other = {.slot = SYSCALL_OTHER};
	struct syscall_count *count = map_lookup_or_fold(&errors, &key, &zero_count, &other);

	if (count)
		count->calls++;
}

/* Also of a child after fork, which has entered nothing. */
static __always_inline int on_exit(s64 result)
{
	u32 tid = current_tid();
	struct syscall_task *task = task_slot(&tasks, tid);
	struct syscall_latency *latency;
	u32 slot;

	if (!task || !task->entered)
		return 0;
	if (task->tid != tid) {
		count_event(EVENT_NO_START);
		return 0;
	}
	slot = task->slot;
	if (syscall_latency) {
		latency = map_lookup_or_spill(&latencies, &spilled_latencies, &slot, &zero_latency);
		if (latency)
			hist_observe_us(&latency->latency,
					elapsed_ns(task->entered, bpf_ktime_get_ns()));
		else
			count_event(EVENT_MAP_FULL);
	}
	task->entered = 0;
	if (syscall_errors && result < 0 && result >= -MAX_ERRNO)
		count_error(slot, -result);
	return 0;
}

SEC("tp_btf/sys_enter")
int enter_btf(u64 *ctx)
{
	return on_enter((struct pt_regs *)ctx[0], ctx[1], true);
}

SEC("raw_tp/sys_enter")
int enter_raw(u64 *ctx)
{
	return on_enter((struct pt_regs *)ctx[0], ctx[1], false);
}

SEC("tp_btf/sys_exit")
int exit_btf(u64 *ctx)
{
	return on_exit(ctx[1]);
}

SEC("raw_tp/sys_exit")
int exit_raw(u64 *ctx)
{
	return on_exit(ctx[1]);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
