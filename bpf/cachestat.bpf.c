// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How often is a page found in the page cache?
 *
 * Hooks: exit of filemap_read (5.10: generic_file_buffered_read), filemap_fault, filemap_map_pages
 * and, if it exists, filemap_splice_read; tracepoints for added and dirtied pages. If functions
 * cannot be hooked: tracepoints mm_filemap_{get_pages,fault,map_pages} (6.10) instead, and
 * sched_process_exit for the last lookups of a task.
 * Counted: a lookup is one page of a read(2), or one fault on a mapped file. It is a miss if the
 * page had to be read in, by the lookup or by readahead before it. Each added page is marked
 * (cachestat_marks.bpf.h) until it is looked up, mapped by a fault nearby, or written to. So
 * readahead that nobody uses is not a miss, and neither are pages that a write adds.
 * Cost: a hash lookup for each read(2) and fault, and for each added or dirtied page; large reads
 * take one for each 2 MiB.
 * Not seen: access to mapped pages after their fault; DAX and O_DIRECT, which bypass the page
 * cache. Left out: tmpfs and shared memory. They have functions of their own for reads and for
 * pages that are not there, and share filemap_map_pages only, so no lookup of theirs could be a
 * miss.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "cachestat_marks.bpf.h"
#include "core_fixes.bpf.h"
#include "events.bpf.h"
#include "task_slots.bpf.h"

#define S_IFMT 00170000
#define S_IFBLK 0060000
#define TMPFS_MAGIC 0x01021994
#define HUGETLBFS_MAGIC 0x958458f6
#define VM_FAULT_NOPAGE 0x0100 /* as in memory.bpf.c */
#define VM_FAULT_RETRY 0x0400

/* Set by userland from BTF: see folio_pages(). */
const volatile u32 cachestat_head_bit = 0;

struct cachestat_lookups {
	u64 hits;
	u64 misses;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct cachestat_lookups);
} lookups SEC(".maps");

enum cachestat_content {
	CACHESTAT_FILE,
	CACHESTAT_METADATA,
	CACHESTAT_CONTENTS,
};

struct cachestat_pages {
	u64 pages;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CACHESTAT_CONTENTS);
	__type(key, u32); /* enum cachestat_content */
	__type(value, struct cachestat_pages);
} adds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CACHESTAT_CONTENTS);
	__type(key, u32);
	__type(value, struct cachestat_pages);
} dirties SEC(".maps");

struct cachestat_task {
	/* Tracepoints only: pages that it now looks up. They are hits unless it has to add them. */
	struct task_slot slot;
	u64 address; /* see address_of() */
	u64 tried;   /* file and page of a fault that will be retried */
	u64 index;
	/* Tracepoints only, which fire before pages are added: */
	u64 looks; /* the file in which it looks up pages */
	u64 first; /* and the range of pages */
	u64 last;
	u64 at; /* for a read that fires several: its position, and the number of the read */
	u64 read;
	u64 around; /* the file, if the pending lookup is a fault around which pages were mapped */
};
static __always_inline void count(u64 hits, u64 misses)
{
	u32 zero = 0;
	struct cachestat_lookups *l = bpf_map_lookup_elem(&lookups, &zero);

	if (!l)
		return;
	if (hits)
		__sync_fetch_and_add(&l->hits, hits);
	if (misses)
		__sync_fetch_and_add(&l->misses, misses);
}

/* Pages that were looked up and not added were cached. */
static __always_inline void settle(void *record)
{
	struct cachestat_task *task = record;

	if (task->slot.busy)
		count(task->slot.busy, 0);
	task->slot.busy = 0;
	task->around = 0;
}

TASK_SLOTS_GIVEN_UP(tasks, struct cachestat_task, settle);

static __always_inline struct cachestat_task *this_task(void)
{
	u32 tid = current_tid();

	return tasks_take(tid, tid);
}

/* For cachestat_marks.bpf.h: passing a value through map memory hides it from the verifier. */
static __always_inline u64 address_of(struct cachestat_task *task, const void *pointer)
{
	volatile u64 *address = &task->address;

	*address = (u64)pointer;
	return *address;
}

/*
 * `task` looks up pages [first, last] of a file. Until settle(), pages that it adds itself are
 * misses too.
 */
static __always_inline void begin_look_up(struct cachestat_task *task, u64 mapping, u64 first,
					  u64 last)
{
	u64 missed;

	settle(task);
	missed = use_up_read(mapping, first, last + 1);
	if (missed)
		count(0, missed);
	task->slot.busy = last - first + 1 - missed;
	task->looks = mapping;
	task->first = first;
	task->last = last;
}

static __always_inline u32 content_of(struct address_space *mapping)
{
	struct inode *host = mapping->host;
	u32 mode = host ? host->i_mode : 0;

	return (mode & S_IFMT) == S_IFBLK ? CACHESTAT_METADATA : CACHESTAT_FILE;
}

static __always_inline void count_pages(void *map, struct address_space *mapping, u64 pages)
{
	u32 content = content_of(mapping);
	struct cachestat_pages *p = bpf_map_lookup_elem(map, &content);

	if (p)
		__sync_fetch_and_add(&p->pages, pages);
}

static __always_inline bool is_of(struct address_space *mapping, u64 magic)
{
	struct inode *host = mapping->host;

	return host && host->i_sb->s_magic == magic;
}

/* Huge pages of hugetlbfs are kept in mappings, too. They are no cache. */
static __always_inline int on_add(struct address_space *mapping, u64 first, u64 pages)
{
	struct cachestat_task *task = this_task();
	u64 end = first + pages, key, from, to, missed;

	if (!mapping || !task || is_of(mapping, HUGETLBFS_MAGIC))
		return 0;
	count_pages(&adds, mapping, pages);
	key = address_of(task, mapping);
	if (task->looks == key && first <= task->last && end > task->first) {
		from = first > task->first ? first : task->first;
		to = end <= task->last ? end : task->last + 1;
		missed = task->slot.busy < to - from ? task->slot.busy : to - from;
		task->slot.busy -= missed;
		if (missed)
			count(0, missed);
		mark_pages(key, first, from);
		first = to;
	}
	mark_pages(key, first, end);
	return 0;
}

static __always_inline int on_dirty(struct address_space *mapping, u64 first, u64 pages)
{
	struct cachestat_task *task = this_task();

	if (!mapping || !task)
		return 0;
	count_pages(&dirties, mapping, pages);
	use_up_pages(address_of(task, mapping), first, first + pages);
	return 0;
}

/* Bytes [position - bytes, position) of a file were read through the page cache. */
static __always_inline int on_read(struct address_space *mapping, s64 position, s64 bytes)
{
	struct cachestat_task *task = this_task();
	u64 first, last, missed;

	if (!task || bytes <= 0)
		return 0;
	first = (u64)(position - bytes) >> PAGE_SHIFT;
	last = (u64)(position - 1) >> PAGE_SHIFT;
	missed = use_up_read(address_of(task, mapping), first, last + 1);
	count(last - first + 1 - missed, missed);
	return 0;
}

static __always_inline bool is_another_try(struct cachestat_task *task, u64 mapping, u64 first,
					   u64 last)
{
	bool same = task->tried == mapping && task->index >= first && task->index <= last;

	task->tried = 0;
	return same;
}

static __always_inline u64 mapping_of(struct cachestat_task *task, struct vm_fault *vmf)
{
	return address_of(task, vmf->vma->vm_file->f_mapping);
}

SEC("tp_btf/mm_filemap_add_to_page_cache")
int add_folio(u64 *ctx)
{
	struct folio *folio = (struct folio *)ctx[0];

	return on_add(folio->mapping, folio->index, folio_pages(folio, cachestat_head_bit));
}

SEC("tp_btf/mm_filemap_add_to_page_cache")
int add_page(u64 *ctx)
{
	struct page *page = (struct page *)ctx[0];

	return on_add(page->mapping, page->index, 1);
}

/* (folio or page, mapping) */
SEC("tp_btf/writeback_dirty_folio")
int dirty_folio(u64 *ctx)
{
	struct folio *folio = (struct folio *)ctx[0];

	return on_dirty((struct address_space *)ctx[1], folio->index,
			folio_pages(folio, cachestat_head_bit));
}

SEC("tp_btf/writeback_dirty_page")
int dirty_page(u64 *ctx)
{
	struct page *page = (struct page *)ctx[0];

	return on_dirty((struct address_space *)ctx[1], page->index, 1);
}

static __always_inline int on_read_exit(struct kiocb *iocb, s64 already, s64 result)
{
	return on_read(iocb->ki_filp->f_mapping, iocb->ki_pos, result - already);
}

/* (iocb, iter, already read) */
SEC("fexit/filemap_read")
int read_fexit(u64 *ctx)
{
	return on_read_exit((struct kiocb *)ctx[0], ctx[2], ctx[3]);
}

SEC("fexit/generic_file_buffered_read")
int buffered_read_fexit(u64 *ctx)
{
	return on_read_exit((struct kiocb *)ctx[0], ctx[2], ctx[3]);
}

/* (file, &position, pipe, length, flags) */
SEC("fexit/filemap_splice_read")
int splice_fexit(u64 *ctx)
{
	struct file *file = (struct file *)ctx[0];
	s64 position = 0;

	bpf_probe_read_kernel(&position, sizeof(position), (void *)ctx[1]);
	return on_read(file->f_mapping, position, ctx[5]);
}

/* struct vm_fault is a type of the kernel that these programs may read directly. */
SEC("fexit/filemap_fault")
int fault_fexit(u64 *ctx)
{
	struct vm_fault *vmf = (struct vm_fault *)ctx[0];
	struct cachestat_task *task = this_task();
	u64 mapping, at = vmf->pgoff, missed;

	if (!task)
		return 0;
	mapping = mapping_of(task, vmf);
	if (!is_another_try(task, mapping, at, at)) {
		missed = use_up_pages(mapping, at, at + 1);
		count(1 - missed, missed);
	}
	if (ctx[1] & VM_FAULT_RETRY) {
		task->tried = mapping;
		task->index = at;
	}
	return 0;
}

/* Pages [first, last] were mapped around a fault; the faulting page is in [from, to]. */
static __always_inline int on_map_pages(struct cachestat_task *task, u64 mapping, u64 first,
					u64 last, u64 from, u64 to)
{
	u64 missed = use_up_pages(mapping, from, to + 1) != 0;

	if (from != first || to != last)
		use_up_pages(mapping, first, last + 1);
	if (!is_another_try(task, mapping, from, to))
		count(1 - missed, missed);
	return 0;
}

static __always_inline int on_map_pages_exit(u64 *ctx)
{
	struct vm_fault *vmf = (struct vm_fault *)ctx[0];
	struct cachestat_task *task = this_task();
	u64 at = vmf->pgoff;

	if (!task || is_of(vmf->vma->vm_file->f_mapping, TMPFS_MAGIC))
		return 0;
	return on_map_pages(task, mapping_of(task, vmf), ctx[1], ctx[2], at, at);
}

/* (vmf, first, last); returns VM_FAULT_NOPAGE when the page is mapped. */
SEC("fexit/filemap_map_pages")
int map_pages_fexit(u64 *ctx)
{
	return ctx[3] & VM_FAULT_NOPAGE ? on_map_pages_exit(ctx) : 0;
}

SEC("fexit/filemap_map_pages")
int map_pages_void_fexit(u64 *ctx)
{
	return fault_is_solved((struct vm_fault *)ctx[0]) ? on_map_pages_exit(ctx) : 0;
}

/*
 * The tracepoints fire before pages are added, and none fires at the end of a lookup. So a lookup
 * is settled when the task starts the next one, or exits.
 */
SEC("tp_btf/mm_filemap_get_pages")
int get_pages_btf(u64 *ctx)
{
	struct address_space *file = (struct address_space *)ctx[0];
	u64 first = ctx[1], last = ctx[2], end = file->host->i_size, mapping;
	struct task_struct *current = (struct task_struct *)bpf_get_current_task();
	u64 read = BPF_CORE_READ(current, ioac.syscr);
	struct cachestat_task *task = this_task();
	bool goes_on;

	if (!task || !end)
		return 0;
	if (last > (end - 1) >> PAGE_SHIFT)
		last = (end - 1) >> PAGE_SHIFT;
	if (first > last)
		return 0;
	mapping = address_of(task, file);
	/* A read in several batches reports all of its remaining pages each time. */
	goes_on = task->looks == mapping && task->last == last && task->read == read &&
		  first > task->at;
	task->at = first;
	if (goes_on)
		return 0;
	begin_look_up(task, mapping, first, last);
	task->read = read;
	return 0;
}

/* (mapping, index) */
SEC("tp_btf/mm_filemap_fault")
int fault_btf(u64 *ctx)
{
	struct cachestat_task *task = this_task();
	u64 mapping, at = ctx[1];

	if (!task)
		return 0;
	mapping = address_of(task, (void *)ctx[0]);
	/* The pages around it were cached, and this one was not: only this lookup counts. */
	if (task->around == mapping && task->first <= at && at <= task->last)
		task->slot.busy = 0;
	if (is_another_try(task, mapping, at, at))
		return 0;
	begin_look_up(task, mapping, at, at);
	task->tried = mapping;
	task->index = at;
	return 0;
}

/*
 * (mapping, first, last), if at least one page was cached. The faulting page is not reported. If it
 * was not cached, mm_filemap_fault fires next.
 */
SEC("tp_btf/mm_filemap_map_pages")
int map_pages_btf(u64 *ctx)
{
	struct cachestat_task *task = this_task();
	u64 first = ctx[1], last = ctx[2], mapping;

	if (!task)
		return 0;
	settle(task);
	if (is_of((struct address_space *)ctx[0], TMPFS_MAGIC))
		return 0;
	mapping = address_of(task, (void *)ctx[0]);
	if (use_up_pages(mapping, first, last + 1)) {
		if (!is_another_try(task, mapping, first, last))
			count(0, 1);
		return 0;
	}
	if (is_another_try(task, mapping, first, last))
		return 0;
	task->slot.busy = 1;
	task->looks = 0; /* pages added now are not part of the lookup */
	task->around = mapping;
	task->first = first;
	task->last = last;
	return 0;
}

SEC("tp_btf/sched_process_exit")
int exit_btf(u64 *ctx)
{
	u32 tid = current_tid();
	struct cachestat_task *task = tasks_find(tid, tid);

	if (task) {
		settle(task);
		task->slot.owner = 0;
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
