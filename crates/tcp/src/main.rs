// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many TCP segments are retransmitted, and how long is a round trip?
//!
//! Hooks, cost and what is not seen: `bpf/tcp.bpf.c`.

mod connections;
mod headlines;
mod namespaces;

use std::process::ExitCode;

use anyhow::{Context, Result};
use common::exposition::hist::Unit;
use common::exposition::metric::Families;
use common::kernel::facts::Facts;
use common::process::exporter::{Exporter, OpenOf};
use common::read::live::Live;
use common::read::part::Reader;
use common::spec::{Decode, MapSpec, Shape, Spec, View};

use connections::Current;

common::skeleton!();

/// In the order of `enum tcp_retransmit`.
const TYPES: &[&str] = &["syn", "synack", "timeout", "slow_start", "fast", "loss_probe", "other", "unseen"];

/// In the order of `enum tcp_failure`.
const FAILURES: &[&str] = &["refused", "timed_out", "unreachable", "aborted", "not_sent", "other"];

/// A counter of a network namespace (include/uapi/linux/snmp.h).
const OVERFLOWS: &str = "LINUX_MIB_LISTENOVERFLOWS";

const CONNECTIONS: &str = "ebpf_tcp_connections_total";
const CONNECTIONS_HELP: &str = "TCP connections opened: active when this host sent a SYN (ActiveOpens), passive when a listening socket of this host took a connection (PassiveOpens). An active connection counts even if it then fails.";
const RESETS: &str = "ebpf_tcp_resets_total";
const RESETS_HELP: &str = "TCP segments with RST: sent in reply to a segment or to abort a connection, or received by a socket. Resets that a firewall sends are not counted.";

#[derive(Default)]
struct Tcp {
    current: Current,
}

impl Exporter for Tcp {
    type Builder = skel::TcpSkelBuilder;
    type Flags = common::process::cli::NoFlags;

    fn spec(_: &Self::Flags) -> Spec {
        let counts = MapSpec::new("counts")
            .counter_of(CONNECTIONS, &[("direction", "passive")], "passive", CONNECTIONS_HELP)
            .counter(
                "ebpf_tcp_closes_total",
                "closes",
                "TCP connections that were established and whose socket is now closed, by a reset too. A connection that stays in TIME_WAIT counts when it enters it; connections that were never established are not counted.",
            )
            .counter_of(RESETS, &[("direction", "received")], "resets_received", RESETS_HELP)
            .histogram(
                "ebpf_tcp_rtt_microseconds",
                "rtt",
                Unit::Microseconds,
                "Smoothed round-trip time of a TCP connection, observed once, when it closes. Connections that are still open are not observed.",
            )
            .histogram(
                "ebpf_tcp_connect_seconds",
                "connect",
                Unit::Seconds,
                "Time from the first SYN of an active TCP connection until it is established. Failed connections are not observed. Where the kernel lets no program hook functions, sockets with TCP_FASTOPEN_CONNECT are not observed.",
            )
            .histogram(
                "ebpf_tcp_connection_duration_seconds",
                "duration",
                Unit::LongSeconds,
                "Time from establishment to close of a TCP connection. Connections established before the exporter started are not observed.",
            );
        let active = number("opens", CONNECTIONS, &[("direction", "active")], CONNECTIONS_HELP);
        let sent = number("resets_sent", RESETS, &[("direction", "sent")], RESETS_HELP);
        let overflows = "Segments that open or complete a TCP connection, dropped because the accept queue of the listening socket was full (ListenOverflows). Each retransmitted segment counts again.";
        let retransmitted = "TCP segments retransmitted, SYNs and SYN-ACKs included. Retransmits that could not be sent count too, as in RetransSegs.";
        let unsent = "TCP segments that were to be retransmitted and could not be sent, for example because a device queue was full.";
        let syn = &["syn_fentry+syn_fexit", "syn_kprobe+syn_kretprobe"];
        let ack = &[
            "ack_v4_fentry+ack_v4_fexit+ack_v6_fentry+ack_v6_fexit",
            "ack_v4_kprobe+ack_v4_kretprobe+ack_v6_kprobe+ack_v6_kretprobe",
        ];
        let send_reset = &[
            "send_reset_btf",
            "send_reset_raw",
            "reset_v4_fentry+reset_v6_fentry+reset_active_fentry",
            "reset_v4_kprobe+reset_v6_kprobe+reset_active_kprobe",
        ];
        Spec::new("tcp", 9102, "how many TCP segments are retransmitted, and how long is a round trip?")
            .events(&["ebpf_tcp_connections_total", "ebpf_tcp_closes_total", "ebpf_tcp_retransmits_total"])
            .headlines(headlines::headlines())
            .required("inet_sock_set_state", &["state_btf", "state_raw"])
            .interrupted(&connections::INTERRUPTED)
            .required("tcp_retransmit_skb", &["retransmit_btf", "retransmit_raw"])
            .optional(
                "__tcp_retransmit_skb",
                &[
                    "unsent_btf",
                    "unsent_raw",
                    "unsent_inner_fexit+unsent_outer_fexit",
                    "unsent_inner_kprobe+unsent_outer_kprobe",
                ],
                &["unsent"],
            )
            .shape("unsent_btf", Shape::Arguments(3))
            .shape("unsent_raw", Shape::Arguments(3))
            .shape("unsent_inner_fexit", Shape::Arguments(3))
            .shape("unsent_outer_fexit", Shape::Arguments(3))
            .sees("connections of before", View::Processes)
            .required("tcp_retransmit_synack", &["synack_btf", "synack_raw"])
            .required("tcp_receive_reset", &["receive_reset_btf", "receive_reset_raw"])
            .optional("tcp_connect", &connections::OPENED, &["opens"])
            .optional("tcp_send_reset", send_reset, &["resets_sent"])
            .shape("send_reset_btf", Shape::Arguments(3))
            .shape("send_reset_raw", Shape::Arguments(3))
            .optional("tcp_conn_request", syn, &["overflows"])
            .optional("tcp_syn_recv_sock", ack, &["overflows"])
            .enumerator(OVERFLOWS)
            .map(counts)
            .map(active)
            .map(sent)
            .map(number("overflows", "ebpf_tcp_listen_overflows_total", &[], overflows))
            .map(number("retransmits", "ebpf_tcp_retransmits_total", &[], retransmitted))
            .map(number("unsent", "ebpf_tcp_retransmit_failures_total", &[], unsent))
            .map(
                number(
                    "retransmits",
                    "ebpf_tcp_retransmits_by_type_total",
                    &[],
                    "TCP segments retransmitted, by reason: the same segments as in ebpf_tcp_retransmits_total. type=\"unseen\": the kernel ran no program when it was retransmitted; where only kprobes can be used, a retransmit that could not be sent.",
                )
                .label("type", "", Decode::words(TYPES)),
            )
            .map(
                number(
                    "by_dest",
                    "ebpf_tcp_retransmits_by_dest_total",
                    &[],
                    "TCP segments retransmitted, by destination address. Addresses beyond --max-series count as \"other\".",
                )
                .bounded()
                .sparse()
                .label("destination", "address", Decode::Address),
            )
            .map(
                number(
                    "failures",
                    "ebpf_tcp_connect_failures_total",
                    &[],
                    "Active TCP connections that ended before they were established, by reason. reason=\"aborted\": the program itself closed the socket. reason=\"not_sent\": no SYN was sent, for example because no local port was free; these are not among the connections of ebpf_tcp_connections_total.",
                )
                .label("reason", "", Decode::words(FAILURES)),
            )
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, facts: &Facts, _: &Self::Flags) -> Result<()> {
        let settings = open.maps.rodata_data.as_mut().context("no .rodata")?;
        let retransmit = facts.tracepoints.get("tcp_retransmit_skb");
        settings.tcp_retransmit_error = retransmit.is_some_and(|p| p.arguments.len() == 3);
        settings.tcp_unseen_failed = open.progs.unsent_inner_kprobe.autoload();
        let overflows = facts.enumerators.get(OVERFLOWS);
        let overflows = overflows.with_context(|| format!("the kernel's BTF has no {OVERFLOWS}"))?;
        settings.tcp_listen_overflows = u32::try_from(*overflows).context(OVERFLOWS)?;
        Ok(())
    }

    fn seed(live: &Live) -> Result<()> {
        live.maps.insert_zero("by_dest", &live.key("by_dest", &[])?)?;
        Ok(())
    }

    fn attached(&mut self, live: &Live) -> Result<()> {
        self.current = Current::now(live)?;
        Ok(())
    }

    fn fallback(_: &Self::Flags) -> Result<Option<Reader>> {
        Ok(Some(connections::reader()))
    }

    fn extra(&mut self, live: &Live, families: &mut Families) -> Result<()> {
        self.current.show(live, families)
    }
}

fn number(
    map: &'static str,
    name: &'static str,
    labels: &[(&'static str, &'static str)],
    help: &'static str,
) -> MapSpec {
    MapSpec::new(map).counter_of(name, labels, "value", help)
}

fn main() -> ExitCode {
    common::run::<Tcp>()
}

#[cfg(test)]
mod tests {
    use common::exposition::encode::{Format, encode};
    use common::fixture::{golden, golden_fallback, render};
    use common::read::layout::Contents::Element;
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<Tcp>(&common::process::cli::NoFlags {}, |maps| {
            let counts = [
                ("passive", 5.into()),
                ("closes", 3.into()),
                ("resets_received", 2.into()),
                ("rtt.slots", Element(80, 3)),
                ("rtt.sum", 3_000_000.into()),
                ("connect.slots", Element(8, 1)),
                ("connect.sum", 1_900.into()),
                ("duration.slots", Element(193, 1)),
                ("duration.sum", 100_000_000_000_000.into()),
            ];
            maps.set("counts", &[], &counts)?;
            for (map, n) in [("opens", 7), ("resets_sent", 4), ("overflows", 1), ("unsent", 6)] {
                maps.set(map, &[], &[("value", n.into())])?;
            }
            for kind in 0..7 {
                maps.set("retransmits", &[("", kind.into())], &[("value", (kind + 1).into())])?;
            }
            for failure in 0..6 {
                maps.set("failures", &[("", failure.into())], &[("value", failure.into())])?;
            }
            let loopback = Ipv6Addr::LOCALHOST.octets();
            let mapped = Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0xc0a8, 0x0001]).octets();
            for (address, n) in [(loopback, 3), (mapped, 20), ([0; 16], 5)] {
                let bytes = address.iter().enumerate();
                let key: Vec<_> =
                    bytes.map(|(at, byte)| ("address", Element(at, u64::from(*byte)))).collect();
                maps.set("by_dest", &key, &[("value", n.into())])?;
            }
            Ok(())
        });
        let counted = || {
            let mut families = Families::default();
            connections::active(12, &mut families);
            families
        };
        let text = text.expect("rendered") + &encode(counted(), Format::Text);
        golden::<Tcp>(env!("CARGO_MANIFEST_DIR"), &text).expect("as the golden file");
        golden_fallback::<Tcp>(env!("CARGO_MANIFEST_DIR"), counted()).expect("as the golden file");
    }
}
