// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long do name look-ups take, how many fail?
//!
//! Hooks, cost and what is not seen: `bpf/dns.bpf.c`.

mod sweep;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use common::exposition::hist::Unit;
use common::exposition::metric::{Families, Labels, Value};
use common::process::cli::duration;
use common::process::exporter::Exporter;
use common::read::live::Live;
use common::spec::{Decode, MapSpec, Shape, Spec};

common::skeleton!();

/// In the order of `enum dns_transport`.
const TRANSPORTS: &[&str] = &["udp", "tcp"];

/// In the order of `enum dns_type`.
const TYPES: &[&str] = &["A", "AAAA", "PTR", "SRV", "MX", "TXT", "CNAME", "NS", "SOA", "HTTPS", "other"];

/// Response codes by number (IANA's registry), and what userland and ICMP tell.
const RCODES: &str = "NOERROR FORMERR SERVFAIL NXDOMAIN NOTIMP REFUSED YXDOMAIN YXRRSET NXRRSET NOTAUTH NOTZONE \
                      DSOTYPENI unassigned unassigned unassigned unassigned unreachable";

const FAILURES: &str = "ebpf_dns_failures_total";
const FAILURES_HELP: &str =
    "Look-ups that failed: by response code, timeout (no answer in time), unreachable (ICMP said so).";
const UPSTREAM_FAILURES: &str = "ebpf_dns_upstream_failures_total";
const UPSTREAM_FAILURES_HELP: &str = "Questions of local resolvers that failed, for any of these reasons.";

/// How often questions without an answer are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Flags of this exporter.
#[derive(Args, Clone, Debug)]
struct Flags {
    /// After so long without an answer a look-up has failed.
    #[arg(long = "dns.timeout", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

impl Default for Flags {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5) }
    }
}

#[derive(Default)]
struct Dns {
    timeout_ns: u64,
    /// Look-ups, and questions of local resolvers, that nobody answered in time.
    timed_out: [u64; 2],
}

impl Exporter for Dns {
    type Builder = skel::DnsSkelBuilder;
    type Flags = Flags;

    fn spec(_: &Flags) -> Spec {
        let queries = MapSpec::new("queries")
            .label("transport", "transport", Decode::words(TRANSPORTS))
            .label("type", "type", Decode::words(TYPES))
            .counter(
                "ebpf_dns_queries_total",
                "value",
                "Questions sent to a name server, repeated ones included; not those that a local resolver \
                 asks in turn.",
            );
        let counts = MapSpec::new("counts")
            .histogram(
                "ebpf_dns_latency_microseconds",
                "latency",
                Unit::Microseconds,
                "Time from when a question was sent first until its answer came to the socket.",
            )
            .histogram(
                "ebpf_dns_upstream_latency_microseconds",
                "upstream_latency",
                Unit::Microseconds,
                "The same for questions that a local resolver asks in turn.",
            )
            .counter(
                "ebpf_dns_upstream_queries_total",
                "upstream_queries",
                "Questions that local resolvers asked.",
            )
            .counter(UPSTREAM_FAILURES, "upstream_failures", UPSTREAM_FAILURES_HELP)
            .counter(
                "ebpf_dns_retries_total",
                "retries",
                "Questions that were sent again before an answer came.",
            )
            .counter(
                "ebpf_dns_unmatched_responses_total",
                "unmatched",
                "Answers to no question that was seen, or that came too late.",
            )
            .counter(
                "ebpf_dns_cache_hits_total",
                "cache_hits",
                "Answers of a local resolver that needed no question of its own; over UDP.",
            )
            .counter(
                "ebpf_dns_cache_misses_total",
                "cache_misses",
                "Answers of a local resolver for which it, or a look-up at the same time, asked others.",
            )
            .counter(
                "ebpf_dns_unparsed_total",
                "unparsed",
                "Datagrams from or to port 53 that are no message, or cannot be read.",
            );
        let receive = [
            "tcp_send_fentry+tcp_receive_fentry+tcp_receive_five_fexit",
            "tcp_send_fentry+tcp_receive_fentry+tcp_receive_four_fexit",
            "tcp_send_fentry+tcp_receive_fentry+tcp_receive_six_fexit",
        ];
        Spec::new("dns", 9103, "how long do name look-ups take, how many fail?")
            .events(&["ebpf_dns_queries_total"])
            .required("ip_send_skb", &["send_v4_fentry", "send_v4_kprobe"])
            .required("ip6_send_skb", &["send_v6_fentry", "send_v6_kprobe"])
            .required("__udp_enqueue_schedule_skb", &["receive_fentry", "receive_kprobe"])
            .optional("tcp", &receive, &[])
            .optional("udp_err", &["error_v4_fentry", "error_v4_kprobe"], &[])
            .optional("udpv6_err", &["error_v6_lib_kprobe", "error_v6_fentry"], &[])
            .shape("tcp_receive_four_fexit", Shape::Arguments(4))
            .shape("tcp_receive_five_fexit", Shape::Arguments(5))
            .shape("tcp_receive_six_fexit", Shape::Arguments(6))
            .map(queries)
            .map(counts)
            .map(MapSpec::new("responses").sparse().label("rcode", "", rcode()).counter(
                "ebpf_dns_responses_total",
                "value",
                "Answers to look-ups, by response code.",
            ))
            .map(MapSpec::new("failures").sparse().label("reason", "", rcode()).counter(
                FAILURES,
                "value",
                FAILURES_HELP,
            ))
    }

    fn new(flags: &Flags) -> Result<Self> {
        Ok(Self { timeout_ns: flags.timeout.as_nanos() as u64, ..Self::default() })
    }

    fn seed(live: &Live) -> Result<()> {
        for transport in 0..2u64 {
            for kind in 0..2u64 {
                let key = live.key("queries", &[("transport", transport.into()), ("type", kind.into())])?;
                live.maps.insert_zero("queries", &key)?;
            }
        }
        Ok(())
    }

    fn interval(_: &Flags) -> Option<Duration> {
        Some(SWEEP)
    }

    fn gather(&mut self, live: &Live) -> Result<()> {
        let late = sweep::expired(live, self.timeout_ns)?;
        for (total, late) in self.timed_out.iter_mut().zip(late) {
            *total += late;
        }
        Ok(())
    }

    fn extra(&mut self, _: &Live, families: &mut Families) -> Result<()> {
        let [lookups, upstream] = self.timed_out.map(Value::Integer);
        families.counter(FAILURES, FAILURES_HELP, Labels::of(&[("reason", "timeout")]), lookups);
        families.counter(UPSTREAM_FAILURES, UPSTREAM_FAILURES_HELP, Labels::none(), upstream);
        Ok(())
    }
}

fn rcode() -> Decode {
    Decode::Words(RCODES.split(' ').map(Into::into).collect())
}

fn main() -> ExitCode {
    common::run::<Dns>()
}

#[cfg(test)]
mod tests {
    use common::fixture::{golden, render};
    use common::read::layout::Contents::Element;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<Dns>(&Flags::default(), |maps| {
            for (transport, kind, n) in [(0, 0, 7), (0, 1, 5), (1, 10, 1), (0, 77, 2)] {
                let key = [("transport", transport.into()), ("type", kind.into())];
                maps.set("queries", &key, &[("value", n.into())])?;
            }
            let counts = [
                ("latency.slots", Element(80, 3)),
                ("latency.sum", 3_000_000.into()),
                ("upstream_latency.slots", Element(88, 1)),
                ("upstream_latency.sum", 1_900_000.into()),
                ("upstream_queries", 2.into()),
                ("upstream_failures", 1.into()),
                ("retries", 4.into()),
                ("unmatched", 3.into()),
                ("cache_hits", 6.into()),
                ("cache_misses", 1.into()),
            ];
            maps.set("counts", &[], &counts)?;
            for (rcode, n) in [(0, 11), (3, 2), (15, 1)] {
                maps.set("responses", &[("", rcode.into())], &[("value", n.into())])?;
            }
            for (reason, n) in [(0, 0), (3, 2), (16, 4)] {
                maps.set("failures", &[("", reason.into())], &[("value", n.into())])?;
            }
            Ok(())
        });
        golden::<Dns>(env!("CARGO_MANIFEST_DIR"), &text.expect("rendered")).expect("as the golden file");
    }
}
