/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __EVENTS_BPF_H
#define __EVENTS_BPF_H

/*
 * Events that a program saw and could not count correctly. The engine exports each member of `lost`
 * as ebpf_exporter_lost_events_total{reason="member"}. It takes the names from this struct's BTF;
 * there is no second list.
 */
struct events {
	struct {
		u64 map_full;	 /* no room for a new entry and no entry to fold it into */
		u64 no_start;	 /* an end without a start */
		u64 clock_back;	 /* an end before its start */
		u64 implausible; /* an impossible value, read through a struct layout */
	} lost;
	u64 folded; /* counted under "other", because the series limit is reached */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct events);
} events SEC(".maps");

enum event {
	EVENT_MAP_FULL,
	EVENT_NO_START,
	EVENT_CLOCK_BACK,
	EVENT_IMPLAUSIBLE,
	EVENT_FOLDED,
};

static __always_inline void count_event(enum event what)
{
	u32 zero = 0;
	struct events *e = bpf_map_lookup_elem(&events, &zero);

	if (!e)
		return;
	switch (what) {
	case EVENT_MAP_FULL:
		__sync_fetch_and_add(&e->lost.map_full, 1);
		break;
	case EVENT_NO_START:
		__sync_fetch_and_add(&e->lost.no_start, 1);
		break;
	case EVENT_CLOCK_BACK:
		__sync_fetch_and_add(&e->lost.clock_back, 1);
		break;
	case EVENT_IMPLAUSIBLE:
		__sync_fetch_and_add(&e->lost.implausible, 1);
		break;
	case EVENT_FOLDED:
		__sync_fetch_and_add(&e->folded, 1);
		break;
	}
}

/* Nanoseconds from `start` to `now`; 0, counted as clock_back, if `now` is earlier. */
static __always_inline u64 elapsed_ns(u64 start, u64 now)
{
	if (now >= start)
		return now - start;
	count_event(EVENT_CLOCK_BACK);
	return 0;
}

#endif /* __EVENTS_BPF_H */
