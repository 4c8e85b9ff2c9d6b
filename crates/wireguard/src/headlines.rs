// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers that `ebpf-exporters top` shows.

use common::spec::Headline;

/// All of them.
pub fn headlines() -> Vec<Headline> {
    vec![
        Headline::gauge("{interface} {peer}: handshake {value} ago", "ebpf_wireguard_handshake_age_seconds")
            .alias("peer", "ebpf_wireguard_peer_info", "name")
            .or("no handshake"),
        Headline::rate("{peer} sends {value}", "ebpf_wireguard_bytes_total")
            .only("direction", "rx")
            .alias("peer", "ebpf_wireguard_peer_info", "name")
            .or("nothing received"),
        Headline::rate("{peer} gets {value}", "ebpf_wireguard_bytes_total")
            .only("direction", "tx")
            .alias("peer", "ebpf_wireguard_peer_info", "name")
            .or("nothing sent"),
        Headline::rate("{value} drops/s: {reason}", "ebpf_wireguard_drops_total").or("no drops"),
    ]
}
