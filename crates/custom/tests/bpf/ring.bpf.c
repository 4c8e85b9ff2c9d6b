// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Records of a ring buffer, which are counters. `what` is their number, up to 100,000. Those that
 * find no room are counted here, because the kernel tells only the program about them. `value` is
 * the key of a record.
 */
#include "trigger.bpf.h"

enum ring_what {
	RING_SHORT = 0,	      /* a record that is shorter than the labels */
	RING_OTHER = 1 << 20, /* a record of the second buffer */
};

struct ring_record {
	u64 key;
	u32 kind;
	u32 unread;
};

#define RINGBUF(name)                               \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, 64 * 1024);     \
	} name SEC(".maps")

RINGBUF(ring_total);
RINGBUF(ring_other_total);
COUNTERS(ring_full_total, ARRAY, 1, u32);

static long ring_output(u32 i, struct ring_record *record)
{
	u32 first = 0;

	if (bpf_ringbuf_output(&ring_total, record, sizeof(*record), 0))
		increment_map(&ring_full_total, &first, 1);
	return 0;
}

ON_TRIGGER(ring_triggered)
{
	struct ring_record record = {.key = value, .kind = value & 1, .unread = ~0U};

	switch (what) {
	case RING_SHORT:
		return bpf_ringbuf_output(&ring_total, &record, sizeof(u64), 0);
	case RING_OTHER:
		return bpf_ringbuf_output(&ring_other_total, &record, sizeof(record), 0);
	default:
		bpf_loop(what < 100000 ? what : 100000, ring_output, &record, 0);
		return 0;
	}
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
