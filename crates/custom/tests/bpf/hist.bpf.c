// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Histograms of all bucket types, on three kinds of maps. Every trigger observes `value` once: a
 * loop here would be too long for the verifier of 6.1.
 */
#include "trigger.bpf.h"

/* As in hist.yaml. */
#define HIST_MAX 27
#define HIST_ARRAY_MAX 10
#define HIST_LINEAR_MAX 20

struct hist_key {
	u32 operation;
	u32 bucket;
};

struct hist_bucket {
	u32 bucket;
};

COUNTERS(hist_exp2_seconds, HASH, 1024, struct hist_key);
COUNTERS(hist_exp2zero_items, ARRAY, HIST_ARRAY_MAX + 2, u32);
COUNTERS(hist_percpu_items, PERCPU_ARRAY, HIST_ARRAY_MAX + 2, u32);
COUNTERS(hist_large_bytes, HASH, 1024, struct hist_bucket);
COUNTERS(hist_linear_items, HASH, 1024, struct hist_bucket);
COUNTERS(hist_fixed_items, HASH, 1024, struct hist_bucket);

/* Bounds of the fixed buckets. The slot after the last one is the sum. */
static __always_inline u32 hist_fixed_slot(u64 v)
{
	return v <= 1 ? 1 : v <= 10 ? 10 : 100;
}

static __always_inline void hist_observe(u64 v)
{
	struct hist_key key = {.operation = v & 1};
	struct hist_bucket bucket = {};

	increment_exp2_histogram(&hist_exp2_seconds, key, v, HIST_MAX);
	increment_exp2zero_histogram(&hist_exp2zero_items, bucket, v, HIST_ARRAY_MAX);
	increment_exp2_histogram_nosync(&hist_percpu_items, bucket, v, HIST_ARRAY_MAX);
	/* hist.yaml ends one slot below this, so that the last one is counted nowhere. */
	increment_exp2_histogram(&hist_large_bytes, bucket, v, 25);
	bucket.bucket = v / 50 > HIST_LINEAR_MAX ? HIST_LINEAR_MAX : v / 50;
	increment_map(&hist_linear_items, &bucket, 1);
	bucket.bucket = hist_fixed_slot(v);
	increment_map(&hist_fixed_items, &bucket, 1);
	bucket.bucket = 101;
	increment_map(&hist_fixed_items, &bucket, v);
}

ON_TRIGGER(hist_triggered)
{
	hist_observe(value);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
