/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __BITS_BPF_H
#define __BITS_BPF_H

/*
 * Logarithms for programs. Include vmlinux.h before, for u32 and u64.
 *
 * Shifts and comparisons only: clang 14 hangs on __builtin_clzll for the bpf target.
 */

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

/* The compiler knows a function of floating point named log2. */
#define log2 bits_log2
#define log2l bits_log2l

/* floor(log2(v)), 0 for 0. */
static __always_inline __attribute__((unused)) u64 log2(u32 v)
{
	u32 shift, r;

	r = (v > 0xffff) << 4;
	v >>= r;
	shift = (v > 0xff) << 3;
	v >>= shift;
	r |= shift;
	shift = (v > 0xf) << 2;
	v >>= shift;
	r |= shift;
	shift = (v > 0x3) << 1;
	v >>= shift;
	r |= shift;
	return r | (v >> 1);
}

/* floor(log2(v)), 0 for 0. */
static __always_inline __attribute__((unused)) u64 log2l(u64 v)
{
	u32 high = v >> 32;

	return high ? log2(high) + 32 : log2(v);
}

#endif /* __BITS_BPF_H */
