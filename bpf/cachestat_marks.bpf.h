/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __CACHESTAT_MARKS_BPF_H
#define __CACHESTAT_MARKS_BPF_H

/*
 * Marks on pages of files: one bit per page, one entry per 2 MiB of a file.
 *
 * A mark may outlive its page. That does no harm: the page that replaces it is marked anyway. Two
 * CPUs that change marks of the same 64 pages within the same nanoseconds may lose one.
 *
 * Functions that are not static are verified on their own, once per program. A loop around a call
 * of one costs the verifier only the call; a read of 2 GiB needs three nested loops. Their
 * arguments are numbers, so an address_space is passed as one.
 */
#include "events.bpf.h"
#include "maps.bpf.h"

#define PAGE_SHIFT 12

/* Pages per entry. */
#define PIECE_SHIFT 9
#define PIECE (1 << PIECE_SHIFT)

/*
 * Most pages for use_up_pages() and mark_pages(): 64 MiB, more than the largest folio on x86.
 */
#define RUN (1ULL << 14)
#define RUN_PIECES (RUN / PIECE + 1)

/* Runs in the longest read, of MAX_RW_COUNT bytes. */
#define READ_RUNS ((1ULL << 31 >> PAGE_SHIFT) / RUN + 1)

struct cachestat_piece {
	u64 mapping; /* struct address_space * */
	u64 number;
};

struct cachestat_marks {
	u64 words[PIECE / 64];
};

/* LRU: the entries evicted are readahead that nobody used, oldest first. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct cachestat_piece);
	__type(value, struct cachestat_marks);
} fresh SEC(".maps");

const struct cachestat_marks no_marks = {};

/* The end of the part of pages [first, end) that is in the same piece as `first`. */
static __always_inline u64 end_in_piece(u64 first, u64 end)
{
	u64 next = (first | (PIECE - 1)) + 1;

	return next < end ? next : end;
}

/* The word of a piece that has the bit of a page. */
static __always_inline u32 word_of(u64 page)
{
	return page / 64 % (PIECE / 64);
}

/*
 * Bits of pages [first, end) of a piece in one of the words from the first page's to the last
 * page's. Only these two words differ from the others. A comparison of `first` and `end` with the
 * bounds of each word would make sixteen paths for the verifier, for each word.
 */
static __always_inline u64 bits(u32 word, u64 first, u64 end)
{
	u64 mask = ~0ULL;

	if (word == word_of(first))
		mask <<= first & 63;
	if (word == word_of(end - 1))
		mask &= ~0ULL >> (-end & 63);
	return mask;
}

/* Mark pages [first, end), all in one piece of a file; returns 0 if there was no room. */
__noinline int mark_piece(u64 mapping, u64 first, u64 end)
{
	struct cachestat_piece piece = {.mapping = mapping, .number = first >> PIECE_SHIFT};
	struct cachestat_marks *marks = map_lookup_or_init(&fresh, &piece, &no_marks);
	u32 word = word_of(first), last = word_of(end - 1);

	if (!marks)
		return 0;
	for (u32 n = 0; n < PIECE / 64 && word <= last; n++, word++)
		marks->words[word % (PIECE / 64)] |= bits(word, first, end);
	return 1;
}

/* Remove the marks of pages [first, end) in one piece; returns how many there were. */
__noinline u32 use_up_piece(u64 mapping, u64 first, u64 end)
{
	struct cachestat_piece piece = {.mapping = mapping, .number = first >> PIECE_SHIFT};
	struct cachestat_marks *marks = bpf_map_lookup_elem(&fresh, &piece);
	u32 word = word_of(first), last = word_of(end - 1), used = 0;

	if (!marks)
		return 0;
	for (u32 n = 0; n < PIECE / 64 && word <= last; n++, word++) {
		u64 *marked = &marks->words[word % (PIECE / 64)];
		u64 mask = *marked & bits(word, first, end);

		if (mask) {
			*marked &= ~mask;
			used += __builtin_popcountll(mask);
		}
	}
	return used;
}

/* Mark pages [first, end) of a file, at most one run. */
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

/* Remove the marks of pages [first, end), at most one run; returns how many there were. */
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

/* The same for as many pages as one syscall can read. */
__noinline u64 use_up_read(u64 mapping, u64 first, u64 end)
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
