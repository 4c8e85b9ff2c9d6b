/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef __WIREGUARD_CALLS_BPF_H
#define __WIREGUARD_CALLS_BPF_H

/*
 * Programs at the entry or exit of a function of the module, for both kinds of hook, and the state
 * kept in between.
 *
 * State between entry and exit is not per CPU, because the exit may run on another CPU. It is per
 * thread; for the idle threads, which all have id 0, it is per CPU: only softirqs run there, and
 * these do not migrate.
 */
#include "events.bpf.h"
#include "task_slots.bpf.h"

/* Functions whose arguments are kept until they return. */
enum wireguard_call {
	CALL_CREATE_RESPONSE,
	CALL_CONSUME_INITIATION,
	CALL_CREATE_INITIATION,
	CALL_CONSUME_RESPONSE,
	CALL_VALIDATE,
	CALL_BEGIN_SESSION,
	CALL_POLL,
	CALL_DECRYPT,
	CALL_LOOKUP_SOURCE,
	CALL_LOOKUP_INDEX,
	CALL_XMIT,
	CALL_LOOKUP_TARGET,
	CALL_ENQUEUE,
	CALL_DESTRUCT,
};

/* Arguments kept for the exit: only for kretprobes, which do not get them. */
struct wireguard_frame {
	u32 tid;
	u32 call; /* enum wireguard_call */
};

struct wireguard_arguments {
	u64 first;
	u64 second;
	u64 third;
	u64 state; /* enum wireguard_kept */
};

/*
 * A call that starts while the thread's last call of the same function has not ended. The arguments
 * of that call are lost. Its exit either still comes, because the new call interrupts it, or never,
 * because the kernel skipped it. The loss is counted now, and not again at that exit.
 */
enum wireguard_kept {
	KEPT,
	KEPT_OVER, /* replaced the arguments of such a call */
	LOST,	   /* lost arguments; the call may still end */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct wireguard_frame);
	__type(value, struct wireguard_arguments);
} frames SEC(".maps");

struct wireguard_task {
	struct task_slot slot;
	u64 is_keepalive; /* whether it sends a keepalive */
	u64 sends;	  /* the peer that it sends to; 0: none */
	u64 message;	  /* the struct sk_buff * that it sends */
	u64 depth;	  /* nested calls since the one for its message; kprobes only */
	u64 dropped;	  /* whether the host dropped it below the tunnel */
	u64 receives;	  /* the device whose datagram it handles */
	u64 queues;	  /* the same, if that is a handshake message and not yet queued */
	u64 accepts;	  /* the peer whose packet it accepted last */
};
TASK_SLOTS(tasks, struct wireguard_task);

static __always_inline u32 task_id(void)
{
	u32 tid = current_tid();

	return tid ? tid : ~bpf_get_smp_processor_id();
}

static __always_inline struct wireguard_task *task(bool begins)
{
	u32 tid = task_id();

	return begins ? tasks_take(tid, tid) : tasks_find(tid, tid);
}

static __always_inline int keep(enum wireguard_call call, u64 first, u64 second, u64 third)
{
	struct wireguard_frame key = {.tid = task_id(), .call = call};
	struct wireguard_arguments a = {.first = first, .second = second, .third = third};
	struct wireguard_arguments *kept = bpf_map_lookup_elem(&frames, &key);

	if (kept && kept->state != LOST) {
		count_event(EVENT_NO_START);
		a.state = KEPT_OVER;
	}
	if (bpf_map_update_elem(&frames, &key, &a, BPF_ANY))
		count_event(EVENT_MAP_FULL);
	return 0;
}

static __always_inline bool take(enum wireguard_call call, struct wireguard_arguments *a)
{
	struct wireguard_frame key = {.tid = task_id(), .call = call};
	struct wireguard_arguments *kept = bpf_map_lookup_elem(&frames, &key);

	if (!kept) {
		count_event(EVENT_NO_START);
		return false;
	}
	*a = *kept;
	if (a->state == KEPT_OVER)
		kept->state = LOST;
	else
		bpf_map_delete_elem(&frames, &key);
	return a->state != LOST;
}

/* Programs at a function's entry, by either kind of hook. */
#define ON_ENTRY_OF(function, name, handler)     \
	SEC("fentry/wireguard:" #function)       \
	int name##_fentry(u64 *ctx)              \
	{                                        \
		return handler(ctx[0]);          \
	}                                        \
	SEC("kprobe/" #function)                 \
	int BPF_KPROBE(name##_kprobe, u64 first) \
	{                                        \
		return handler(first);           \
	}

#define ON_ENTRY_OF_2(function, name, handler)               \
	SEC("fentry/wireguard:" #function)                   \
	int name##_fentry(u64 *ctx)                          \
	{                                                    \
		return handler(ctx[0], ctx[1]);              \
	}                                                    \
	SEC("kprobe/" #function)                             \
	int BPF_KPROBE(name##_kprobe, u64 first, u64 second) \
	{                                                    \
		return handler(first, second);               \
	}

/* Programs at the exit of a function of `count` arguments, two of which matter. */
#define ON_EXIT_OF(function, name, count, call, handler)                        \
	SEC("fexit/wireguard:" #function)                                       \
	int name##_fexit(u64 *ctx)                                              \
	{                                                                       \
		return handler(ctx[0], ctx[1], ctx[count]);                     \
	}                                                                       \
	SEC("kprobe/" #function)                                                \
	int BPF_KPROBE(name##_kprobe, u64 first, u64 second, u64 third)         \
	{                                                                       \
		return keep(call, first, second, third);                        \
	}                                                                       \
	SEC("kretprobe/" #function)                                             \
	int BPF_KRETPROBE(name##_kretprobe, u64 result)                         \
	{                                                                       \
		struct wireguard_arguments a = {};                              \
		return take(call, &a) ? handler(a.first, a.second, result) : 0; \
	}

/* As ON_EXIT_OF, with three arguments that matter. */
#define ON_EXIT_OF_3(function, name, count, call, handler)                               \
	SEC("fexit/wireguard:" #function)                                                \
	int name##_fexit(u64 *ctx)                                                       \
	{                                                                                \
		return handler(ctx[0], ctx[1], ctx[2], ctx[count]);                      \
	}                                                                                \
	SEC("kprobe/" #function)                                                         \
	int BPF_KPROBE(name##_kprobe, u64 first, u64 second, u64 third)                  \
	{                                                                                \
		return keep(call, first, second, third);                                 \
	}                                                                                \
	SEC("kretprobe/" #function)                                                      \
	int BPF_KRETPROBE(name##_kretprobe, u64 result)                                  \
	{                                                                                \
		struct wireguard_arguments a = {};                                       \
		return take(call, &a) ? handler(a.first, a.second, a.third, result) : 0; \
	}

#endif /* __WIREGUARD_CALLS_BPF_H */
