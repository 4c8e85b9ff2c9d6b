/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __COMM_BPF_H
#define __COMM_BPF_H

/*
 * A process's name as part of a key. Includes nothing on purpose:
 * crates/common/tests/comm_header.rs compiles this file for the build host. FIELD() is
 * core_fixes.bpf.h's.
 */

#define COMM_LEN 16 /* TASK_COMM_LEN */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte is a word's lowest");

/* The bits of `word` below its first byte that is 0: all, where there is none. */
static __always_inline u64 bits_until_nul(u64 word)
{
	/* The lowest bit that is set here is the highest of that byte. */
	u64 nul = (word - 0x0101010101010101ULL) & ~word & 0x8080808080808080ULL;

	return ((nul & -nul) >> 7) - 1;
}

/*
 * Clears what is behind the NUL. The strlcpy() of __set_task_comm in 5.10 leaves there what remains
 * of a longer name, which would make several keys of one name.
 */
static __always_inline void comm_clear_rest(u64 comm[2])
{
	u64 first = bits_until_nul(comm[0]);

	comm[0] &= first;
	comm[1] &= bits_until_nul(comm[1]) & (u64)((s64)first >> 63);
}

/* The name of the process that `task` is a thread of. */
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
