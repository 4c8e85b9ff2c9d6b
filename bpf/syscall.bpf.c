// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which system calls are made, how long do they take, which fail?
 *
 * Hooks: sys_enter; for latency and errors also sys_exit and sched_process_exec. Each as tp_btf,
 * or as raw_tp on kernels without their own BTF.
 * Cost: an increment in a per-CPU array for each syscall; with latency or errors also a clock read
 * and a per-task record at both ends. Using the tracepoint at all sends every syscall of the
 * machine through the kernel's slow path (70 ns).
 * Not seen: latency of syscalls that began before attaching; latency and errors of exit and
 * exit_group, which never return. x32 syscalls count as "invalid".
 * A syscall that a seccomp filter answers has no sys_enter. It is recognised by its sys_exit, so it
 * is counted only when sys_exit is hooked.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "core_fixes.bpf.h"
#include "events.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "task_slots.bpf.h"

/* Slots of native syscalls, then of compat ones, then one for invalid numbers. */
#define SYSCALL_SLOTS 512
#define SYSCALL_INVALID (2 * SYSCALL_SLOTS)
/* A key of `errors` only: for errors that found no room. */
#define SYSCALL_OTHER (SYSCALL_INVALID + 1)

/* An error is returned as its negative number, none greater than this (linux/err.h). */
#define MAX_ERRNO 4095

#define SECCOMP_MODE_FILTER 2 /* linux/seccomp.h */

/* Set by userland from flags, from the kernel's properties and from the architecture's table. */
const volatile bool syscall_latency = false;
const volatile bool syscall_errors = false;
const volatile bool syscall_preempted = false;
/* Slots of the syscalls that never return: two native, then the compat ones. */
const volatile u32 syscall_no_return[4] = {};
/* Slots of the syscalls whose result is a register of the code that a signal interrupted. */
const volatile u32 syscall_no_result[4] = {};
/* Slots of the syscalls that also return in a new task, which did not enter them. */
const volatile u32 syscall_forks[8] = {};
/* CLOCK_MONOTONIC at load: an older task may be in a syscall whose entry was not seen. */
const volatile u64 syscall_loaded_ns = 0;

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

/* As many as there are slots, so it is never full. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SYSCALL_INVALID + 1);
	__type(key, u32);
	__type(value, struct syscall_latency);
} latencies SEC(".maps");

/*
 * Twice the number of syscalls that are new at once when the exporter starts on a busy machine.
 * Userland sets it to one if latency is off.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key, u32);
	__type(value, struct syscall_latency);
} spilled_latencies SEC(".maps");

struct syscall_error {
	u32 slot;
	u32 error; /* 0: found no room */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct syscall_error);
	__type(value, struct syscall_count);
} errors SEC(".maps");

/* Busy: in a syscall. */
struct syscall_task {
	struct task_slot slot;
	u64 call; /* its slot in `counts` */
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

static __always_inline bool has_result(u32 slot)
{
	return slot != syscall_no_result[0] && slot != syscall_no_result[1] &&
	       slot != syscall_no_result[2] && slot != syscall_no_result[3];
}

static __always_inline void remember(u32 slot)
{
	u32 tid = current_tid();
	struct syscall_task *task = tasks_take(tid, tid);

	if (!task)
		return;
	task->call = slot;
	if (returns(slot))
		task_slot_begin(&task->slot, bpf_ktime_get_ns());
	else
		task_slot_end(&task->slot);
}

/*
 * Plain adds if the kernel does not preempt programs: then no program runs twice at once on a CPU,
 * and a syscall entry does not nest.
 */
static __always_inline void count(struct syscall_count *count)
{
	if (syscall_preempted)
		__sync_fetch_and_add(&count->calls, 1);
	else
		count->calls++;
}

static __always_inline void count_call(u32 slot)
{
	struct syscall_count *calls = bpf_map_lookup_elem(&counts, &slot);

	if (calls)
		count(calls);
}

static __always_inline int on_enter(struct pt_regs *regs, u64 id, bool btf)
{
	u32 slot = slot_of(regs, id, btf);

	count_call(slot);
	if (syscall_latency || syscall_errors)
		remember(slot);
	return 0;
}

static __always_inline void count_error(u32 slot, s64 result)
{
	struct syscall_error key = {.slot = slot, .error = -result},
			     other = {.slot = SYSCALL_OTHER};
	struct syscall_count *calls;

	if (!syscall_errors || result >= 0 || result < -MAX_ERRNO || !has_result(slot))
		return;
	calls = map_lookup_or_fold(&errors, &key, &zero_count, &other);
	if (calls)
		count(calls);
}

/* Whether this is the return in a new task from the syscall that created it. */
static __always_inline bool is_born(u32 slot, s64 result)
{
	return !result &&
	       (slot == syscall_forks[0] || slot == syscall_forks[1] || slot == syscall_forks[2] ||
		slot == syscall_forks[3] || slot == syscall_forks[4] || slot == syscall_forks[5] ||
		slot == syscall_forks[6] || slot == syscall_forks[7]);
}

/*
 * A task with a seccomp filter returns from a syscall that it did not enter: the filter answered.
 * At first this is known only for a task that started after this program was loaded; for others,
 * from their next syscall on.
 */
static __always_inline int on_refused(struct pt_regs *regs, s64 result, bool known, bool btf)
{
	struct task_struct *current = (struct task_struct *)bpf_get_current_task();
	u32 slot = slot_of(regs, FIELD(btf, regs, orig_ax), btf), tid = current_tid();

	if (BPF_CORE_READ(current, seccomp.mode) != SECCOMP_MODE_FILTER || is_born(slot, result))
		return 0;
	if (!known && BPF_CORE_READ(current, start_time) < syscall_loaded_ns) {
		tasks_take(tid, tid);
		return 0;
	}
	count_call(slot);
	count_error(slot, result);
	return 0;
}

/* (regs, result) */
static __always_inline int on_exit(struct pt_regs *regs, s64 result, bool btf)
{
	u32 tid = current_tid(), slot;
	struct syscall_task *task = tasks_find(tid, tid);
	u64 entered = task ? task_slot_end(&task->slot) : 0;
	struct syscall_latency *latency;

	if (!entered)
		return on_refused(regs, result, task, btf);
	slot = task->call;
	if (syscall_latency) {
		latency = map_lookup_or_spill(&latencies, &spilled_latencies, &slot, &zero_latency);
		if (latency)
			hist_observe_us(&latency->latency, elapsed_ns(entered, bpf_ktime_get_ns()));
		else
			count_event(EVENT_MAP_FULL);
	}
	count_error(slot, result);
	return 0;
}

/* A thread that execs takes over the id of the first thread of its process. Move its record. */
static __always_inline int on_exec(u32 before)
{
	u32 tid = current_tid();
	struct syscall_task *from, *to;

	if (before == tid)
		return 0;
	from = tasks_find(before, before);
	to = tasks_take(tid, tid);
	if (!from || !to)
		return 0;
	to->call = from->call;
	to->slot.busy = task_slot_end(&from->slot);
	return 0;
}

/*
 * Programs are attached in this order: a syscall that starts before its exit is hooked would look
 * unfinished until the thread makes its next syscall.
 */
SEC("tp_btf/sys_exit")
int exit_btf(u64 *ctx)
{
	return on_exit((struct pt_regs *)ctx[0], ctx[1], true);
}

SEC("raw_tp/sys_exit")
int exit_raw(u64 *ctx)
{
	return on_exit((struct pt_regs *)ctx[0], ctx[1], false);
}

/* (task, its id before, ...) in every kernel. */
SEC("tp_btf/sched_process_exec")
int exec_btf(u64 *ctx)
{
	return on_exec(ctx[1]);
}

SEC("raw_tp/sched_process_exec")
int exec_raw(u64 *ctx)
{
	return on_exec(ctx[1]);
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

char LICENSE[] SEC("license") = "Dual BSD/GPL";
