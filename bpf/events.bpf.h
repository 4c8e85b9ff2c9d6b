/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __EVENTS_BPF_H
#define __EVENTS_BPF_H

/*
 * What a program saw and could not count as it should. The engine exports every
 * member of `lost` as ebpf_exporter_lost_events_total{reason="member"}: the
 * names are read from this struct's BTF, there is no second list of them.
 */
struct events {
	struct {
		u64 map_full;	 /* no room for a new entry, and none folded it */
		u64 no_start;	 /* an end whose beginning was not seen */
		u64 clock_back;	 /* an end before its beginning */
		u64 implausible; /* read through a layout, and cannot be */
	} lost;
	u64 folded; /* counted, but under "other": the series limit is reached */
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

/* Nanoseconds from `start` to `now`; an impossible order is counted, not wrapped. */
static __always_inline u64 elapsed_ns(u64 start, u64 now)
{
	if (now >= start)
		return now - start;
	count_event(EVENT_CLOCK_BACK);
	return 0;
}

#endif /* __EVENTS_BPF_H */
