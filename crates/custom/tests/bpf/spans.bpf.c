// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Spans from two ring buffers. `what` says which kind of record; `value` is the span's id.
 */
#include "trigger.bpf.h"
#include "tracing.bpf.h"

enum spans_what {
	SPANS_WHOLE = 0,    /* ids, name, and bytes after the labels */
	SPANS_NO_TRACE = 1, /* the trace id is zero, which is an error */
	SPANS_NO_IDS = 2,   /* the span's own and the parent's id are zero */
	SPANS_SHORT = 3,    /* less than the labels need */
	SPANS_SKIPPED = 4,  /* no pattern matches */
	SPANS_PLAIN = 5,    /* in the second buffer, which has no ids and no name */
};

#define SPANS_TRACE_HI 0x0807060504030201ULL
#define SPANS_TRACE_LO 0x1817161514131211ULL
#define SPANS_PARENT 0x2827262524232221ULL
#define SPANS_NS 1000003

struct spans_whole {
	struct span_base_t span_base;
	char name[16];
	u64 unread;
};

struct spans_plain {
	u32 answer;
};

#define RINGBUF(name)                               \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, 64 * 1024);     \
	} name SEC(".maps")

RINGBUF(spans_named);
RINGBUF(spans_plain);

static __always_inline int spans_ids(u64 what, u64 value)
{
	struct span_parent_t parent = {SPANS_TRACE_HI, SPANS_TRACE_LO, SPANS_PARENT};

	if (what == SPANS_NO_TRACE)
		parent.trace_id_hi = parent.trace_id_lo = 0;
	if (what == SPANS_NO_IDS)
		parent.span_id = value = 0;
	submit_span(&spans_named, struct spans_whole, &parent, {
		__builtin_memset(span->name, 0, sizeof(span->name));
		__builtin_memcpy(span->name, "name", 4);
		if (what == SPANS_SKIPPED)
			span->name[0] = 'x';
		span->span_base.span_id = value;
		span->span_base.span_duration_ns = SPANS_NS;
		span->unread = ~0ULL;
	});
	return 0;
}

ON_TRIGGER(spans_triggered)
{
	struct spans_plain plain = {.answer = 42};
	u32 few = 7;

	switch (what) {
	case SPANS_SHORT:
		return bpf_ringbuf_output(&spans_named, &few, sizeof(few), 0);
	case SPANS_PLAIN:
		return bpf_ringbuf_output(&spans_plain, &plain, sizeof(plain), 0);
	default:
		return spans_ids(what, value);
	}
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
