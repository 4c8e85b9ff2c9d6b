/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __HIST_BPF_H
#define __HIST_BPF_H

/*
 * Histograms with eight sub-buckets per octave: the bounds of a Prometheus
 * native histogram of schema 3, le = 2^(k/8) in the metric's unit, upper bound
 * inclusive. Slot k counts 2^((k-1)/8) < v <= 2^(k/8); slot 0 takes all that is
 * no greater than the smallest bound, the last slot all that is greater than
 * the greatest. Every eighth bound is a power of two, so that classic buckets
 * are exact sums of slots.
 *
 * Plain C on purpose: crates/common/tests/hist_header.rs compiles this file for
 * the build host and compares every boundary with exact big-integer arithmetic.
 */

#define HIST_OCTAVES 24
#define HIST_SLOTS (HIST_OCTAVES * 8 + 2)

struct hist {
	u64 slots[HIST_SLOTS];
	u64 sum; /* nanoseconds, exact */
};

/*
 * Bounds are not powers of two in nanoseconds. But in every octave of the nanosecond value they are
 * at the same eight mantissas. These are the mantissas, as floor(2^62 * 2^f). The 63-bit mantissa
 * of a value is exact, so an integer comparison is exact too.
 */
static const u64 hist_mantissa_us[8] = {
	0x44281fac498647ee, 0x4a535057d2332abb, 0x510d6ed0db94a8ca, 0x58636ac061019714,
	0x60635f8a768458de, 0x691caf6f0acadd39, 0x72a0211f36faafeb, 0x7d00000000000000,
};
static const u64 hist_mantissa_s[8] = {
	0x40ffd3d4aa4e5371, 0x46e1dc4b00b253ec, 0x4d4c3382a6a891c8, 0x544b2fba5f832838,
	0x5bec4509686ecf50, 0x643e1f3e81e6df61, 0x6d50be1668caaaed, 0x7735940000000000,
};

/*
 * The smallest bound, 1 us or 2^-20 s, is the last of the eight in octave 2^9 ns. For long
 * durations (hours) the smallest is 2^-10 s, ten octaves above.
 */
#define HIST_FIRST_BOUND (9 * 8 + 7)
#define HIST_FIRST_LONG_BOUND (HIST_FIRST_BOUND + 10 * 8)

/*
 * 1 if v > limit, for values below 2^63. The compiler makes a jump of a comparison: five of them
 * are 32 paths through all that follows, which the verifier takes one by one.
 */
static __always_inline u64 hist_exceeds(u64 v, u64 limit)
{
	asm volatile("" : "+r"(v));
	return (limit - v) >> 63;
}

/* floor(log2(v)), 0 for 0. clang 14 hangs on __builtin_clzll for this target. */
static __always_inline u32 hist_log2(u64 v)
{
	u64 r = hist_exceeds(v >> 32, 0) << 5, s;

	v >>= r;
	s = hist_exceeds(v, 0xffff) << 4;
	v >>= s;
	r |= s;
	s = hist_exceeds(v, 0xff) << 3;
	v >>= s;
	r |= s;
	s = hist_exceeds(v, 0xf) << 2;
	v >>= s;
	r |= s;
	s = hist_exceeds(v, 0x3) << 1;
	v >>= s;
	r |= s;
	return r | v >> 1;
}

static __always_inline u64 hist_slot(u64 ns, const u64 *mantissa, s64 first_bound)
{
	u32 octave = hist_log2(ns);
	/* Octave 63 loses its lowest bit here; it lies far above the last bound. */
	u64 m = octave < 63 ? ns << (62 - octave) : ns >> 1;
	s64 below = (s64)octave * 8 - first_bound;

	/* Each term is 1 where the bound is smaller than the value. */
	below += (mantissa[0] - m) >> 63;
	below += (mantissa[1] - m) >> 63;
	below += (mantissa[2] - m) >> 63;
	below += (mantissa[3] - m) >> 63;
	below += (mantissa[4] - m) >> 63;
	below += (mantissa[5] - m) >> 63;
	below += (mantissa[6] - m) >> 63;
	below += (mantissa[7] - m) >> 63;

	if (below < 0)
		return 0;
	if (below >= HIST_SLOTS)
		return HIST_SLOTS - 1;
	return below;
}

static __always_inline u64 hist_slot_us(u64 ns)
{
	return hist_slot(ns, hist_mantissa_us, HIST_FIRST_BOUND);
}

static __always_inline u64 hist_slot_s(u64 ns)
{
	return hist_slot(ns, hist_mantissa_s, HIST_FIRST_BOUND);
}

static __always_inline u64 hist_slot_long_s(u64 ns)
{
	return hist_slot(ns, hist_mantissa_s, HIST_FIRST_LONG_BOUND);
}

/*
 * Atomic although the value is per CPU: before 6.x a completion interrupt may run the same program
 * nested, and a plain add would lose one.
 */
static __always_inline void hist_add(struct hist *h, u64 slot, u64 ns)
{
	/* Never true. Tells the verifier the range after the compiler dropped it. */
	asm volatile("" : "+r"(slot));
	if (slot >= HIST_SLOTS)
		return;
	__sync_fetch_and_add(&h->slots[slot], 1);
	__sync_fetch_and_add(&h->sum, ns);
}

/* A value of 0. Adding 0 to the sum would become an atomic that 5.10 does not have. */
static __always_inline void hist_observe_nothing(struct hist *h)
{
	__sync_fetch_and_add(&h->slots[0], 1);
}

static __always_inline void hist_observe_us(struct hist *h, u64 ns)
{
	hist_add(h, hist_slot_us(ns), ns);
}

static __always_inline void hist_observe_s(struct hist *h, u64 ns)
{
	hist_add(h, hist_slot_s(ns), ns);
}

static __always_inline void hist_observe_long_s(struct hist *h, u64 ns)
{
	hist_add(h, hist_slot_long_s(ns), ns);
}

#endif /* __HIST_BPF_H */
