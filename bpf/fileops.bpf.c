// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Which processes read and write files, and how slow is it?
 *
 * Hooks: reads, writes and bytes are the kernel's own per-task counters (those of /proc/PID/io),
 * read by an iterator over all tasks at each scrape and at sched_process_exit. What these leave out
 * is counted at the exit of aio_read, aio_write, __io_read or io_read, io_write (io_uring) and
 * do_splice. Opens: exit of do_sys_openat2. Latency: entry and exit of vfs_read, vfs_write,
 * vfs_readv and vfs_writev. Functions by fentry and fexit, or by kprobe and kretprobe; opens by
 * sys_exit as a last resort. Cost: nothing for a read or write without latency, two clock reads
 * with it; a hash lookup for each open and each aio or io_uring operation. Not seen: bytes of aio
 * and io_uring; opens by io_uring and by the kernel itself. Reads and writes are those of any
 * descriptor (pipes and sockets too, but not recv and send), as the kernel counts them. Latency and
 * errors are those of files only.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "core_fixes.bpf.h"
#include "comm_key.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "task_slots.bpf.h"

#define TASK_ACCOUNT_VALUES 4
#include "task_accounts.bpf.h"

#define EAGAIN 11
#define S_IFMT 00170000
#define S_IFDIR 0040000
#define S_IFREG 0100000

/* Set by userland from flags and the architecture's table. */
const volatile bool fileops_cgroup = false;
const volatile u32 fileops_opens[4] = {};

struct fileops_usage {
	u64 reads;
	u64 writes;
	u64 read_bytes;
	u64 write_bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct comm_key);
	__type(value, struct fileops_usage);
} usage SEC(".maps");

struct fileops_number {
	u64 value;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct comm_key);
	__type(value, struct fileops_number);
} opens SEC(".maps");

const struct fileops_usage zero_usage = {};
const struct fileops_number zero_number = {};

/* Errors by number; all are below this. */
#define FILEOPS_ERRNOS 256

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FILEOPS_ERRNOS);
	__type(key, u32);
	__type(value, struct fileops_number);
} open_errors SEC(".maps"), read_errors SEC(".maps"), write_errors SEC(".maps");

struct fileops_latency {
	struct hist latency; /* us */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct fileops_latency);
} read_latency SEC(".maps"), write_latency SEC(".maps");

/* Busy: in a read or write of a regular file or directory. */
struct fileops_task {
	struct task_slot slot;
	u64 is_regular;
};
TASK_SLOTS(tasks, struct fileops_task);

static __always_inline void *entry_of(void *map, struct task_struct *task, const void *zero,
				      bool btf)
{
	struct comm_key key = {}, other = {.comm = FOLDED_NAME};

	read_comm_key(&key, task, fileops_cgroup, btf);
	return map_lookup_or_fold(map, &key, zero, &other);
}

static __always_inline void account(struct task_struct *task, bool exits, bool btf)
{
	struct task_account grown = {
		.values =
			{
				FIELD(btf, task, ioac.syscr),
				FIELD(btf, task, ioac.syscw),
				FIELD(btf, task, ioac.rchar),
				FIELD(btf, task, ioac.wchar),
			},
	};
	struct fileops_usage *u;

	if (!(exits ? account_exit(task, &grown, btf) : account_visit(task, &grown)))
		return;
	if (!grown.values[0] && !grown.values[1])
		return; /* it read and wrote nothing */
	u = entry_of(&usage, task, &zero_usage, btf);
	if (!u)
		return;
	__sync_fetch_and_add(&u->reads, grown.values[0]);
	__sync_fetch_and_add(&u->writes, grown.values[1]);
	__sync_fetch_and_add(&u->read_bytes, grown.values[2]);
	__sync_fetch_and_add(&u->write_bytes, grown.values[3]);
}

/* An operation of the current task that the kernel's counters leave out. */
static __always_inline void count_here(bool reads, bool writes, u64 bytes)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fileops_usage *u = entry_of(&usage, task, &zero_usage, false);

	if (!u)
		return;
	if (reads) {
		__sync_fetch_and_add(&u->reads, 1);
		if (bytes)
			__sync_fetch_and_add(&u->read_bytes, bytes);
	}
	if (writes) {
		__sync_fetch_and_add(&u->writes, 1);
		if (bytes)
			__sync_fetch_and_add(&u->write_bytes, bytes);
	}
}

static __always_inline void count_error(void *map, s64 result)
{
	u32 error = -result;
	struct fileops_number *n;

	if (result >= 0)
		return;
	n = bpf_map_lookup_elem(map, &error);
	if (n)
		__sync_fetch_and_add(&n->value, 1);
}

static __always_inline int on_open(s64 result)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fileops_number *n = entry_of(&opens, task, &zero_number, false);

	if (n)
		__sync_fetch_and_add(&n->value, 1);
	count_error(&open_errors, result);
	return 0;
}

static __always_inline int on_begin(const struct file *file)
{
	u32 tid = current_tid(), type;
	struct fileops_task *task;

	type = BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT;
	if (type != S_IFREG && type != S_IFDIR) {
		/* The end of this call is not that of an earlier one whose own end is lost. */
		task = tasks_find(tid, tid);
		if (task)
			task_slot_lose(&task->slot);
		return 0;
	}
	task = tasks_take(tid, tid);
	if (!task)
		return 0;
	task_slot_begin(&task->slot, bpf_ktime_get_ns());
	task->is_regular = type == S_IFREG;
	return 0;
}

static __always_inline int on_end(void *latencies, void *errors, s64 result)
{
	u32 tid = current_tid(), zero = 0;
	struct fileops_task *task = tasks_find(tid, tid);
	struct fileops_latency *l;
	u64 began = task ? task_slot_end(&task->slot) : 0;

	if (!began)
		return 0;
	count_error(errors, result);
	l = bpf_map_lookup_elem(latencies, &zero);
	if (l && task->is_regular)
		hist_observe_us(&l->latency, elapsed_ns(began, bpf_ktime_get_ns()));
	return 0;
}

SEC("iter/task")
int tasks_iter(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task)
		account(task, false, true);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int exit_btf(u64 *ctx)
{
	account((struct task_struct *)ctx[0], true, true);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int exit_raw(u64 *ctx)
{
	account((struct task_struct *)ctx[0], true, false);
	return 0;
}

/* (dfd, name, how); from 6.18 on it returns an int, whose upper half is undefined. */
SEC("fexit/do_sys_openat2")
int open_fexit(u64 *ctx)
{
	return on_open((s32)ctx[3]);
}

SEC("kretprobe/do_sys_openat2")
int BPF_KRETPROBE(open_kretprobe, s32 result)
{
	return on_open(result);
}

/* (regs, result): every syscall of the machine passes here. */
SEC("tp_btf/sys_exit")
int open_exit_btf(u64 *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx[0];
	u64 id = regs->orig_ax;

	if (id != fileops_opens[0] && id != fileops_opens[1] && id != fileops_opens[2] &&
	    id != fileops_opens[3])
		return 0;
	return is_compat_call(regs, true) ? 0 : on_open((s64)ctx[1]);
}

/* (req, iocb, vectored, compat): 0 if submitted. */
SEC("fexit/aio_read")
int aio_read_fexit(u64 *ctx)
{
	if (!(int)ctx[4])
		count_here(true, false, 0);
	return 0;
}

SEC("fexit/aio_write")
int aio_write_fexit(u64 *ctx)
{
	if (!(int)ctx[4])
		count_here(false, true, 0);
	return 0;
}

SEC("kretprobe/aio_read")
int BPF_KRETPROBE(aio_read_kretprobe, int result)
{
	if (!result)
		count_here(true, false, 0);
	return 0;
}

SEC("kretprobe/aio_write")
int BPF_KRETPROBE(aio_write_kretprobe, int result)
{
	if (!result)
		count_here(false, true, 0);
	return 0;
}

/* -EAGAIN: not done; a worker calls it again. */
static __always_inline int on_uring(bool reads, int result)
{
	if (result != -EAGAIN)
		count_here(reads, !reads, 0);
	return 0;
}

/*
 * What io_read calls, and io_read_mshot, which may return -EAGAIN after a read and reads again when
 * there is more. Older kernels have io_read alone. (req, flags), and from 6.18 on a third argument.
 */
SEC("fexit/__io_read")
int io_read_each_fexit(u64 *ctx)
{
	u64 result = 0;

	return bpf_get_func_ret(ctx, &result) ? 0 : on_uring(true, result);
}

/* (req, flags), and before 5.12 or so (req, force_nonblock, state). */
SEC("fexit/io_read")
int io_read_fexit(u64 *ctx)
{
	return on_uring(true, ctx[2]);
}

SEC("fexit/io_write")
int io_write_fexit(u64 *ctx)
{
	return on_uring(false, ctx[2]);
}

SEC("fexit/io_read")
int io_read_three_fexit(u64 *ctx)
{
	return on_uring(true, ctx[3]);
}

SEC("fexit/io_write")
int io_write_three_fexit(u64 *ctx)
{
	return on_uring(false, ctx[3]);
}

SEC("kretprobe/__io_read")
int BPF_KRETPROBE(io_read_each_kretprobe, int result)
{
	return on_uring(true, result);
}

SEC("kretprobe/io_read")
int BPF_KRETPROBE(io_read_kretprobe, int result)
{
	return on_uring(true, result);
}

SEC("kretprobe/io_write")
int BPF_KRETPROBE(io_write_kretprobe, int result)
{
	return on_uring(false, result);
}

/* (in, offset, out, offset, length, flags): returns the bytes moved. */
SEC("fexit/do_splice")
int splice_fexit(u64 *ctx)
{
	s64 bytes = ctx[6];

	count_here(true, true, bytes > 0 ? bytes : 0);
	return 0;
}

SEC("kretprobe/do_splice")
int BPF_KRETPROBE(splice_kretprobe, s64 bytes)
{
	count_here(true, true, bytes > 0 ? bytes : 0);
	return 0;
}

/* (file, buffer, count, position) */
SEC("fentry/vfs_read")
int read_fentry(u64 *ctx)
{
	return on_begin((const struct file *)ctx[0]);
}

SEC("fexit/vfs_read")
int read_fexit(u64 *ctx)
{
	return on_end(&read_latency, &read_errors, (s64)ctx[4]);
}

SEC("fentry/vfs_write")
int write_fentry(u64 *ctx)
{
	return on_begin((const struct file *)ctx[0]);
}

SEC("fexit/vfs_write")
int write_fexit(u64 *ctx)
{
	return on_end(&write_latency, &write_errors, (s64)ctx[4]);
}

/* (file, vector, length, position, flags) */
SEC("fentry/vfs_readv")
int readv_fentry(u64 *ctx)
{
	return on_begin((const struct file *)ctx[0]);
}

SEC("fexit/vfs_readv")
int readv_fexit(u64 *ctx)
{
	return on_end(&read_latency, &read_errors, (s64)ctx[5]);
}

SEC("fentry/vfs_writev")
int writev_fentry(u64 *ctx)
{
	return on_begin((const struct file *)ctx[0]);
}

SEC("fexit/vfs_writev")
int writev_fexit(u64 *ctx)
{
	return on_end(&write_latency, &write_errors, (s64)ctx[5]);
}

SEC("kprobe/vfs_read")
int BPF_KPROBE(read_kprobe, const struct file *file)
{
	return on_begin(file);
}

SEC("kretprobe/vfs_read")
int BPF_KRETPROBE(read_kretprobe, s64 result)
{
	return on_end(&read_latency, &read_errors, result);
}

SEC("kprobe/vfs_write")
int BPF_KPROBE(write_kprobe, const struct file *file)
{
	return on_begin(file);
}

SEC("kretprobe/vfs_write")
int BPF_KRETPROBE(write_kretprobe, s64 result)
{
	return on_end(&write_latency, &write_errors, result);
}

SEC("kprobe/vfs_readv")
int BPF_KPROBE(readv_kprobe, const struct file *file)
{
	return on_begin(file);
}

SEC("kretprobe/vfs_readv")
int BPF_KRETPROBE(readv_kretprobe, s64 result)
{
	return on_end(&read_latency, &read_errors, result);
}

SEC("kprobe/vfs_writev")
int BPF_KPROBE(writev_kprobe, const struct file *file)
{
	return on_begin(file);
}

SEC("kretprobe/vfs_writev")
int BPF_KRETPROBE(writev_kretprobe, s64 result)
{
	return on_end(&write_latency, &write_errors, result);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
