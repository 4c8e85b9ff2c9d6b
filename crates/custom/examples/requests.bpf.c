// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How often is a function of your own program called, and how long does it take? Put your program
 * and function in the place of /usr/local/bin/myserver and handle_request, here and in
 * requests.yaml. The function must be in the program's symbol table: `nm` shows it.
 */

/* Types of the kernel. Every program needs this file first. */
#include "vmlinux.h"
/* SEC, __uint, __type, and the functions that the kernel has for programs. */
#include <bpf/bpf_helpers.h>
/*
 * BPF_KPROBE, BPF_KRETPROBE: give names to a function's arguments and its result. From libbpf 1.2
 * on they are also called BPF_UPROBE and BPF_URETPROBE for programs of users.
 */
#include <bpf/bpf_tracing.h>
/* Counters and histograms in maps. */
#include "maps.bpf.h"

/* The last bucket ends at 2^26 us, 67 s. The config has the same number. */
#define REQUESTS_BUCKETS 26

/* The key of the counter. */
struct requests_result {
	u64 failed;
};

/* The key of the histogram: nothing but the bucket, which is always a label. */
struct requests_bucket {
	u32 bucket;
};

/* When a thread called the function, by its number. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, u64);
} requests_start SEC(".maps");

/* Calls: the map has the metric's name, and its values are u64. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, struct requests_result);
	__type(value, u64);
} requests_total SEC(".maps");

/* How long they took: an array with the buckets 0 to 26, and one for the sum. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REQUESTS_BUCKETS + 2);
	__type(key, u32);
	__type(value, u64);
} requests_seconds SEC(".maps");

/* A thread calls the function: program file and symbol. */
SEC("uprobe//usr/local/bin/myserver:handle_request")
int BPF_KPROBE(requests_begin)
{
	/* The lower half is the thread's number, the upper half that of its process. */
	u32 thread = bpf_get_current_pid_tgid();
	u64 now = bpf_ktime_get_ns();

	bpf_map_update_elem(&requests_start, &thread, &now, BPF_ANY);
	return 0;
}

/* The function returns. `result` is what it returns, taken as an int. */
SEC("uretprobe//usr/local/bin/myserver:handle_request")
int BPF_KRETPROBE(requests_end, int result)
{
	u32 thread = bpf_get_current_pid_tgid();
	struct requests_result key = {.failed = result < 0};
	struct requests_bucket bucket = {};
	u64 *start = bpf_map_lookup_elem(&requests_start, &thread);

	/* It was called before this program ran. */
	if (!start)
		return 0;
	increment_map(&requests_total, &key, 1);
	/* Sets bucket.bucket, adds 1 to it, and the time to the bucket after the last: that is the
	 * sum. */
	increment_exp2_histogram(&requests_seconds, bucket, (bpf_ktime_get_ns() - *start) / 1000,
				 REQUESTS_BUCKETS);
	bpf_map_delete_elem(&requests_start, &thread);
	return 0;
}

/* The kernel has functions that only programs with such a licence may call. */
char LICENSE[] SEC("license") = "Dual BSD/GPL";
