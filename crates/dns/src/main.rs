// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long do DNS lookups take, and how many fail?
//!
//! Hooks, cost and what is not seen: `bpf/dns.bpf.c`.

mod headlines;
mod sweep;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use common::exposition::{hist::Unit, metric::Families, metric::Labels, metric::Value};
use common::process::{cli::duration, exporter::Exporter};
use common::read::live::Live;
use common::spec::{Decode, MapSpec, Shape, Spec};

common::skeleton!();

/// In the order of `enum dns_transport`.
const TRANSPORTS: &[&str] = &["udp", "tcp"];

/// In the order of `enum dns_type`.
const TYPES: &[&str] = &["A", "AAAA", "PTR", "SRV", "MX", "TXT", "CNAME", "NS", "SOA", "HTTPS", "other"];

/// Response codes by number (IANA registry), and what userland and ICMP report.
const RCODES: &str = "NOERROR FORMERR SERVFAIL NXDOMAIN NOTIMP REFUSED YXDOMAIN YXRRSET NXRRSET NOTAUTH NOTZONE \
                      DSOTYPENI unassigned unassigned unassigned unassigned unreachable";

const FAILURES: &str = "ebpf_dns_failures_total";
const FAILURES_HELP: &str = "DNS queries that failed, by reason: the response code if it is not NOERROR, timeout (no answer within \
     --dns.timeout, or before the asker used the port and ID for another question) or unreachable (ICMP error). A lookup that asks several servers may succeed all the same. Queries of local resolvers are not counted.";
const UPSTREAM_FAILURES: &str = "ebpf_dns_upstream_failures_total";
const UPSTREAM_FAILURES_HELP: &str = "Queries of local resolvers to other name servers that failed: \
                                      response code other than NOERROR, timeout or unreachable.";

/// How often to look for queries without an answer.
const SWEEP: Duration = Duration::from_secs(1);

/// Flags of this exporter.
#[derive(Args, Clone, Debug)]
struct Flags {
    /// Count a query as failed (timeout) when no answer has come for this long since it was last sent.
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
    /// Queries of clients and of local resolvers that timed out.
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
                "DNS queries sent to a name server, retries included. A lookup that asks several servers sends \
                 as many. Queries that a local resolver sends on to other servers are not counted: see ebpf_dns_upstream_queries_total.",
            );
        let counts = MapSpec::new("counts")
            .histogram(
                "ebpf_dns_latency_microseconds",
                "latency",
                Unit::Microseconds,
                "Time from the first send of a DNS query to the arrival of its answer at the socket. \
                 Queries without an answer and queries of local resolvers are not observed.",
            )
            .histogram(
                "ebpf_dns_upstream_latency_microseconds",
                "upstream_latency",
                Unit::Microseconds,
                "Time from the first send of a query by a local resolver to the arrival of its answer. \
                 Queries without an answer are not observed.",
            )
            .counter(
                "ebpf_dns_upstream_queries_total",
                "upstream_queries",
                "DNS queries that local resolvers sent to other name servers, retries included.",
            )
            .counter(UPSTREAM_FAILURES, "upstream_failures", UPSTREAM_FAILURES_HELP)
            .counter(
                "ebpf_dns_retries_total",
                "retries",
                "DNS queries sent again before an answer came, by clients and local resolvers. Only a \
                 query with the same server, port, ID and question is a retry.",
            )
            .counter(
                "ebpf_dns_unmatched_responses_total",
                "unmatched",
                "DNS answers that match no outstanding query: the query was not seen, was already \
                 answered, or timed out.",
            )
            .counter(
                "ebpf_dns_cache_hits_total",
                "cache_hits",
                "Answers that a local resolver gave without asking another server. UDP only; servers that \
                 never ask others are not counted.",
            )
            .counter(
                "ebpf_dns_cache_misses_total",
                "cache_misses",
                "Answers of a local resolver for which it, or a concurrent query with the same question, \
                 asked another server. UDP only.",
            )
            .counter(
                "ebpf_dns_unparsed_total",
                "unparsed",
                "Messages to or from port 53 that could not be parsed as DNS: malformed, or in fragments \
                 that the program cannot read.",
            );
        let receive = [
            "tcp_send_fentry+tcp_receive_fentry+tcp_receive_five_fexit",
            "tcp_send_fentry+tcp_receive_fentry+tcp_receive_four_fexit",
            "tcp_send_fentry+tcp_receive_fentry+tcp_receive_six_fexit",
        ];
        Spec::new("dns", 9103, "how long do DNS lookups take, and how many fail?")
            .events(&["ebpf_dns_queries_total"])
            .headlines(headlines::headlines())
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
                "Answers to DNS queries, by response code. Answers to queries of local resolvers and \
                 unmatched answers are not counted.",
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

    fn extra(&mut self, live: &Live, families: &mut Families) -> Result<()> {
        let [lookups, upstream] = sweep::unanswered(live, self.timed_out)?.map(Value::Integer);
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
