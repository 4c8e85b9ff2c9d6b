/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __REGS_IP_BPF_H
#define __REGS_IP_BPF_H

/*
 * The address of a kprobe from its instruction pointer. On x86 the pointer is past the breakpoint,
 * which has the size of kprobe_opcode_t, one byte.
 */
#if defined(__TARGET_ARCH_x86)
#define KPROBE_REGS_IP_FIX(ip) ((ip) - sizeof(u8))
#else
#define KPROBE_REGS_IP_FIX(ip) (ip)
#endif

#endif /* __REGS_IP_BPF_H */
