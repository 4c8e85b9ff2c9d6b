/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __CACHESTAT_MARKS_BPF_H
#define __CACHESTAT_MARKS_BPF_H

/*
 * Marks on pages of files: a bit for each, in an entry for 2 MiB of a file.
 *
 * A mark may outlive its page: what comes to its place is marked anyway. Two CPUs that
 * change marks of the same 64 pages in the same nanoseconds may lose one.
 *
 * Functions that are not static are verified by themselves, once for each program, and a loop
 * around a call of one costs the verifier the call only: a read of 2 GiB is three loops deep.
 * Their arguments are numbers, an address_space among them.
 */
#include "events.bpf.h"
#include "maps.bpf.h"

#define PAGE_SHIFT 12

/* Pages of an entry. */
#define PIECE_SHIFT 9
#define PIECE (1 << PIECE_SHIFT)

/* What use_up_pages() and mark_pages() take: 64 MiB, more than the largest folio on x86. */
#define RUN (1ULL << 14)
#define RUN_PIECES (RUN / PIECE + 1)

/* Of the longest read, of MAX_RW_COUNT bytes. */
#define READ_RUNS ((1ULL << 31 >> PAGE_SHIFT) / RUN + 1)

struct cachestat_piece {
	u64 mapping; /* struct address_space * */
	u64 number;
};

struct cachestat_marks {
	u64 words[PIECE / 64];
};

/* LRU: what is pushed out is readahead that nobody came for, the oldest first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct cachestat_piece);
	__type(value, struct cachestat_marks);
} fresh SEC(".maps");

const struct cachestat_marks no_marks = {};

/* Where the part of pages [first, end) ends that is in the same piece as `first`. */
static __always_inline u64 end_in_piece(u64 first, u64 end)
{
	u64 next = (first | (PIECE - 1)) + 1;

	return next < end ? next : end;
}

/*
 * Iterates over the words of a piece that hold pages [first, end); `mask` has the bits of these pages.
 * Only the first and the last word differ from the others, so that the verifier has two paths for
 * each word. A comparison of `first` and `end` with each word's bounds would give it sixteen.
 */
#define FOR_EACH_WORD(word, mask, first, end)                                                      \
	for (u64 word = ((first) & (PIECE - 1)) / 64, last = (((end) - 1) & (PIECE - 1)) / 64,     \
		 from_here = ~0ULL << ((first) & 63), to_here = ~0ULL >> (-(end) & 63), n = 0,     \
		 mask = word == last ? from_here & to_here : from_here;                            \
	     n < PIECE / 64 && word <= last;                                                       \
	     n++, word++, mask = word == last ? to_here : ~0ULL)

/* Marks pages [first, end) of a file that are in one piece; whether there was room. */
__noinline int mark_piece(u64 mapping, u64 first, u64 end)
{
	struct cachestat_piece piece = {.mapping = mapping, .number = first >> PIECE_SHIFT};
	struct cachestat_marks *marks = map_lookup_or_init(&fresh, &piece, &no_marks);

	if (!marks)
		return 0;
	FOR_EACH_WORD(word, mask, first, end)
		marks->words[word & (PIECE / 64 - 1)] |= mask;
	return 1;
}

/* Takes their marks away; returns how many there were. */
__noinline u32 use_up_piece(u64 mapping, u64 first, u64 end)
{
	struct cachestat_piece piece = {.mapping = mapping, .number = first >> PIECE_SHIFT};
	struct cachestat_marks *marks = bpf_map_lookup_elem(&fresh, &piece);
	u32 used = 0;

	if (!marks)
		return 0;
	FOR_EACH_WORD(word, mask, first, end) {
		u64 *here = &marks->words[word & (PIECE / 64 - 1)], found = *here & mask;

		if (found) {
			*here &= ~found;
			used += __builtin_popcountll(found);
		}
	}
	return used;
}

/* Marks pages [first, end) of a file, at most a run of them. */
__noinline int mark_pages(u64 mapping, u64 first, u64 end)
{
	for (u32 n = 0; n < RUN_PIECES && first < end; n++) {
		u64 next = end_in_piece(first, end);

		if (!mark_piece(mapping, first, next))
			count_event(EVENT_MAP_FULL);
		first = next;
	}
	return 0;
}

/* Takes their marks away; returns how many there were. */
__noinline u32 use_up_pages(u64 mapping, u64 first, u64 end)
{
	u32 used = 0;

	for (u32 n = 0; n < RUN_PIECES && first < end; n++) {
		u64 next = end_in_piece(first, end);

		used += use_up_piece(mapping, first, next);
		first = next;
	}
	return used;
}

/* The same for as many as one system call can read. */
static __always_inline u64 use_up_read(u64 mapping, u64 first, u64 end)
{
	u64 used = 0;

	for (u32 n = 0; n < READ_RUNS && first < end; n++) {
		u64 next = end - first > RUN ? first + RUN : end;

		used += use_up_pages(mapping, first, next);
		first = next;
	}
	return used;
}

#endif /* __CACHESTAT_MARKS_BPF_H */
