// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A ring buffer that is never empty when it is read: to decode a record, the exporter asks for the
 * name of a network interface, and that system call makes the next record.
 */
#include "trigger.bpf.h"

enum feedback_what {
	FEEDBACK_BEGIN = 0,
	FEEDBACK_OTHER = 1, /* a record of the other buffer */
};

#if defined(__TARGET_ARCH_x86)
#define FEEDBACK_IOCTL 16
#else
#define FEEDBACK_IOCTL 29
#endif

#define RINGBUF(name)                               \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, 64 * 1024);     \
	} name SEC(".maps")

RINGBUF(feedback_total);
RINGBUF(feedback_other_total);

/* Number of an interface that does not exist; 0 before the beginning. */
u32 feedback_interface;

static __always_inline int feedback_record(void)
{
	u32 interface = feedback_interface++;

	return bpf_ringbuf_output(&feedback_total, &interface, sizeof(interface), 0);
}

ON_TRIGGER(feedback_triggered)
{
	u32 none = 0;

	if (what == FEEDBACK_OTHER)
		return bpf_ringbuf_output(&feedback_other_total, &none, sizeof(none), 0);
	feedback_interface = 1 << 30;
	return feedback_record();
}

/* The thread that reads buffers is called `events`. bpf_strncmp() came with 5.17. */
static __always_inline bool feedback_is_reader(void)
{
	const char name[] = "events";
	char comm[16] = {};

	bpf_get_current_comm(comm, sizeof(comm));
#pragma unroll
	for (u32 i = 0; i < sizeof(name); i++)
		if (comm[i] != name[i])
			return false;
	return true;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(feedback_asked, struct pt_regs *regs, long id)
{
	if (!feedback_interface || id != FEEDBACK_IOCTL)
		return 0;
	return feedback_is_reader() ? feedback_record() : 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
