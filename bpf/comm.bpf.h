/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __COMM_BPF_H
#define __COMM_BPF_H

/*
 * The name of a process as part of a key. Includes nothing on purpose:
 * crates/common/tests/comm_header.rs compiles this file for the build host. FIELD() comes from
 * core_fixes.bpf.h.
 */

#define COMM_LEN 16 /* TASK_COMM_LEN */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte is a word's lowest");

/* The bits of `word` below its first zero byte; all bits if there is none. */
static __always_inline u64 bits_until_nul(u64 word)
{
	/* The lowest set bit is the highest bit of that byte. */
	u64 nul = (word - 0x0101010101010101ULL) & ~word & 0x8080808080808080ULL;

	return ((nul & -nul) >> 7) - 1;
}

/*
 * Clear the bytes after the NUL. The strlcpy() of __set_task_comm in 5.10 leaves the rest of a
 * longer name there, and the same name would make several keys.
 */
static __always_inline void comm_clear_rest(u64 comm[2])
{
	u64 first = bits_until_nul(comm[0]);

	comm[0] &= first;
	comm[1] &= bits_until_nul(comm[1]) & (u64)((s64)first >> 63);
}

/* The name of the process to which thread `task` belongs. */
static __always_inline void read_comm(char comm[COMM_LEN], struct task_struct *task, bool btf)
{
	struct task_struct *leader = FIELD(btf, task, group_leader);
	u64 words[2] = {};
	u64 *to = (u64 *)comm;

	if (btf) {
		const u64 *from = (const u64 *)&leader->comm;

		words[0] = from[0];
		words[1] = from[1];
	} else {
		bpf_probe_read_kernel(words, sizeof(words), leader->comm);
	}
	comm_clear_rest(words);
	to[0] = words[0];
	to[1] = words[1];
}

#endif /* __COMM_BPF_H */
