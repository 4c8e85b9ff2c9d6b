// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Page faults and their latency, page allocations by order, direct reclaim.
 *
 * Hooks: mm_page_alloc and mm_vmscan_direct_reclaim_{begin,end} as tp_btf or raw_tp;
 * handle_mm_fault by fentry and fexit, or by kprobe and kretprobe. The kernel itself counts minor
 * and major faults (perf events) where it permits that; Debian's kernels require CAP_SYS_ADMIN.
 * Otherwise the number of observed latencies is used.
 * Cost: an increment for each allocation; two clock reads and a per-task record for each fault,
 * unless --memory.fault-latency=false.
 * Not seen: bulk page allocations, for which 6.1 and 6.12 have no event (stacks of new processes,
 * network buffers). They can be a fifth of all under many forks; ebpf_page_allocated_pages_total
 * includes them.
 * Counted once: a fault that the kernel retries (after waiting for I/O or a lock), from its first
 * attempt to its last.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "core_fixes.bpf.h"
#include "hist.bpf.h"
#include "maps.bpf.h"
#include "task_slots.bpf.h"

/* Orders 0 to 10; the last slot is for larger ones, on machines with large pages. */
#define MEMORY_ORDERS 12

/* enum vm_fault_reason, the same in all kernels since 4.17, and flags of enum fault_flag. */
#define VM_FAULT_MAJOR 0x0004
#define VM_FAULT_RETRY 0x0400
/* OOM, SIGBUS, HWPOISON, HWPOISON_LARGE, SIGSEGV, FALLBACK */
#define VM_FAULT_ERROR (0x0001 | 0x0002 | 0x0010 | 0x0020 | 0x0040 | 0x0800)
#define FAULT_FLAG_TRIED 0x20
#define FAULT_FLAG_VMA_LOCK 0x1000 /* from 6.4 on */

enum memory_fault {
	MEMORY_MINOR,
	MEMORY_MAJOR,
	MEMORY_POPULATE,
	MEMORY_FAILED,
	MEMORY_FAULTS,
};

struct memory_allocations {
	u64 orders[MEMORY_ORDERS];
	u64 failures;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct memory_allocations);
} allocations SEC(".maps");

struct memory_faults {
	struct hist latency; /* s */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MEMORY_FAULTS);
	__type(key, u32); /* enum memory_fault */
	__type(value, struct memory_faults);
} faults SEC(".maps");

struct memory_retries {
	u64 retries;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct memory_retries);
} retries SEC(".maps");

struct memory_reclaims {
	struct hist duration; /* s */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct memory_reclaims);
} reclaims SEC(".maps");

struct memory_fault_task {
	struct task_slot slot;
	u64 address;
	u32 flags;     /* enum fault_flag of the current attempt */
	u32 populates; /* requested by the kernel (mmap, get_user_pages), not caused by an access */
	u32 again;     /* the last attempt asked for a retry */
	u32 zero;
};
TASK_SLOTS(fault_tasks, struct memory_fault_task);

struct memory_reclaim_task {
	struct task_slot slot;
};
TASK_SLOTS(reclaim_tasks, struct memory_reclaim_task);

static __always_inline int on_alloc(const void *page, u32 order)
{
	u32 zero = 0;
	struct memory_allocations *a = bpf_map_lookup_elem(&allocations, &zero);

	if (!a)
		return 0;
	if (order >= MEMORY_ORDERS)
		order = MEMORY_ORDERS - 1;
	if (page)
		__sync_fetch_and_add(&a->orders[order], 1);
	else
		__sync_fetch_and_add(&a->failures, 1);
	return 0;
}

/*
 * Whether this is a retry of the same fault. The kernel marks retries (TRIED), except one after an
 * attempt under the VMA lock. A fault may also be given up for a signal; the next one at its
 * address is then a new fault.
 */
static __always_inline bool goes_on(const struct memory_fault_task *t, u64 address, u32 flags)
{
	bool unlocked = t->flags & FAULT_FLAG_VMA_LOCK && !(flags & FAULT_FLAG_VMA_LOCK);

	return t->slot.busy && t->again && t->address == address &&
	       (flags & FAULT_FLAG_TRIED || unlocked);
}

static __always_inline int on_fault(u64 address, u32 flags, const void *regs)
{
	u32 tid = current_tid();
	struct memory_fault_task *t = fault_tasks_take(tid, tid);

	if (!t)
		return 0;
	if (!goes_on(t, address, flags)) {
		if (t->again)
			task_slot_end(&t->slot);
		task_slot_begin(&t->slot, bpf_ktime_get_ns());
	}
	t->flags = flags;
	t->address = address;
	t->populates = !regs;
	t->again = 0;
	return 0;
}

/* As mm_account_fault() decides (bce617edecad "mm: do page fault accounting in
 * handle_mm_fault", 5.9). */
static __always_inline u32 kind_of(const struct memory_fault_task *t, u32 result)
{
	if (t->populates)
		return MEMORY_POPULATE; /* its failure is not a signal: a core dump skips the page
					 */
	if (result & VM_FAULT_ERROR)
		return MEMORY_FAILED;
	return result & VM_FAULT_MAJOR || t->flags & FAULT_FLAG_TRIED ? MEMORY_MAJOR : MEMORY_MINOR;
}

static __always_inline int on_fault_end(u32 result)
{
	u32 tid = current_tid(), kind, zero = 0;
	struct memory_fault_task *t = fault_tasks_find(tid, tid);
	struct memory_retries *r;
	struct memory_faults *f;
	u64 began;

	if (!t || !t->slot.busy) {
		count_event(EVENT_NO_START);
		return 0;
	}
	if (result & VM_FAULT_RETRY) {
		t->again = 1;
		r = bpf_map_lookup_elem(&retries, &zero);
		if (r)
			__sync_fetch_and_add(&r->retries, 1);
		return 0;
	}
	kind = kind_of(t, result);
	began = task_slot_end(&t->slot);
	f = bpf_map_lookup_elem(&faults, &kind);
	if (f)
		hist_observe_s(&f->latency, elapsed_ns(began, bpf_ktime_get_ns()));
	return 0;
}

static __always_inline int on_reclaim(void)
{
	u32 tid = current_tid();
	struct memory_reclaim_task *t = reclaim_tasks_take(tid, tid);

	if (t)
		task_slot_begin(&t->slot, bpf_ktime_get_ns());
	return 0;
}

static __always_inline int on_reclaim_end(void)
{
	u32 tid = current_tid(), zero = 0;
	struct memory_reclaim_task *t = reclaim_tasks_find(tid, tid);
	struct memory_reclaims *r = bpf_map_lookup_elem(&reclaims, &zero);
	u64 began = t ? task_slot_end(&t->slot) : 0;

	if (!began)
		count_event(EVENT_NO_START);
	else if (r)
		hist_observe_s(&r->duration, elapsed_ns(began, bpf_ktime_get_ns()));
	return 0;
}

/* (page, order, gfp, migratetype) in every kernel. */
SEC("tp_btf/mm_page_alloc")
int alloc_btf(u64 *ctx)
{
	return on_alloc((const void *)ctx[0], ctx[1]);
}

SEC("raw_tp/mm_page_alloc")
int alloc_raw(u64 *ctx)
{
	return on_alloc((const void *)ctx[0], ctx[1]);
}

/* (vma, address, flags, regs) in every kernel since 5.9. */
SEC("fentry/handle_mm_fault")
int fault_fentry(u64 *ctx)
{
	return on_fault(ctx[1], ctx[2], (const void *)ctx[3]);
}

SEC("fexit/handle_mm_fault")
int fault_fexit(u64 *ctx)
{
	return on_fault_end(ctx[4]);
}

SEC("kprobe/handle_mm_fault")
int BPF_KPROBE(fault_kprobe, void *vma, u64 address, u32 flags, const void *regs)
{
	return on_fault(address, flags, regs);
}

SEC("kretprobe/handle_mm_fault")
int BPF_KRETPROBE(fault_kretprobe, u32 result)
{
	return on_fault_end(result);
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int reclaim_begin_btf(u64 *ctx)
{
	return on_reclaim();
}

SEC("raw_tp/mm_vmscan_direct_reclaim_begin")
int reclaim_begin_raw(u64 *ctx)
{
	return on_reclaim();
}

SEC("tp_btf/mm_vmscan_direct_reclaim_end")
int reclaim_end_btf(u64 *ctx)
{
	return on_reclaim_end();
}

SEC("raw_tp/mm_vmscan_direct_reclaim_end")
int reclaim_end_raw(u64 *ctx)
{
	return on_reclaim_end();
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
