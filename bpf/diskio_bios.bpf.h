/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __DISKIO_BIOS_BPF_H
#define __DISKIO_BIOS_BPF_H

/* Devices whose drivers take bios, or pages without one. The hooks are in diskio.bpf.c. */
#include "diskio_keys.bpf.h"
#include "hist.bpf.h"

/* Bytes of a page. */
const volatile u64 diskio_page = 4096;

/* Bio-based drivers: there is no issue step between queue and service. */
struct diskio_bio_stats {
	struct hist latency;
	u64 bytes;
	u64 errors;
};

struct diskio_bio_start {
	struct diskio_key key; /* at queue time: the bio may be remapped to another disk */
	u64 queued;
	u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); /* struct bio *, or the id of a thread that moves a page without one */
	__type(value, struct diskio_bio_start);
} bio_start SEC(".maps");

u64 bio_start_entries = 0;

/* Not preallocated, for the reason of rq_stats. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct diskio_key);
	__type(value, struct diskio_bio_stats);
} bio_stats SEC(".maps");

/* A template for new values; too large for the stack. Never written. */
const struct diskio_bio_stats zero_bio_stats = {};

static __always_inline void begin_bio(u64 id, const struct diskio_bio_start *begin)
{
	struct diskio_bio_start *s = bpf_map_lookup_elem(&bio_start, &id);

	if (s)
		*s = *begin;
	else if (!bpf_map_update_elem(&bio_start, &id, begin, BPF_ANY))
		__sync_fetch_and_add(&bio_start_entries, 1);
	else
		count_event(EVENT_MAP_FULL);
}

static __always_inline int on_bio_queue(struct bio *bio, bool btf)
{
	struct gendisk *disk = bio_disk(bio, btf);
	struct diskio_bio_start begin = {};
	struct request_queue *q;

	q = disk ? FIELD(btf, disk, queue) : NULL;
	if (!q || FIELD(btf, q, mq_ops))
		return 0; /* request-based: the request hooks see it */
	begin.key.op = operation(FIELD(btf, bio, bi_opf));
	begin.bytes = FIELD(btf, bio, bi_iter.bi_size);
	if (begin.key.op == DISKIO_PASSTHROUGH || !read_disk_name(disk, &begin.key, btf))
		return 0;
	if (begin.key.op == DISKIO_WRITE && !begin.bytes)
		begin.key.op = DISKIO_FLUSH; /* an empty write is legal only as a flush */
	begin.queued = bpf_ktime_get_ns();
	begin_bio((u64)bio, &begin);
	return 0;
}

static __always_inline void forget_bio(u64 id, struct diskio_bio_start *s)
{
	s->queued = 0;
	if (bio_start_entries >= diskio_start_crowded && !bpf_map_delete_elem(&bio_start, &id))
		__sync_fetch_and_add(&bio_start_entries, -1);
}

static __always_inline void end_bio(u64 id, struct diskio_bio_start *s, bool failed)
{
	struct diskio_bio_stats *stats = stats_of(&bio_stats, &s->key, &zero_bio_stats);

	if (stats) {
		hist_observe_us(&stats->latency, elapsed_ns(s->queued, bpf_ktime_get_ns()));
		__sync_fetch_and_add(&stats->bytes, s->bytes);
		if (failed)
			__sync_fetch_and_add(&stats->errors, 1);
	}
	forget_bio(id, s);
}

static __always_inline int on_bio_complete(struct bio *bio, bool btf)
{
	u64 id = (u64)bio;
	struct diskio_bio_start *s = bpf_map_lookup_elem(&bio_start, &id);

	if (s && s->queued) /* else a bio of a request-based driver */
		end_bio(id, s, FIELD(btf, bio, bi_status));
	return 0;
}

/* A page of swap or of a buffered read goes to a driver that takes it without a bio. */
static __always_inline int on_page(struct block_device *bdev, enum diskio_op op, bool btf)
{
	struct diskio_bio_start begin = {.key.op = op, .bytes = diskio_page};
	struct gendisk *disk = FIELD(btf, bdev, bd_disk);

	if (!disk || !takes_pages(disk, btf) || !read_disk_name(disk, &begin.key, btf))
		return 0;
	begin.queued = bpf_ktime_get_ns();
	begin_bio(bpf_get_current_pid_tgid(), &begin);
	return 0;
}

/* The driver did not take it: the caller makes a bio of it. */
static __always_inline int on_page_end(int result)
{
	u64 id = bpf_get_current_pid_tgid();
	struct diskio_bio_start *s = bpf_map_lookup_elem(&bio_start, &id);

	if (!s || !s->queued)
		return 0;
	if (result)
		forget_bio(id, s);
	else
		end_bio(id, s, false);
	return 0;
}

#endif /* __DISKIO_BIOS_BPF_H */
