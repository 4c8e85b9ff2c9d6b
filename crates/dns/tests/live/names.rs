// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names that are nearly the same, long, or no names. Nobody answers: this process asks itself.
//!
//! They are among the last tests: for the exporter that other tests share, these queries time out later.

use std::net::UdpSocket;

use live::exporter::Exporter;
use live::exposition::Delta;

use crate::queries;

/// A query whose question is `name` and `after`, always with the same ID.
fn query(name: &[u8], after: &[u8]) -> Vec<u8> {
    [&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name, after].concat()
}

const TYPE_A: &[u8] = &[0, 0, 1, 0, 1];

/// What an exporter counts while these queries are sent from one port.
fn sent(queries: &[Vec<u8>]) -> Delta {
    let server = UdpSocket::bind("127.0.0.58:53").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let exporter = Exporter::start("dns", &["--dns.timeout", "1h"]);
    let before = exporter.scrape();
    queries.iter().for_each(|query| assert_eq!(client.send(query).unwrap(), query.len()));
    Delta(before, exporter.scrape())
}

#[live::test(functions, last)]
fn names_that_differ_in_one_letter_are_two() {
    let name = |(at, letter): (usize, u8)| {
        let mut name = vec![b'z'; 24];
        name[0] = 23;
        name[at] = letter;
        query(&name, TYPE_A)
    };
    // Letters that differ in their upper half only, at each place of the words that are hashed.
    let names: Vec<Vec<u8>> = (1..24).flat_map(|at| [(at, b'1'), (at, b'a'), (at, b'q')]).map(name).collect();
    let delta = sent(&names);
    assert_eq!(queries(&delta, "udp", "A"), names.len() as f64);
    // One that is sent again would be a retry, and one that was just received here, upstream.
    assert_eq!(delta.of("ebpf_dns_retries_total", &[]), 0.0);
    assert_eq!(delta.of("ebpf_dns_upstream_queries_total", &[]), 0.0);
    let timeouts = delta.of("ebpf_dns_failures_total", &[("reason", "timeout")]);
    assert_eq!(timeouts, names.len() as f64 - 1.0, "all but the last one are replaced by the next");
}

#[live::test(functions, last)]
fn names_are_parsed_up_to_their_longest() {
    let labels = |count: usize| b"\x01a".repeat(count);
    // Of 127 labels it has 255 bytes (RFC 1035, 2.3.4).
    let whole = [1, 15, 16, 17, 32, 33, 127].map(|count| query(&labels(count), TYPE_A));
    let long = [&[63][..], &[b'a'; 63]].concat();
    let label_64 = [&[64][..], &[b'a'; 64]].concat();
    let broken = [
        query(&labels(128), TYPE_A),
        query(&label_64, TYPE_A),
        query(&labels(20), &[0xc0, 12, 0, 1, 0, 1]),
        query(&labels(17), &[]),
        query(&labels(3), &[0, 0]),
    ];
    let all: Vec<Vec<u8>> = whole.iter().chain([&query(&long, TYPE_A)]).chain(&broken).cloned().collect();
    let delta = sent(&all);
    assert_eq!(queries(&delta, "udp", "A"), whole.len() as f64 + 1.0);
    assert_eq!(delta.of("ebpf_dns_queries_total", &[]), whole.len() as f64 + 1.0);
    // Where it is sent and where it is received.
    assert_eq!(delta.of("ebpf_dns_unparsed_total", &[]), 2.0 * broken.len() as f64);
}
