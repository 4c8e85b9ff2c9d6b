// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Records of a perf event array, which are counters. `what` is their number, up to 100,000: then
 * some are lost. The kernel pads the 12 bytes of a record.
 */
#include "trigger.bpf.h"

struct perf_record {
	u64 key;
	u32 kind;
} __attribute__((packed));

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(u32));
	__uint(value_size, sizeof(u32));
} perf_total SEC(".maps");

struct perf_loop {
	void *ctx;
	struct perf_record record;
};

static long perf_output(u32 i, struct perf_loop *loop)
{
	bpf_perf_event_output(loop->ctx, &perf_total, 0xffffffffULL, &loop->record,
			      sizeof(loop->record));
	return 0;
}

ON_TRIGGER(perf_triggered)
{
	struct perf_loop loop = {.ctx = ctx, .record = {.key = value, .kind = value & 1}};

	bpf_loop(what < 100000 ? what : 100000, perf_output, &loop, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
