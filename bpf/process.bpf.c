// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which programs start and exit, and which use CPU and memory?
 *
 * Hooks: task_newtask, sched_process_exec, _exit and _free as tp_btf or raw_tp; exit of execve and
 * execveat by fexit or kretprobe; an iterator over all tasks at each scrape.
 * Cost: a hash lookup for each exec and five for each thread exit. The iterator takes less than
 * 1 us for each thread, and 30 ns for each CPU on which a process may have counted pages. Nothing
 * runs in between.
 * Not seen: failed execs of 32-bit programs. CPU time used between two scrapes goes to the name
 * and cgroup that the process has at the second scrape, or had when it exited.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "core_fixes.bpf.h"
#include "comm_key.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"

#define TASK_ACCOUNT_VALUES 1 /* nanoseconds of CPU time */
#include "task_accounts.bpf.h"

#define PF_KTHREAD 0x00200000 /* linux/sched.h */

/* Set by userland from flags, and the number of possible CPUs. */
const volatile bool process_cgroup = false;
const volatile u32 process_cpus = 1;

struct process_counts {
	u64 processes;
	u64 threads;
	u64 execs;
	u64 exited;
	u64 killed;
	struct hist lifetime; /* long s */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct process_counts);
} counts SEC(".maps");

struct process_number {
	u64 value;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct comm_key);
	__type(value, struct process_number);
} starts SEC(".maps");

/* CPU time in nanoseconds. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct comm_key);
	__type(value, struct process_number);
} cpu SEC(".maps");

/* By errno; all are below this. 0 is never a failure. */
#define PROCESS_ERRNOS 256

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PROCESS_ERRNOS);
	__type(key, u32);
	__type(value, struct process_number);
} exec_failures SEC(".maps");

struct process_end {
	struct comm_key name;
	u64 ran; /* CPU time when its exit was traced */
};

/*
 * Threads between exit and release, by task_struct. LRU, because some parents never wait.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, struct process_end);
} ends SEC(".maps");

const struct process_number zero_number = {};

/*
 * Processes whose end was counted, by signal_struct: the last threads may all see that none is
 * left. LRU, because this matters only while they exit.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, u64); /* when the process started */
} ended SEC(".maps");

static __always_inline void add_to_name(void *map, const struct comm_key *name, u64 value)
{
	struct comm_key other = {.comm = FOLDED_NAME};
	struct process_number *n = map_lookup_or_fold(map, name, &zero_number, &other);

	if (n)
		__sync_fetch_and_add(&n->value, value);
}

static __always_inline void add_by_name(void *map, struct task_struct *task, u64 value, bool btf)
{
	struct comm_key name = {};

	read_comm_key(&name, task, process_cgroup, btf);
	add_to_name(map, &name, value);
}

/* Add the CPU time of `task` since the last call, given its total `ran`, to its process name. */
static __always_inline void account(struct task_struct *task, u64 ran, bool exits, bool btf)
{
	struct task_account grown = {.values = {ran}};
	bool known = exits ? account_exit(task, &grown, btf) : account_visit(task, &grown);

	if (known && grown.values[0])
		add_by_name(&cpu, task, grown.values[0], btf);
}

static __always_inline struct process_counts *all(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&counts, &zero);
}

static __always_inline int on_fork(struct task_struct *child, bool btf)
{
	struct process_counts *c = all();

	if (!c)
		return 0;
	if (FIELD(btf, child, pid) == FIELD(btf, child, tgid))
		__sync_fetch_and_add(&c->processes, 1);
	else
		__sync_fetch_and_add(&c->threads, 1);
	return 0;
}

static __always_inline int on_exec(struct task_struct *task, bool btf)
{
	struct process_counts *c = all();

	if (c)
		__sync_fetch_and_add(&c->execs, 1);
	add_by_name(&starts, task, 1, btf);
	return 0;
}

/* Whether this thread's exit counts as the end of its process. */
static __always_inline bool ends_process(struct signal_struct *signal, u64 started, bool btf)
{
	u64 key = (u64)signal, *other;

	if (FIELD(btf, signal, live.counter))
		return false;
	if (!bpf_map_update_elem(&ended, &key, &started, BPF_NOEXIST))
		return true;
	other = bpf_map_lookup_elem(&ended, &key);
	if (other && *other == started)
		return false;
	bpf_map_update_elem(&ended, &key, &started, BPF_ANY);
	return true;
}

/*
 * The kernel updates a thread's CPU time when it leaves the CPU and at ticks. For short programs
 * most of it is added after the exit was traced.
 */
static __always_inline void note_end(struct task_struct *task, u64 ran, bool btf)
{
	struct process_end end = {.ran = ran};
	u64 key = (u64)task;

	read_comm_key(&end.name, task, process_cgroup, btf);
	bpf_map_update_elem(&ends, &key, &end, BPF_ANY);
}

static __always_inline int on_free(struct task_struct *task, bool btf)
{
	u64 key = (u64)task, ran = FIELD(btf, task, se.sum_exec_runtime);
	struct process_end *end = bpf_map_lookup_elem(&ends, &key);

	if (!end)
		return 0;
	if (ran > end->ran)
		add_to_name(&cpu, &end->name, ran - end->ran);
	bpf_map_delete_elem(&ends, &key);
	return 0;
}

static __always_inline int on_exit(struct task_struct *task, bool btf)
{
	struct signal_struct *signal = FIELD(btf, task, signal);
	u64 started = FIELD(btf, task, group_leader, start_time);
	u64 ran = FIELD(btf, task, se.sum_exec_runtime);
	struct process_counts *c = all();

	account(task, ran, true, btf);
	note_end(task, ran, btf);
	if (!c || !signal || !ends_process(signal, started, btf))
		return 0;
	/* The number of the signal is in the lowest seven bits: see wait(2). */
	if (FIELD(btf, task, exit_code) & 0x7f)
		__sync_fetch_and_add(&c->killed, 1);
	else
		__sync_fetch_and_add(&c->exited, 1);
	hist_observe_long_s(&c->lifetime, elapsed_ns(started, bpf_ktime_get_ns()));
	return 0;
}

static __always_inline int on_exec_result(s64 result)
{
	u32 error = -result;
	struct process_number *n;

	if (result >= 0)
		return 0;
	n = bpf_map_lookup_elem(&exec_failures, &error);
	if (n)
		__sync_fetch_and_add(&n->value, 1);
	return 0;
}

/*
 * (child, flags) in every kernel. sched_process_fork is not passed by threads that the kernel makes
 * for a process: those of io_uring (create_io_thread) and vhost.
 */
SEC("tp_btf/task_newtask")
int fork_btf(u64 *ctx)
{
	return on_fork((struct task_struct *)ctx[0], true);
}

SEC("raw_tp/task_newtask")
int fork_raw(u64 *ctx)
{
	return on_fork((struct task_struct *)ctx[0], false);
}

/* (task, old pid, bprm): after success. */
SEC("tp_btf/sched_process_exec")
int exec_btf(u64 *ctx)
{
	return on_exec((struct task_struct *)ctx[0], true);
}

SEC("raw_tp/sched_process_exec")
int exec_raw(u64 *ctx)
{
	return on_exec((struct task_struct *)ctx[0], false);
}

SEC("tp_btf/sched_process_exit")
int exit_btf(u64 *ctx)
{
	return on_exit((struct task_struct *)ctx[0], true);
}

SEC("raw_tp/sched_process_exit")
int exit_raw(u64 *ctx)
{
	return on_exit((struct task_struct *)ctx[0], false);
}

/* The task is released, for instance because its parent has waited for it. */
SEC("tp_btf/sched_process_free")
int free_btf(u64 *ctx)
{
	return on_free((struct task_struct *)ctx[0], true);
}

SEC("raw_tp/sched_process_free")
int free_raw(u64 *ctx)
{
	return on_free((struct task_struct *)ctx[0], false);
}

/* Syscalls have one argument, their registers (fa697140f9a2, 4.17). */
SEC("fexit/__x64_sys_execve")
int execve_fexit(u64 *ctx)
{
	return on_exec_result((s64)ctx[1]);
}

SEC("fexit/__x64_sys_execveat")
int execveat_fexit(u64 *ctx)
{
	return on_exec_result((s64)ctx[1]);
}

SEC("kretprobe/__x64_sys_execve")
int BPF_KRETPROBE(execve_kretprobe, s64 result)
{
	return on_exec_result(result);
}

SEC("kretprobe/__x64_sys_execveat")
int BPF_KRETPROBE(execveat_kretprobe, s64 result)
{
	return on_exec_result(result);
}

/*
 * The record that the iterator writes for each process, or for each thread of one whose first
 * thread has exited: userland takes one of them.
 */
struct process_memory {
	struct comm_key name;
	u64 id; /* of the process */
	u64 pages;
};

/*
 * Whether the memory of a process is seen at this thread. The first thread may exit before others
 * (pthread_exit), and has no memory from then on. A thread of the kernel may borrow a process's.
 */
static __always_inline bool shows_memory(struct task_struct *task)
{
	if (!task->mm || task->flags & (PF_EXITING | PF_KTHREAD))
		return false;
	return task->pid == task->tgid || task->group_leader->flags & PF_EXITING;
}

SEC("iter/task")
int tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct process_memory memory = {};
	struct mm_struct *mm;

	if (!task)
		return 0;
	account(task, task->se.sum_exec_runtime, false, true);
	mm = task->mm;
	if (!mm || !shows_memory(task))
		return 0;
	read_comm_key(&memory.name, task, process_cgroup, true);
	memory.id = task->tgid;
	memory.pages = resident_pages(task, mm, &counts, process_cpus);
	bpf_seq_write(ctx->meta->seq, &memory, sizeof(memory));
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
