// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long do block I/Os take, by device and operation?
 *
 * Hooks: block_rq_{insert,issue,requeue,merge,complete} for request-based drivers,
 * block_bio_{queue,complete} for bio-based ones (dm, md, zram, multipath heads). Each as tp_btf,
 * or as raw_tp on kernels without their own BTF. Before 6.3, bdev_read_page and bdev_write_page, by
 * which pages reach zram without a bio, by fentry and fexit or by kprobe and kretprobe.
 * Cost: one clock read and one hash lookup at issue; the same and one per-CPU lookup at
 * completion. A bio of a request-based driver costs a few pointer loads.
 * Not seen: I/O in flight when the programs attach (counted as no_start), passthrough commands.
 * Partitions are counted with their disk.
 * Counted once: a flush sequence (its empty write is not a separate I/O); a request that is
 * requeued or completes in parts.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "core_fixes.bpf.h"
#include "diskio_bios.bpf.h"
#include "diskio_keys.bpf.h"
#include "hist.bpf.h"

/* Set by userland from BTF: see core_fixes.bpf.h. */
const volatile bool diskio_rq_second = false;
const volatile bool diskio_bio_second = false;

/* Request-based drivers. latency = queue + service, also in the sums. */
struct diskio_rq_stats {
	struct hist latency; /* insert (or issue) to completion, us */
	struct hist queue;   /* insert to last issue, s */
	struct hist service; /* last issue to completion, s */
	u64 bytes;
	u64 errors;
};

/*
 * A hash with one entry per request in flight. Requests are a fixed set that is reused, so an entry
 * stays and is overwritten: 50 ns instead of 240 for insert and delete. On hosts with more requests
 * than fit, entries are deleted when their I/O completes. Zero timestamps mean: not in flight.
 */
struct diskio_start {
	struct diskio_key key; /* as of the last issue: disks may share tags */
	u64 first;	       /* insert, or issue without insert */
	u64 issued;	       /* last issue */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); /* struct request * */
	__type(value, struct diskio_start);
} start SEC(".maps");

u64 start_entries = 0;

/* Not preallocated: a value is 4.7 kB per CPU, and few of the possible keys are used. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct diskio_key);
	__type(value, struct diskio_rq_stats);
} rq_stats SEC(".maps");

/* A template for new values; too large for the stack. Never written. */
const struct diskio_rq_stats zero_rq_stats = {};

static __always_inline bool request_key(struct request *rq, u32 op, struct diskio_key *key,
					bool btf)
{
	key->op = op;
	return read_disk_name(request_disk(rq, btf), key, btf);
}

/* The entry of a request that starts; NULL, which is counted, if there is no room. */
static __always_inline struct diskio_start *start_of(u64 id)
{
	struct diskio_start none = {}, *s = bpf_map_lookup_elem(&start, &id);

	if (s)
		return s;
	if (!bpf_map_update_elem(&start, &id, &none, BPF_NOEXIST))
		__sync_fetch_and_add(&start_entries, 1);
	s = bpf_map_lookup_elem(&start, &id);
	if (!s)
		count_event(EVENT_MAP_FULL);
	return s;
}

/* Only one CPU at a time handles a request here: nobody else uses this entry. */
static __always_inline void forget_start(u64 id, struct diskio_start *s)
{
	s->first = 0;
	s->issued = 0;
	if (start_entries >= diskio_start_crowded && !bpf_map_delete_elem(&start, &id))
		__sync_fetch_and_add(&start_entries, -1);
}

/*
 * Whether the entry has no start of this use of the request. It may be from an earlier use whose
 * end was skipped or lost, or which was freed without completion. Without iostats (queue/iostats 0)
 * the kernel does not tell when a use began, and every entry is taken for one of this use.
 */
static __always_inline bool is_new(struct request *rq, const struct diskio_start *s, bool btf)
{
	return !s->first || s->first < FIELD(btf, rq, start_time_ns);
}

static __always_inline int on_insert(struct request *rq, bool btf)
{
	struct diskio_start *s;

	if (operation(FIELD(btf, rq, cmd_flags)) == DISKIO_PASSTHROUGH)
		return 0;
	s = start_of((u64)rq);
	/* Already set if the request is requeued: it waits since the first time. */
	if (s && is_new(rq, s, btf)) {
		s->first = bpf_ktime_get_ns();
		s->issued = 0;
	}
	return 0;
}

static __always_inline int on_issue(struct request *rq, bool btf)
{
	u32 op = operation(FIELD(btf, rq, cmd_flags));
	struct diskio_start *s;
	u64 now;

	if (op == DISKIO_PASSTHROUGH)
		return 0;
	s = start_of((u64)rq);
	if (!s || !request_key(rq, op, &s->key, btf))
		return 0;
	now = bpf_ktime_get_ns();
	if (is_new(rq, s, btf))
		s->first = now;
	s->issued = now;
	return 0;
}

/* The driver gave `rq` back. It may wait long until it is issued again. */
static __always_inline int on_requeue(struct request *rq)
{
	u64 id = (u64)rq;
	struct diskio_start *s = bpf_map_lookup_elem(&start, &id);

	if (s)
		s->issued = 0;
	return 0;
}

/* `rq` was merged into another request, which is counted. */
static __always_inline int on_merge(struct request *rq)
{
	u64 id = (u64)rq;
	struct diskio_start *s = bpf_map_lookup_elem(&start, &id);

	if (s)
		forget_start(id, s);
	return 0;
}

static __always_inline void observe_rq(struct diskio_rq_stats *stats, const struct diskio_start *s)
{
	u64 now = bpf_ktime_get_ns();
	/* Failed before issue: all of its time is queue time. */
	u64 issued = s->issued ?: now;
	u64 queue = elapsed_ns(s->first, issued);
	u64 service = elapsed_ns(issued, now);

	hist_observe_us(&stats->latency, queue + service);
	hist_observe_s(&stats->service, service);
	if (queue)
		hist_observe_s(&stats->queue, queue);
	else
		hist_observe_nothing(&stats->queue);
}

static __always_inline int on_complete(struct request *rq, bool failed, u32 bytes, bool btf)
{
	u32 op = operation(FIELD(btf, rq, cmd_flags));
	struct diskio_rq_stats *stats;
	struct diskio_key key = {};
	struct diskio_start *s;
	u64 id = (u64)rq;
	bool begun;
	u32 left;

	if (op == DISKIO_PASSTHROUGH)
		return 0;
	s = bpf_map_lookup_elem(&start, &id);
	begun = s && !is_new(rq, s, btf);
	left = FIELD(btf, rq, __data_len);
	if (!bytes && !left && (op == DISKIO_READ || op == DISKIO_WRITE))
		goto out; /* the empty write of a flush sequence, or the sequence's second end */
	if (begun && s->issued)
		stats = stats_of(&rq_stats, &s->key, &zero_rq_stats);
	else if (request_key(rq, op, &key, btf))
		stats = stats_of(&rq_stats, &key, &zero_rq_stats);
	else
		goto out;
	if (stats)
		__sync_fetch_and_add(&stats->bytes, bytes);
	if (bytes < left)
		return 0; /* a part, perhaps of no bytes: the rest is issued again, or ends by
			     itself */
	if (!stats)
		goto out;
	if (failed)
		__sync_fetch_and_add(&stats->errors, 1);
	if (begun)
		observe_rq(stats, s);
	else
		count_event(EVENT_NO_START);
out:
	if (s)
		forget_start(id, s);
	return 0;
}

SEC("tp_btf/block_rq_insert")
int rq_insert_btf(u64 *ctx)
{
	return on_insert(arg_first_or_second(ctx, diskio_rq_second), true);
}

SEC("raw_tp/block_rq_insert")
int rq_insert_raw(u64 *ctx)
{
	return on_insert(arg_first_or_second(ctx, diskio_rq_second), false);
}

SEC("tp_btf/block_rq_issue")
int rq_issue_btf(u64 *ctx)
{
	return on_issue(arg_first_or_second(ctx, diskio_rq_second), true);
}

SEC("raw_tp/block_rq_issue")
int rq_issue_raw(u64 *ctx)
{
	return on_issue(arg_first_or_second(ctx, diskio_rq_second), false);
}

SEC("tp_btf/block_rq_requeue")
int rq_requeue_btf(u64 *ctx)
{
	return on_requeue(arg_first_or_second(ctx, diskio_rq_second));
}

SEC("raw_tp/block_rq_requeue")
int rq_requeue_raw(u64 *ctx)
{
	return on_requeue(arg_first_or_second(ctx, diskio_rq_second));
}

SEC("tp_btf/block_rq_merge")
int rq_merge_btf(u64 *ctx)
{
	return on_merge(arg_first_or_second(ctx, diskio_rq_second));
}

SEC("raw_tp/block_rq_merge")
int rq_merge_raw(u64 *ctx)
{
	return on_merge(arg_first_or_second(ctx, diskio_rq_second));
}

/* (request, int or blk_status_t error, unsigned bytes) in every kernel. */
SEC("tp_btf/block_rq_complete")
int rq_complete_btf(u64 *ctx)
{
	return on_complete((struct request *)ctx[0], ctx[1], ctx[2], true);
}

SEC("raw_tp/block_rq_complete")
int rq_complete_raw(u64 *ctx)
{
	return on_complete((struct request *)ctx[0], ctx[1], ctx[2], false);
}

SEC("tp_btf/block_bio_queue")
int bio_queue_btf(u64 *ctx)
{
	return on_bio_queue(arg_first_or_second(ctx, diskio_bio_second), true);
}

SEC("raw_tp/block_bio_queue")
int bio_queue_raw(u64 *ctx)
{
	return on_bio_queue(arg_first_or_second(ctx, diskio_bio_second), false);
}

/* (request_queue, bio) in every kernel. */
SEC("tp_btf/block_bio_complete")
int bio_complete_btf(u64 *ctx)
{
	return on_bio_complete((struct bio *)ctx[1], true);
}

SEC("raw_tp/block_bio_complete")
int bio_complete_raw(u64 *ctx)
{
	return on_bio_complete((struct bio *)ctx[1], false);
}

/* (bdev, sector, page), and for writes a fourth. */
SEC("fentry/bdev_read_page")
int page_read_fentry(u64 *ctx)
{
	return on_page((struct block_device *)ctx[0], DISKIO_READ, true);
}

SEC("fexit/bdev_read_page")
int page_read_fexit(u64 *ctx)
{
	return on_page_end(ctx[3]);
}

SEC("fentry/bdev_write_page")
int page_write_fentry(u64 *ctx)
{
	return on_page((struct block_device *)ctx[0], DISKIO_WRITE, true);
}

SEC("fexit/bdev_write_page")
int page_write_fexit(u64 *ctx)
{
	return on_page_end(ctx[4]);
}

SEC("kprobe/bdev_read_page")
int BPF_KPROBE(page_read_kprobe, struct block_device *bdev)
{
	return on_page(bdev, DISKIO_READ, false);
}

SEC("kretprobe/bdev_read_page")
int BPF_KRETPROBE(page_read_kretprobe, int result)
{
	return on_page_end(result);
}

SEC("kprobe/bdev_write_page")
int BPF_KPROBE(page_write_kprobe, struct block_device *bdev)
{
	return on_page(bdev, DISKIO_WRITE, false);
}

SEC("kretprobe/bdev_write_page")
int BPF_KRETPROBE(page_write_kretprobe, int result)
{
	return on_page_end(result);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
