// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Does the page cache hit?
 *
 * Hooks: the exit of filemap_read (5.10: generic_file_buffered_read) and, where it is a
 * path of its own, filemap_splice_read; filemap_fault and filemap_map_pages; additions
 * and dirtied pages by tracepoint. Where functions cannot be hooked, the tracepoints
 * mm_filemap_{get_pages,fault,map_pages} (6.10) stand for them.
 * A look-up is a page of a read(2), or a page fault on a mapped file. It is a miss when
 * the page had to be read for it, by itself or by readahead before it: pages that are
 * added to a file and not looked up yet are remembered by number, and the file's next
 * look-ups use them up. So readahead that nobody looks at is no miss, and there are never
 * more misses than look-ups. Pages that a write adds are no misses either.
 * Cost: a hash look-up for each read(2) and fault, two for each page that is added.
 * Not seen: accesses to mapped pages after their fault; files on tmpfs (read by its own
 * function); DAX and O_DIRECT, which go past the page cache.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "core_fixes.bpf.h"
#include "events.bpf.h"
#include "maps.bpf.h"
#include "task_slots.bpf.h"

#define PAGE_SHIFT 12
#define S_IFMT 00170000
#define S_IFBLK 0060000
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

/*
 * Pages of a file that were read and not looked up yet. LRU: what is pushed out is
 * readahead that nobody came for, the oldest first.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);   /* struct address_space * */
	__type(value, u64); /* pages; less than none for a moment, see use_up() */
} fresh SEC(".maps");

const u64 zero_fresh = 0;

struct cachestat_task {
	u32 tid;
	u32 written; /* pages of `added` that a write may dirty next */
	u64 added;   /* the file it added pages to last */
	u64 owed;    /* pages it looks up now: hits, unless it has to add them */
	u64 looks;   /* in this file */
	u64 tried;   /* the file and the page of a fault that is to be tried again */
	u64 index;
	u64 last; /* of a read by several tracepoints: the last page, and the read's number */
	u64 read;
};
TASK_SLOTS(tasks, struct cachestat_task);

static __always_inline struct cachestat_task *this_task(void)
{
	u32 tid = current_tid();
	struct cachestat_task *task = task_slot(&tasks, tid);

	if (task && task->tid != tid) {
		__builtin_memset(task, 0, sizeof(*task));
		task->tid = tid;
	}
	return task;
}

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

/* What was looked up and did not have to be added was there. */
static __always_inline void settle(struct cachestat_task *task)
{
	if (task->owed)
		count(task->owed, 0);
	task->owed = 0;
}

/*
 * How many of `pages` that are looked up were read for it. Two CPUs may use up the same
 * ones: the number is less than none then, and later pages make up for it.
 */
static __always_inline u64 use_up(u64 mapping, u64 cached, u64 pages)
{
	s64 *number = bpf_map_lookup_elem(&fresh, &mapping), left;

	if (!number)
		return 0;
	left = *number;
	/* Some were evicted again, or this is another file at the same address. */
	if (left > (s64)cached) {
		left = cached;
		*number = left;
	}
	if (left <= 0)
		return 0;
	if (pages > (u64)left)
		pages = left;
	__sync_fetch_and_add(number, -pages);
	return pages;
}

/* `task` looks up `pages` of a file; until settle() those it adds itself are misses too. */
static __always_inline void look_up(struct cachestat_task *task, struct address_space *mapping,
				    u64 pages)
{
	u64 missed;

	settle(task);
	task->written = 0; /* what it added was for reading */
	missed = use_up((u64)mapping, BPF_CORE_READ(mapping, nrpages), pages);
	if (missed)
		count(0, missed);
	task->owed = pages - missed;
	task->looks = (u64)mapping;
}

static __always_inline u32 content_of(struct address_space *mapping, bool btf)
{
	struct inode *host = FIELD(btf, mapping, host);
	u32 mode = host ? FIELD(btf, host, i_mode) : 0;

	return (mode & S_IFMT) == S_IFBLK ? CACHESTAT_METADATA : CACHESTAT_FILE;
}

static __always_inline void count_pages(void *map, struct address_space *mapping, u64 pages,
					bool btf)
{
	u32 content = content_of(mapping, btf);
	struct cachestat_pages *p = bpf_map_lookup_elem(map, &content);

	if (p)
		__sync_fetch_and_add(&p->pages, pages);
}

static __always_inline int on_add(struct address_space *mapping, u64 pages, bool btf)
{
	struct cachestat_task *task = this_task();
	u64 key = (u64)mapping, missed = 0;
	s64 *number;

	if (!mapping || !task)
		return 0;
	count_pages(&adds, mapping, pages, btf);
	if (task->owed && task->looks == key) {
		missed = task->owed < pages ? task->owed : pages;
		task->owed -= missed;
		count(0, missed);
	}
	if (task->added != key)
		task->written = 0;
	task->added = key;
	task->written += pages;
	if (missed == pages)
		return 0;
	number = map_lookup_or_init(&fresh, &key, &zero_fresh);
	if (number)
		__sync_fetch_and_add(number, pages - missed);
	else
		count_event(EVENT_MAP_FULL);
	return 0;
}

static __always_inline int on_dirty(struct address_space *mapping, u64 pages, bool btf)
{
	struct cachestat_task *task = this_task();
	u64 key = (u64)mapping, written;
	s64 *number;

	if (!mapping || !task)
		return 0;
	count_pages(&dirties, mapping, pages, btf);
	if (task->added != key || !task->written)
		return 0;
	/* It was added to be written. */
	written = task->written < pages ? task->written : pages;
	task->written -= written;
	number = bpf_map_lookup_elem(&fresh, &key);
	if (number)
		__sync_fetch_and_add(number, -written);
	return 0;
}

/* Bytes [position - bytes, position) of a file were read through the page cache. */
static __always_inline int on_read(struct address_space *mapping, s64 position, s64 bytes)
{
	struct cachestat_task *task = this_task();
	u64 first, last;

	if (!task || bytes <= 0)
		return 0;
	first = (u64)(position - bytes) >> PAGE_SHIFT;
	last = (u64)(position - 1) >> PAGE_SHIFT;
	look_up(task, mapping, last - first + 1);
	settle(task);
	return 0;
}

static __always_inline bool is_another_try(struct cachestat_task *task, u64 mapping, u64 first,
					   u64 last)
{
	bool same = task->tried == mapping && task->index >= first && task->index <= last;

	task->tried = 0;
	return same;
}

static __always_inline struct address_space *mapping_of(struct vm_fault *vmf)
{
	return vmf->vma->vm_file->f_mapping;
}

SEC("tp_btf/mm_filemap_add_to_page_cache")
int add_folio(u64 *ctx)
{
	struct folio *folio = (struct folio *)ctx[0];

	return on_add(folio->mapping, folio_pages(folio, cachestat_head_bit), true);
}

SEC("tp_btf/mm_filemap_add_to_page_cache")
int add_page(u64 *ctx)
{
	return on_add(((struct page *)ctx[0])->mapping, 1, true);
}

SEC("tp_btf/writeback_dirty_folio")
int dirty_folio(u64 *ctx)
{
	return on_dirty((struct address_space *)ctx[1],
			folio_pages((struct folio *)ctx[0], cachestat_head_bit), true);
}

SEC("tp_btf/writeback_dirty_page")
int dirty_page(u64 *ctx)
{
	return on_dirty((struct address_space *)ctx[1], 1, true);
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

static __always_inline int on_fault(struct vm_fault *vmf)
{
	struct address_space *mapping = mapping_of(vmf);
	struct cachestat_task *task = this_task();

	if (!task || is_another_try(task, (u64)mapping, vmf->pgoff, vmf->pgoff))
		return 0;
	look_up(task, mapping, 1);
	return 0;
}

static __always_inline int on_fault_exit(struct vm_fault *vmf, u32 result)
{
	struct cachestat_task *task = this_task();

	if (!task)
		return 0;
	settle(task);
	if (result & VM_FAULT_RETRY) {
		task->tried = (u64)mapping_of(vmf);
		task->index = vmf->pgoff;
	}
	return 0;
}

/* Pages around a fault were mapped, the one that was asked for among them. */
static __always_inline int on_map_pages(struct address_space *mapping, u64 first, u64 last)
{
	struct cachestat_task *task = this_task();

	if (!task || is_another_try(task, (u64)mapping, first, last))
		return 0;
	look_up(task, mapping, 1);
	settle(task);
	return 0;
}

/* A fault is a kernel's struct that these programs may read whole. */
SEC("fentry/filemap_fault")
int fault_fentry(u64 *ctx)
{
	return on_fault((struct vm_fault *)ctx[0]);
}

SEC("fexit/filemap_fault")
int fault_fexit(u64 *ctx)
{
	return on_fault_exit((struct vm_fault *)ctx[0], ctx[1]);
}

/* (vmf, first, last); returns VM_FAULT_NOPAGE when the page is mapped. */
SEC("fexit/filemap_map_pages")
int map_pages_fexit(u64 *ctx)
{
	struct vm_fault *vmf = (struct vm_fault *)ctx[0];

	if (!(ctx[3] & VM_FAULT_NOPAGE))
		return 0;
	return on_map_pages(mapping_of(vmf), vmf->pgoff, vmf->pgoff);
}

SEC("fexit/filemap_map_pages")
int map_pages_void_fexit(u64 *ctx)
{
	struct vm_fault *vmf = (struct vm_fault *)ctx[0];

	if (!fault_is_solved(vmf))
		return 0;
	return on_map_pages(mapping_of(vmf), vmf->pgoff, vmf->pgoff);
}

/*
 * The tracepoints tell of a look-up before pages are added, and nothing of its end: it
 * is settled when the task does the next one.
 */
SEC("tp_btf/mm_filemap_get_pages")
int get_pages_btf(u64 *ctx)
{
	struct address_space *mapping = (struct address_space *)ctx[0];
	u64 first = ctx[1], last = ctx[2], end = mapping->host->i_size;
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
	/* A read in several batches tells of what is left of it each time. */
	goes_on = task->looks == (u64)mapping && task->last == last && task->read == read &&
		  first > task->index;
	task->index = first;
	if (goes_on)
		return 0;
	look_up(task, mapping, last - first + 1);
	task->last = last;
	task->read = read;
	return 0;
}

/* (mapping, index) */
SEC("tp_btf/mm_filemap_fault")
int fault_btf(u64 *ctx)
{
	struct address_space *mapping = (struct address_space *)ctx[0];
	struct cachestat_task *task = this_task();

	if (!task || is_another_try(task, ctx[0], ctx[1], ctx[1]))
		return 0;
	look_up(task, mapping, 1);
	task->tried = ctx[0];
	task->index = ctx[1];
	return 0;
}

/* (mapping, first, last), when at least one page was mapped. */
SEC("tp_btf/mm_filemap_map_pages")
int map_pages_btf(u64 *ctx)
{
	return on_map_pages((struct address_space *)ctx[0], ctx[1], ctx[2]);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
