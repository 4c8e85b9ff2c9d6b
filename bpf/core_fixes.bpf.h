/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __CORE_FIXES_BPF_H
#define __CORE_FIXES_BPF_H

#include "percpu.bpf.h"

/*
 * The only place that knows differences between kernels. Each entry names the kernel change and the
 * accessor that hides it, and says when the old shape can be dropped.
 *
 * Accessors take `btf`: true if the verifier knows the pointer's type (tp_btf, fentry) and a plain
 * load will do; false in a raw_tp twin, which reads memory with a helper. It is a constant at every
 * call and costs nothing.
 *
 * FIELD(btf, task, cgroups, dfl_cgrp) is task->cgroups->dfl_cgrp: pass each pointer on the way as
 * an argument of its own. Given `cgroups->dfl_cgrp`, the helper would read only the last step, and
 * the first would be a plain load, which the verifier rejects in a twin.
 */
#define FIELD(btf, ptr, ...) ((btf) ? ___arrow(ptr, __VA_ARGS__) : BPF_CORE_READ(ptr, __VA_ARGS__))

/*
 * a54895fa057c ("block: remove the request_queue to argument request based
 * tracepoints"), 5.11, and back-ported to 5.10.137: the request was the second
 * argument and became the first. Likewise e8a676d61c07 ("block: simplify and
 * extend the block_bio_merge tracepoint class") for block_bio_queue, 5.11, not
 * back-ported. Userland counts the arguments in BTF. May go with 5.10.
 *
 * Written as assembly because clang merges two loads from the context into one
 * at a computed offset, which the verifier refuses.
 */
static __always_inline void *arg_first_or_second(void *ctx, bool second)
{
	void *arg;

	if (second)
		asm volatile("%0 = *(u64 *)(%1 + 8)" : "=r"(arg) : "r"(ctx));
	else
		asm volatile("%0 = *(u64 *)(%1 + 0)" : "=r"(arg) : "r"(ctx));
	return arg;
}

/*
 * f3fa33acca9f ("block: remove the ->rq_disk field in struct request"), 5.17:
 * the disk moved to the queue. May go with 5.15.
 */
struct request___pre_5_17 {
	struct gendisk *rq_disk;
} __attribute__((preserve_access_index));

static __always_inline struct gendisk *request_disk(struct request *rq, bool btf)
{
	struct request___pre_5_17 *old = (void *)rq;
	struct request_queue *q;

	if (bpf_core_field_exists(old->rq_disk))
		return FIELD(btf, old, rq_disk);
	q = FIELD(btf, rq, q);
	return q ? FIELD(btf, q, disk) : NULL;
}

/*
 * 309dca309fc3 ("block: store a block_device pointer in struct bio"), 5.12: a bio
 * used to point at its disk. May go with 5.10.
 */
struct bio___pre_5_12 {
	struct gendisk *bi_disk;
} __attribute__((preserve_access_index));

static __always_inline struct gendisk *bio_disk(struct bio *bio, bool btf)
{
	struct bio___pre_5_12 *old = (void *)bio;
	struct block_device *bdev;

	if (bpf_core_field_exists(old->bi_disk))
		return FIELD(btf, old, bi_disk);
	bdev = FIELD(btf, bio, bi_bdev);
	return bdev ? FIELD(btf, bdev, bd_disk) : NULL;
}

/*
 * 3222d8c2a7f8 ("block: remove ->rw_page"), 6.3: a driver could take pages without a bio. Whether
 * that of this disk does. May go with 6.1.
 */
struct block_device_operations___pre_6_3 {
	void *rw_page;
} __attribute__((preserve_access_index));

struct gendisk___pre_6_3 {
	struct block_device_operations___pre_6_3 *fops;
} __attribute__((preserve_access_index));

static __always_inline bool takes_pages(struct gendisk *disk, bool btf)
{
	struct gendisk___pre_6_3 *old = (void *)disk;
	struct block_device_operations___pre_6_3 *operations = FIELD(btf, old, fops);

	return bpf_core_field_exists(operations->rw_page) && FIELD(btf, operations, rw_page);
}

/*
 * Whether a syscall came in through the 32-bit ABI, which has its own syscall numbers. The kernel
 * notes this in the task (TS_COMPAT of thread_info.status, since 4.x). Reading that takes 20 ns, so
 * check for the traces of the 64-bit instruction first: it leaves the return address in cx and the
 * flags in r11. If they are absent (a tracer changed registers; FRED leaves cx alone), read the
 * task. A program that uses `int 0x80` with its own next address in cx is taken for 64-bit.
 */
#define USER_CS_64 0x33
#define TS_COMPAT 0x0002

static __always_inline bool is_compat_call(struct pt_regs *regs, bool btf)
{
	struct task_struct *task;

	if (FIELD(btf, regs, cs) == USER_CS_64 && FIELD(btf, regs, cx) == FIELD(btf, regs, ip) &&
	    FIELD(btf, regs, r11) == FIELD(btf, regs, flags))
		return false;
	task = (struct task_struct *)bpf_get_current_task();
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
}

/*
 * f1a7941243c1 ("mm: convert mm's rss stats into percpu_counter"), 6.2: an array in a struct became
 * an array of per-CPU counters: a shared part, and the part of each CPU that is not yet added to
 * it. May go with 6.1. Counts file pages, anonymous pages and shared memory; swapped pages are
 * between them in the array.
 */
struct mm_struct___pre_6_2 {
	struct {
		struct {
			s64 counter;
		} count[4];
	} rss_stat;
} __attribute__((preserve_access_index));

/* Changes of a thread that are not yet added to the shared part: up to 64. */
struct task_struct___pre_6_2 {
	struct {
		s32 count[4];
	} rss_stat;
} __attribute__((preserve_access_index));

struct percpu_counter {
	s64 count;
	s32 *counters; /* absent in kernels for one CPU */
} __attribute__((preserve_access_index));

struct mm_struct___6_2 {
	struct percpu_counter rss_stat[4];
} __attribute__((preserve_access_index));

/* The per-CPU parts of a process's counters; `array` is as in per_cpu_distance(). */
static __always_inline s64 unshared_pages(struct mm_struct___6_2 *mm, void *array, u32 cpus)
{
	u32 zero = 0, cpu;
	void *first = bpf_map_lookup_percpu_elem(array, &zero, 0), *here;
	u64 first_distance = per_cpu_distance(array, first), distance, parts[3];
	s64 pages = 0;

	if (!first)
		return 0;
	parts[0] = (u64)BPF_CORE_READ(mm, rss_stat[0].counters);
	parts[1] = (u64)BPF_CORE_READ(mm, rss_stat[1].counters);
	parts[2] = (u64)BPF_CORE_READ(mm, rss_stat[3].counters);
	for (cpu = 0; cpu < cpus; cpu++) {
		s32 part[3] = {};

		here = bpf_map_lookup_percpu_elem(array, &zero, cpu);
		if (!here)
			break;
		distance = (u64)here;
		/* In assembly: the verifier permits no other way to subtract two pointers. */
		asm volatile("%0 -= %1" : "+r"(distance) : "r"(first));
		distance += first_distance;
		bpf_probe_read_kernel(&part[0], sizeof(s32), (const void *)(parts[0] + distance));
		bpf_probe_read_kernel(&part[1], sizeof(s32), (const void *)(parts[1] + distance));
		bpf_probe_read_kernel(&part[2], sizeof(s32), (const void *)(parts[2] + distance));
		pages += (s64)part[0] + part[1] + part[2];
	}
	return pages;
}

/*
 * `array` is a per-CPU array; `cpus` is the number of possible CPUs, as a constant for the
 * verifier. Read by helper: the verifier of 6.1 does not walk into an array of typedefs. Before
 * 6.2, changes that other threads of the process have not yet added are left out.
 */
static __always_inline u64 resident_pages(struct task_struct *task, struct mm_struct *mm,
					  void *array, u32 cpus)
{
	struct task_struct___pre_6_2 *thread = (void *)task;
	struct mm_struct___pre_6_2 *old = (void *)mm;
	struct mm_struct___6_2 *new = (void *)mm;
	s64 pages;

	if (bpf_core_field_exists(old->rss_stat.count))
		pages = BPF_CORE_READ(old, rss_stat.count[0].counter) +
			BPF_CORE_READ(old, rss_stat.count[1].counter) +
			BPF_CORE_READ(old, rss_stat.count[3].counter);
	else
		pages = BPF_CORE_READ(new, rss_stat[0].count) +
			BPF_CORE_READ(new, rss_stat[1].count) +
			BPF_CORE_READ(new, rss_stat[3].count);
	if (bpf_core_field_exists(thread->rss_stat.count))
		pages += (s64)BPF_CORE_READ(thread, rss_stat.count[0]) +
			 BPF_CORE_READ(thread, rss_stat.count[1]) +
			 BPF_CORE_READ(thread, rss_stat.count[3]);
	if (!bpf_core_field_exists(old->rss_stat.count) &&
	    bpf_core_field_exists(struct percpu_counter, counters))
		pages += unshared_pages(new, array, cpus);
	return pages > 0 ? pages : 0;
}

/*
 * Pages of a folio: one, unless the folio is large. That is a flag whose bit userland finds
 * (enumerator PG_head). The count was renamed in 379708ffde1b ("mm: add the first tail page to
 * struct folio", 6.1: _folio_nr_pages) and 4eeec8c89a0c ("mm: move hugetlb specific things in folio
 * to page[3]", 6.15 or so: _nr_pages); the flags became a struct in 53fbef56e07d ("mm: introduce
 * memdesc_flags_t", 6.18).
 */
struct folio___pre_6_18 {
	u64 flags;
} __attribute__((preserve_access_index));

struct folio___6_18 {
	struct {
		u64 f;
	} flags;
} __attribute__((preserve_access_index));

struct folio___folio_nr_pages {
	u32 _folio_nr_pages;
} __attribute__((preserve_access_index));

struct folio___nr_pages {
	u32 _nr_pages;
} __attribute__((preserve_access_index));

static __always_inline u64 folio_pages(struct folio *folio, u32 head_bit)
{
	struct folio___pre_6_18 *plain = (void *)folio;
	struct folio___6_18 *wrapped = (void *)folio;
	struct folio___folio_nr_pages *before = (void *)folio;
	struct folio___nr_pages *after = (void *)folio;
	u64 flags;

	if (bpf_core_field_exists(wrapped->flags.f))
		flags = BPF_CORE_READ(wrapped, flags.f);
	else
		flags = BPF_CORE_READ(plain, flags);
	if (!(flags >> (head_bit & 63) & 1))
		return 1;
	if (bpf_core_field_exists(before->_folio_nr_pages))
		return BPF_CORE_READ(before, _folio_nr_pages);
	if (bpf_core_field_exists(after->_nr_pages))
		return BPF_CORE_READ(after, _nr_pages);
	return 1;
}

/*
 * Whether filemap_map_pages() mapped the faulting page, on kernels where it returns void (before
 * f9ce0be71d1f, "mm: Cleanup faultaround and finish_fault() codepaths", 5.12): then its page table
 * entry is not empty. The function leaves `address` and `pte` at the last page that it looked at.
 * May go with 5.10.
 */
static __always_inline bool fault_is_solved(struct vm_fault *vmf)
{
	u64 fault = vmf->vma->vm_start + ((vmf->pgoff - vmf->vma->vm_pgoff) << 12);
	u64 at = (u64)BPF_CORE_READ(vmf, pte), entry = 0;

	if (!at)
		return false;
	at += ((s64)(fault >> 12) - (s64)(vmf->address >> 12)) * (s64)sizeof(entry);
	bpf_probe_read_kernel(&entry, sizeof(entry), (void *)at);
	return entry != 0;
}

/* enum tcp_ca_state of a TCP socket: a bit field, which the generated header leaves out. */
struct inet_connection_sock___bits {
	u8 icsk_ca_state : 5;
} __attribute__((preserve_access_index));

static __always_inline u32 congestion_state(const struct sock *sk)
{
	const struct inet_connection_sock___bits *icsk = (const void *)sk;

	return BPF_CORE_READ_BITFIELD_PROBED(icsk, icsk_ca_state);
}

/* Whether connect() may leave the SYN to the first write (TCP_FASTOPEN_CONNECT): likewise. */
struct tcp_sock___bits {
	u8 fastopen_connect : 1;
} __attribute__((preserve_access_index));

static __always_inline bool may_defer_syn(const struct sock *sk)
{
	const struct tcp_sock___bits *tp = (const void *)sk;

	return BPF_CORE_READ_BITFIELD_PROBED(tp, fastopen_connect);
}

/*
 * User buffer number `at` (0 or 1) of a message, and its length; NULL if there is none.
 * 8cd54c1c8480 ("iov_iter: separate direction from flavour", 5.14): the type lost its lowest bit
 * and was renamed; fcb14cb1bdac ("new iov_iter flavour - ITER_UBUF", 6.0): a single buffer is not a
 * vector; de4f5fed3f23 ("iov_iter: add iter_iovec() helper", 6.4): the vector became __iov.
 */
struct iov_iter___pre_5_14 {
	u32 type;
} __attribute__((preserve_access_index));

struct iov_iter___5_14 {
	u8 iter_type;
} __attribute__((preserve_access_index));

struct iov_iter___pre_6_4 {
	const struct iovec *iov;
} __attribute__((preserve_access_index));

struct iov_iter___6_4 {
	const struct iovec *__iov;
} __attribute__((preserve_access_index));

struct iov_iter___6_0 {
	void *ubuf;
} __attribute__((preserve_access_index));

static __always_inline const void *message_buffer(const struct msghdr *msg, u32 at, u64 *length)
{
	const void *iter = (const void *)msg + bpf_core_field_offset(struct msghdr, msg_iter);
	const struct iov_iter___pre_5_14 *with_type = iter;
	const struct iov_iter___5_14 *with_iter_type = iter;
	const struct iov_iter___pre_6_4 *with_iov = iter;
	const struct iov_iter___6_4 *with_new_iov = iter;
	const struct iov_iter___6_0 *with_ubuf = iter;
	const struct iov_iter *any = iter;
	const struct iovec *iov = NULL;
	u32 type;

	if (bpf_core_field_exists(with_iter_type->iter_type))
		type = BPF_CORE_READ(with_iter_type, iter_type);
	else
		type = BPF_CORE_READ(with_type, type) & ~1U;
	if (bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) &&
	    type == bpf_core_enum_value(enum iter_type, ITER_UBUF)) {
		*length = BPF_CORE_READ(any, count);
		return at ? NULL : BPF_CORE_READ(with_ubuf, ubuf);
	}
	if (type != bpf_core_enum_value(enum iter_type, ITER_IOVEC) ||
	    BPF_CORE_READ(any, nr_segs) <= at)
		return NULL;
	if (bpf_core_field_exists(with_iov->iov))
		iov = BPF_CORE_READ(with_iov, iov);
	else
		iov = BPF_CORE_READ(with_new_iov, __iov);
	*length = BPF_CORE_READ(&iov[at], iov_len);
	return BPF_CORE_READ(&iov[at], iov_base);
}

#endif /* __CORE_FIXES_BPF_H */
