// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How many TCP segments are retransmitted, and how long is a round trip?
 *
 * Hooks: tracepoints inet_sock_set_state, tcp_retransmit_skb, tcp_retransmit_synack and
 * tcp_receive_reset (tp_btf or raw_tp). Functions: __tcp_retransmit_skb and tcp_retransmit_skb if
 * the tracepoint has no error argument and so does not report failed sends; tcp_connect;
 * tcp_send_reset if that tracepoint reports all resets (6.10), or the three functions that send
 * them; tcp_conn_request and tcp_v{4,6}_syn_recv_sock for the listen queue. Functions by fentry and
 * fexit, or by kprobe and kretprobe. All network namespaces of the host at once.
 * Cost: a hash insert and delete for each connection; nothing for each packet.
 * Not seen: round-trip times of connections that are still open; resets that a firewall sends (they
 * belong to no TCP socket).
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "core_fixes.bpf.h"
#include "tcp_counts.bpf.h"
#include "tcp_listen.bpf.h"

/* (sk, old, new) */
SEC("tp_btf/inet_sock_set_state")
int state_btf(u64 *ctx)
{
	return on_state((const struct sock *)ctx[0], ctx[1], ctx[2], true);
}

SEC("raw_tp/inet_sock_set_state")
int state_raw(u64 *ctx)
{
	return on_state((const struct sock *)ctx[0], ctx[1], ctx[2], false);
}

/* (sk, skb), and an error if there is a third argument. */
SEC("tp_btf/tcp_retransmit_skb")
int retransmit_btf(u64 *ctx)
{
	if (tcp_retransmit_error && (int)ctx[2])
		return 0;
	return on_retransmit((const struct sock *)ctx[0], (const struct sk_buff *)ctx[1]);
}

SEC("raw_tp/tcp_retransmit_skb")
int retransmit_raw(u64 *ctx)
{
	if (tcp_retransmit_error && (int)ctx[2])
		return 0;
	return on_retransmit((const struct sock *)ctx[0], (const struct sk_buff *)ctx[1]);
}

/* With the error argument the tracepoint also reports failed sends. */
SEC("tp_btf/tcp_retransmit_skb")
int unsent_btf(u64 *ctx)
{
	if (!(int)ctx[2])
		return 0;
	return on_unsent((const struct sock *)ctx[0], (const struct sk_buff *)ctx[1], ctx[2]);
}

SEC("raw_tp/tcp_retransmit_skb")
int unsent_raw(u64 *ctx)
{
	if (!(int)ctx[2])
		return 0;
	return on_unsent((const struct sock *)ctx[0], (const struct sk_buff *)ctx[1], ctx[2]);
}

static __always_inline int on_retransmit_exit(u64 *ctx)
{
	if (!(int)ctx[3])
		return 0;
	return on_unsent((const struct sock *)ctx[0], (const struct sk_buff *)ctx[1], ctx[3]);
}

/* (sk, skb, segs), and the error. Compilers inline the first function into the second. */
SEC("fexit/__tcp_retransmit_skb")
int unsent_inner_fexit(u64 *ctx)
{
	return on_retransmit_exit(ctx);
}

SEC("fexit/tcp_retransmit_skb")
int unsent_outer_fexit(u64 *ctx)
{
	return on_retransmit_exit(ctx);
}

/* A kretprobe does not get the socket, so a failure is counted at the next retransmit. */
SEC("kprobe/__tcp_retransmit_skb")
int BPF_KPROBE(unsent_inner_kprobe, const struct sock *sk)
{
	return on_next_retransmit(sk);
}

SEC("kprobe/tcp_retransmit_skb")
int BPF_KPROBE(unsent_outer_kprobe, const struct sock *sk)
{
	return on_next_retransmit(sk);
}

/* (sk, req) */
SEC("tp_btf/tcp_retransmit_synack")
int synack_btf(u64 *ctx)
{
	return on_retransmit_synack((const struct request_sock *)ctx[1]);
}

SEC("raw_tp/tcp_retransmit_synack")
int synack_raw(u64 *ctx)
{
	return on_retransmit_synack((const struct request_sock *)ctx[1]);
}

SEC("tp_btf/tcp_receive_reset")
int receive_reset_btf(u64 *ctx)
{
	return on_receive_reset();
}

SEC("raw_tp/tcp_receive_reset")
int receive_reset_raw(u64 *ctx)
{
	return on_receive_reset();
}

SEC("fentry/tcp_connect")
int connect_fentry(u64 *ctx)
{
	return on_connect((const struct sock *)ctx[0]);
}

SEC("fexit/tcp_connect")
int connect_fexit(u64 *ctx)
{
	return on_connect_exit((const struct sock *)ctx[0], ctx[1]);
}

SEC("kprobe/tcp_connect")
int BPF_KPROBE(connect_kprobe, const struct sock *sk)
{
	return on_connect_kprobe(sk);
}

SEC("kretprobe/tcp_connect")
int BPF_KRETPROBE(connect_kretprobe, int result)
{
	return on_connect_kretprobe(result);
}

/*
 * If functions cannot be hooked. What was sent is known when the connection is established or has
 * failed, and counts then.
 */
SEC("tp_btf/inet_sock_set_state")
int connect_state_btf(u64 *ctx)
{
	const struct sock *sk = (const struct sock *)ctx[0];

	if (ctx[1] == TCP_SYN_SENT && sk->sk_protocol == IPPROTO_TCP && has_sent(sk))
		add(&opens, 0, 1);
	return 0;
}

/*
 * With a third argument, the reason, this tracepoint reports all resets (seen in 6.12). Without
 * it, it reports only those of a full socket (5.10, 6.1: half of them).
 */
SEC("tp_btf/tcp_send_reset")
int send_reset_btf(u64 *ctx)
{
	add(&resets_sent, 0, 1);
	return 0;
}

SEC("raw_tp/tcp_send_reset")
int send_reset_raw(u64 *ctx)
{
	add(&resets_sent, 0, 1);
	return 0;
}

/* (sk, skb, ...) */
SEC("fentry/tcp_v4_send_reset")
int reset_v4_fentry(u64 *ctx)
{
	return on_reply_reset((const struct sk_buff *)ctx[1]);
}

SEC("fentry/tcp_v6_send_reset")
int reset_v6_fentry(u64 *ctx)
{
	return on_reply_reset((const struct sk_buff *)ctx[1]);
}

SEC("fentry/tcp_send_active_reset")
int reset_active_fentry(u64 *ctx)
{
	add(&resets_sent, 0, 1);
	return 0;
}

SEC("kprobe/tcp_v4_send_reset")
int BPF_KPROBE(reset_v4_kprobe, void *sk, const struct sk_buff *skb)
{
	return on_reply_reset(skb);
}

SEC("kprobe/tcp_v6_send_reset")
int BPF_KPROBE(reset_v6_kprobe, void *sk, const struct sk_buff *skb)
{
	return on_reply_reset(skb);
}

SEC("kprobe/tcp_send_active_reset")
int BPF_KPROBE(reset_active_kprobe)
{
	add(&resets_sent, 0, 1);
	return 0;
}

/* (rsk_ops, af_ops, sk, skb): a SYN for a listener. */
SEC("fentry/tcp_conn_request")
int syn_fentry(u64 *ctx)
{
	return on_arrival((const struct sock *)ctx[2], ctx[3]);
}

SEC("fexit/tcp_conn_request")
int syn_fexit(u64 *ctx)
{
	return on_arrival_exit(ctx[3]);
}

SEC("kprobe/tcp_conn_request")
int BPF_KPROBE(syn_kprobe, void *rsk_ops, void *af_ops, const struct sock *sk)
{
	return on_arrival(sk, 0);
}

SEC("kretprobe/tcp_conn_request")
int syn_kretprobe(void *ctx)
{
	return on_arrival_exit(0);
}

/* (sk, skb, ...): the end of a handshake. Some have seven arguments; old kernels refuse fentry. */
SEC("fentry/tcp_v4_syn_recv_sock")
int ack_v4_fentry(u64 *ctx)
{
	return on_arrival((const struct sock *)ctx[0], ctx[1]);
}

SEC("fexit/tcp_v4_syn_recv_sock")
int ack_v4_fexit(u64 *ctx)
{
	return on_arrival_exit(ctx[1]);
}

SEC("fentry/tcp_v6_syn_recv_sock")
int ack_v6_fentry(u64 *ctx)
{
	if (is_left_to_ipv4((const struct sk_buff *)ctx[1]))
		return 0;
	return on_arrival((const struct sock *)ctx[0], ctx[1]);
}

SEC("fexit/tcp_v6_syn_recv_sock")
int ack_v6_fexit(u64 *ctx)
{
	return on_arrival_exit(ctx[1]);
}

SEC("kprobe/tcp_v4_syn_recv_sock")
int BPF_KPROBE(ack_v4_kprobe, const struct sock *sk)
{
	return on_arrival(sk, 0);
}

SEC("kretprobe/tcp_v4_syn_recv_sock")
int ack_v4_kretprobe(void *ctx)
{
	return on_arrival_exit(0);
}

SEC("kprobe/tcp_v6_syn_recv_sock")
int BPF_KPROBE(ack_v6_kprobe, const struct sock *sk, const struct sk_buff *skb)
{
	if (is_left_to_ipv4(skb))
		return 0;
	return on_arrival(sk, 0);
}

SEC("kretprobe/tcp_v6_syn_recv_sock")
int ack_v6_kretprobe(void *ctx)
{
	return on_arrival_exit(0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
