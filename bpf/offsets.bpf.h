/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __OFFSETS_BPF_H
#define __OFFSETS_BPF_H

/*
 * Offsets of members of a module's structs. Userland sets them before loading: from the module's
 * BTF, or from a table if it has none (crates/common/src/kernel/offsets.rs).
 *
 *	MEMBER(zio, io_type);
 *	...
 *	u32 type = 0;
 *	READ_MEMBER(type, zio, zio, io_type);
 */
#define NO_OFFSET 0xffffffff

#define MEMBER(type, member) const volatile u32 offset__##type##__##member = 0

#define OFFSET_OF(type, member) ((u64)offset__##type##__##member)

#define HAS_MEMBER(type, member) (offset__##type##__##member != NO_OFFSET)

/* Read sizeof(to) bytes; `to` is set to zero if the pointer is invalid. */
#define READ_MEMBER(to, pointer, type, member)   \
	bpf_probe_read_kernel(&(to), sizeof(to), \
			      (const void *)((u64)(pointer) + OFFSET_OF(type, member)))

#endif /* __OFFSETS_BPF_H */
