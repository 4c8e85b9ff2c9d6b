/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __TRACING_BPF_H
#define __TRACING_BPF_H

/*
 * Spans for `tracing:` of a config: records of a ring buffer. Include vmlinux.h and
 * bpf/bpf_helpers.h before.
 *
 * The labels of a config that read struct span_base_t are, in this order: trace_id (16 bytes, hex),
 * parent_span_id (8, hex), span_id (8, hex), span_monotonic_timestamp_ns (8, uint) and
 * span_duration_ns (8, uint). A span_id of zeros is replaced by a random one, and a parent_span_id
 * of zeros means none. A record whose trace_id is all zeros is no span: set it, or let the config
 * give those 16 bytes another name than trace_id.
 */

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

struct span_parent_t {
	u64 trace_id_hi;
	u64 trace_id_lo;
	u64 span_id;
};

struct span_base_t {
	struct span_parent_t parent;
	u64 span_id;
	u64 span_monotonic_timestamp_ns;
	u64 span_duration_ns;
};

/* Begins a span that ends now and takes no time; the program may set other values. */
static __always_inline __attribute__((unused)) void fill_span_base(struct span_base_t *span,
								   struct span_parent_t *parent)
{
	span->parent = *parent;
	span->span_id = 0;
	span->span_monotonic_timestamp_ns = bpf_ktime_get_ns();
	span->span_duration_ns = 0;
}

/* The same with a tag that a program in userspace gives along with its span. */
struct span_parent_tagged_t {
	u64 trace_id_hi;
	u64 trace_id_lo;
	u64 span_id;
	u64 example_userspace_tag;
};

struct span_base_tagged_t {
	struct span_parent_tagged_t parent;
	u64 span_id;
	u64 span_monotonic_timestamp_ns;
	u64 span_duration_ns;
};

static __always_inline __attribute__((unused)) void
fill_span_base_tagged(struct span_base_tagged_t *span, struct span_parent_tagged_t *parent)
{
	span->parent = *parent;
	span->span_id = 0;
	span->span_monotonic_timestamp_ns = bpf_ktime_get_ns();
	span->span_duration_ns = 0;
}

#define __tracing_submit(map, type, parent, fill, ...)                  \
	({                                                              \
		type *span = bpf_ringbuf_reserve(map, sizeof(type), 0); \
		if (!span)                                              \
			return 0;                                       \
		fill(&span->span_base, parent);                         \
		__VA_ARGS__;                                            \
		bpf_ringbuf_submit(span, 0);                            \
	})

/*
 * Writes a record of `type`, whose member `span_base` is a struct span_base_t, to a ring buffer.
 * The statements set its other members through `span`. Returns 0 from the calling function if the
 * ring buffer is full.
 */
#define submit_span(map, type, parent, ...) \
	__tracing_submit(map, type, parent, fill_span_base, __VA_ARGS__)

/* The same for a struct span_base_tagged_t. */
#define submit_span_tagged_base(map, type, parent, ...) \
	__tracing_submit(map, type, parent, fill_span_base_tagged, __VA_ARGS__)

#endif /* __TRACING_BPF_H */
