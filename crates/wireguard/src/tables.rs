// SPDX-License-Identifier: MIT OR Apache-2.0
//! Probes and metrics of each level of detail.

use common::exposition::hist::Unit;
use common::spec::MapSpec;

use crate::difference::Difference;

/// Function, programs, and the counters that they feed, for each handshake or batch of packets.
pub type Row = (&'static str, &'static [&'static str], &'static [&'static str]);

/// Counters of interfaces and their peers. Without the probes that identify them, a moved interface
/// would be shown at its old place, and the numbers of a removed one would go to its successor.
const WHOSE: &[&str] = &["peers", "packets", "devices", "traffic"];

#[rustfmt::skip]
pub const SESSION: &[Row] = &[
    ("wg_open", &["opened_fentry", "opened_kprobe"], WHOSE),
    ("wg_stop", &["stopped_fentry", "stopped_kprobe"], &[]),
    ("wg_destruct", &["destruct_fentry+destroyed_fentry", "destruct_kprobe+destroyed_kprobe"], WHOSE),
    ("wg_noise_handshake_create_initiation", &["initiated_fexit", "initiated_kprobe+initiated_kretprobe"], &["peers.attempts", "devices.latency"]),
    ("wg_timers_handshake_complete", &["complete_fentry", "complete_kprobe"], &["peers.completed"]),
    ("wg_expired_retransmit_handshake", &["no_answer_fentry", "no_answer_kprobe"], &["peers.no_answer", "peers.gave_up"]),
    ("wg_expired_zero_key_material", &["key_gone_fentry", "key_gone_kprobe"], &[]),
    ("wg_noise_handshake_create_response", &["create_response_fexit", "create_response_kprobe+create_response_kretprobe"], &["peers.responses_sent"]),
    ("wg_noise_handshake_consume_response", &["consume_response_fexit", "consume_response_kprobe+consume_response_kretprobe"], &["peers.responses_received", "devices.latency", "devices.bad_responses"]),
    ("wg_noise_handshake_consume_initiation", &["consume_initiation_fexit", "consume_initiation_kprobe+consume_initiation_kretprobe"], &["devices.bad_initiations"]),
    ("wg_cookie_validate_packet", &["validate_fexit", "validate_kprobe+validate_kretprobe"], &["devices.bad_mac", "devices.cookie_required", "devices.rate_limited"]),
    ("wg_noise_handshake_begin_session", &["begin_session_fexit", "begin_session_kprobe+begin_session_kretprobe"], &["peers.rotations"]),
    ("wg_packet_purge_staged_packets", &["purge_fentry", "purge_kprobe"], &["peers.purged"]),
    ("peer_remove_after_dead", &["removed_fentry", "removed_kprobe"], &[]),
    ("wg_packet_rx_poll", &["poll_fexit", "poll_kprobe+poll_kretprobe"], &["peers.roamed"]),
];

/// The same for each packet.
#[rustfmt::skip]
pub const PACKET: &[Row] = &[
    ("wg_packet_receive", &["receive_fentry+received_fexit", "receive_kprobe+received_kretprobe"], &["traffic.entered", "traffic.malformed", "traffic.no_session", "traffic.queue_full"]),
    ("queue_work_on", &["queue_work_fentry", "queue_work_kprobe"], &["traffic.queue_full"]),
    ("wg_index_hashtable_lookup", &["lookup_index_fexit", "lookup_index_kprobe+lookup_index_kretprobe"], &["traffic.no_session"]),
    ("decrypt_packet", &["decrypt_fexit", "decrypt_kprobe+decrypt_kretprobe"], &["packets.decrypted", "packets.undecrypted"]),
    ("wg_noise_received_with_keypair", &["accepted_fentry", "accepted_kprobe"], &["packets.delivered", "packets.denied"]),
    ("wg_timers_any_authenticated_packet_received", &["authenticated_fentry", "authenticated_kprobe"], &["packets.received"]),
    ("wg_timers_data_received", &["data_fentry", "data_kprobe"], &[]),
    ("wg_allowedips_lookup_src", &["lookup_source_fexit", "lookup_source_kprobe+lookup_source_kretprobe"], &["packets.delivered", "packets.denied"]),
    ("wg_xmit", &["xmit_fexit", "xmit_kprobe+xmit_kretprobe"], &["traffic.no_peer", "traffic.unsupported"]),
    ("wg_allowedips_lookup_dst", &["lookup_target_fexit", "lookup_target_kprobe+lookup_target_kretprobe"], &["packets.no_endpoint", "packets.overflowed"]),
    ("wg_socket_send_skb_to_peer", &["send_fentry+send_fexit", "send_kprobe+send_kretprobe"], &["packets.sent", "packets.sent_keepalives", "packets.not_sent"]),
    ("ip_local_out", &["local_out_fexit", "local_out_kprobe+local_out_kretprobe"], &["packets.sent", "packets.sent_keepalives", "packets.not_sent"]),
    ("ip6_local_out", &["local_out6_fexit", "local_out6_kprobe+local_out6_kretprobe"], &["packets.sent", "packets.sent_keepalives", "packets.not_sent"]),
    ("wg_prev_queue_enqueue", &["enqueue_fexit", "enqueue_kprobe+enqueue_kretprobe"], &["packets.rx_full", "packets.tx_full"]),
];

const KEEPALIVES: &str = "ebpf_wireguard_keepalives_total";
const KEEPALIVES_HELP: &str = "Keepalives received from (rx) or sent to (tx) a peer: data messages without \
                               payload.";
const DROPS: &str = "ebpf_wireguard_drops_total";
const DROPS_HELP: &str =
    "Packets and messages dropped on this host, by reason. Drops that belong to no peer have no label peer.";
const FAILURES: &str = "ebpf_wireguard_handshake_failure_total";
const FAILURES_HELP: &str = "Failed handshakes, by reason. no_answer: no response to an initiation within \
                             5 s; gave_up: none to any of 20 initiations. Without a label peer: handshake \
                             messages that this host rejected.";

/// Probes that identify the owner of the numbers.
pub const IDENTITY: &[&str] = &["wg_open", "wg_destruct"];

/// Difference counters, and the probes that they need.
pub const DIFFERENCES: &[(Difference, &[&str])] = &[
    (
        Difference {
            name: KEEPALIVES,
            help: KEEPALIVES_HELP,
            labels: &[("direction", "rx")],
            whole: "accepted",
            parts: &["filled"],
        },
        &["wg_noise_received_with_keypair", "wg_timers_data_received"],
    ),
    (
        Difference {
            name: DROPS,
            help: DROPS_HELP,
            labels: &[("direction", "rx"), ("reason", "replayed")],
            whole: "polled",
            parts: &["undecrypted", "accepted"],
        },
        &["wg_packet_rx_poll", "decrypt_packet", "wg_noise_received_with_keypair"],
    ),
    (
        Difference {
            name: DROPS,
            help: DROPS_HELP,
            labels: &[("direction", "rx"), ("reason", "malformed_contents")],
            whole: "filled",
            parts: &["delivered", "denied"],
        },
        &["wg_timers_data_received", "wg_allowedips_lookup_src", "wg_noise_received_with_keypair"],
    ),
];

fn drops(map: MapSpec, direction: &'static str, reason: &'static str, member: &'static str) -> MapSpec {
    map.counter_of(DROPS, &[("direction", direction), ("reason", reason)], member, DROPS_HELP)
}

/// Counters for each handshake.
pub fn of_sessions() -> [MapSpec; 2] {
    let responses = "ebpf_wireguard_handshake_responses_total";
    let responses_help = "Handshake responses: created for a peer (tx), or received from a peer and valid \
                          (rx). Invalid responses are in ebpf_wireguard_handshake_failure_total.";
    let peers = MapSpec::new("peers")
        .bounded()
        .named()
        .counter(
            "ebpf_wireguard_handshake_attempts_total",
            "attempts",
            "Handshake initiations sent to a peer. Each retry counts.",
        )
        .counter(
            "ebpf_wireguard_handshake_success_total",
            "completed",
            "Handshakes completed with a peer, whichever side initiated them.",
        )
        .counter_of(FAILURES, &[("reason", "no_answer")], "no_answer", FAILURES_HELP)
        .counter_of(FAILURES, &[("reason", "gave_up")], "gave_up", FAILURES_HELP)
        .counter_of(responses, &[("direction", "tx")], "responses_sent", responses_help)
        .counter_of(responses, &[("direction", "rx")], "responses_received", responses_help)
        .counter(
            "ebpf_wireguard_keypair_rotations_total",
            "rotations",
            "Session keypairs created with a peer. A keypair that this host creates as responder may never \
             be used, and counts all the same.",
        )
        .counter(
            "ebpf_wireguard_endpoint_changes_total",
            "roamed",
            "Changes of a peer's endpoint (address or port), noticed when the peer is heard from. Its \
             first endpoint is not counted.",
        );
    let devices = MapSpec::new("devices")
        .named()
        .histogram(
            "ebpf_wireguard_handshake_latency_seconds",
            "latency",
            Unit::Seconds,
            "Time from the last handshake initiation sent to a peer to its valid response. Handshakes that \
             the peer initiated are not observed.",
        )
        .counter_of(FAILURES, &[("reason", "bad_mac")], "bad_mac", FAILURES_HELP)
        .counter_of(FAILURES, &[("reason", "cookie_required")], "cookie_required", FAILURES_HELP)
        .counter_of(FAILURES, &[("reason", "rate_limited")], "rate_limited", FAILURES_HELP)
        .counter_of(FAILURES, &[("reason", "bad_initiation")], "bad_initiations", FAILURES_HELP)
        .counter_of(FAILURES, &[("reason", "bad_response")], "bad_responses", FAILURES_HELP);
    [drops(peers, "tx", "purged", "purged"), devices]
}

/// Counters for each packet.
pub fn of_packets() -> [MapSpec; 2] {
    let (count, count_help) = (
        "ebpf_wireguard_packets_total",
        "WireGuard messages received from (rx) or sent to (tx) a peer, handshakes and keepalives included. \
         Messages that this host dropped below the tunnel are not counted.",
    );
    let mut packets = MapSpec::new("packets")
        .bounded()
        .named()
        .counter_of(count, &[("direction", "tx")], "sent", count_help)
        .counter_of(count, &[("direction", "rx")], "received", count_help)
        .counter_of(KEEPALIVES, &[("direction", "tx")], "sent_keepalives", KEEPALIVES_HELP)
        .counter(
            "ebpf_wireguard_decrypt_done_total",
            "decrypted",
            "Data messages of a peer that were decrypted. Replayed messages are included.",
        )
        .counter(
            "ebpf_wireguard_rx_delivered_total",
            "delivered",
            "Packets of a peer that were passed to the network stack. Keepalives and packets with a source \
             address that is not allowed are not counted.",
        );
    for (direction, reason, member) in [
        ("rx", "undecryptable", "undecrypted"),
        ("rx", "source_not_allowed", "denied"),
        ("rx", "queue_full", "rx_full"),
        ("tx", "queue_full", "tx_full"),
        ("tx", "staged_overflow", "overflowed"),
        ("tx", "no_endpoint", "no_endpoint"),
        ("tx", "not_sent", "not_sent"),
    ] {
        packets = drops(packets, direction, reason, member);
    }
    let mut traffic = MapSpec::new("traffic").named().counter(
        "ebpf_wireguard_rx_enter_total",
        "entered",
        "UDP datagrams that arrived at the port of a WireGuard interface, before any check.",
    );
    for (direction, reason, member) in [
        ("rx", "malformed", "malformed"),
        ("rx", "no_session", "no_session"),
        ("rx", "queue_full", "queue_full"),
        ("tx", "no_peer", "no_peer"),
        ("tx", "unsupported", "unsupported"),
    ] {
        traffic = drops(traffic, direction, reason, member);
    }
    [packets, traffic]
}
