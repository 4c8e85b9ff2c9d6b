// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queries and answers of which the programs see one end only.
//!
//! They are the last tests: this process, whose other tests answer queries, asks here, and is a resolver
//! afterwards for the exporter that other tests share.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::{Delta, Exposition};

use crate::{LATENCY, TWO, Two, queries};

/// An answer takes less, and the time between two that the tests compare is longer.
const LONGEST: (&str, Duration) = ("1048576", Duration::from_micros(1_100_000));

/// How much later than the late answer the right one comes.
const LATER: Duration = Duration::from_millis(300);

/// The same for all: a client that uses port and ID again.
const ID: [u8; 2] = [7, 7];

/// An exporter, and servers in other processes: one that answered would be a resolver.
fn start() -> (Exporter, Two) {
    let servers = Two::start(false);
    (Exporter::start("dns", &["--ebpf.preempts", "false", "--dns.timeout", "1h"]), servers)
}

/// A question of type A.
fn question(name: &str) -> Vec<u8> {
    let mut question = [ID, [1, 0], [0, 1], [0; 2], [0; 2], [0; 2]].concat();
    question.push(name.len() as u8);
    question.extend(name.bytes().chain(*b"\x07example\x00\x00\x01\x00\x01"));
    question
}

/// A client that asks over UDP, always from one port.
fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect((TWO[0], 53)).unwrap();
    client
}

fn ask(client: &UdpSocket, name: &str) {
    client.send(&question(name)).unwrap();
    let length = client.recv(&mut [0; 512]).unwrap();
    assert!(length > 12, "{length}");
}

fn ask_by_tcp(client: &mut TcpStream, name: &str) {
    let question = question(name);
    client.write_all(&[&(question.len() as u16).to_be_bytes(), &question[..]].concat()).unwrap();
    // dnsmasq sends length and answer at once.
    let length = client.read(&mut [0; 512]).unwrap();
    assert!(length > 14, "{length}");
}

/// One answer was measured, and none took long.
#[track_caller]
fn assert_one_answer(delta: &Delta) {
    let of = |part: &str, le: &[(&str, &str)]| delta.of(&format!("{LATENCY}{part}"), le);
    assert_eq!((of("_count", &[]), of("_bucket", &[("le", LONGEST.0)])), (1.0, 1.0), "{delta:?}");
}

#[live::test(reattach, tool("dnsmasq"), last)]
fn a_query_whose_answer_is_lost_leaves_no_start_to_the_next() {
    let ((exporter, _servers), client) = (start(), client());
    let before = exporter.scrape();
    let receive = exporter.deafen("receive_fentry");
    ask(&client, "first");
    let _receive = receive.attach();
    // The time that a wrong latency would contain, not a wait for an event.
    std::thread::sleep(LONGEST.1);
    ask(&client, "second");
    let delta = Delta(before, exporter.scrape());
    assert_eq!(queries(&delta, "udp", "A"), 2.0);
    assert_one_answer(&delta);
    // The first one has an outcome, too.
    assert_eq!(delta.of("ebpf_dns_failures_total", &[("reason", "timeout")]), 1.0);
    assert_eq!(delta.1.get("ebpf_exporter_map_entries", &[("map", "outstanding")]), Some(0.0));
}

#[live::test(reattach, tool("dnsmasq"), last)]
fn an_answer_whose_query_is_lost_has_no_latency() {
    let ((exporter, _servers), client) = (start(), client());
    let before = exporter.scrape();
    ask(&client, "first");
    let send = exporter.deafen("send_v4_fentry");
    // As above.
    std::thread::sleep(LONGEST.1);
    ask(&client, "second");
    let _send = send.attach();
    let delta = Delta(before, exporter.scrape());
    assert_one_answer(&delta);
    assert_eq!(delta.of("ebpf_dns_unmatched_responses_total", &[]), 1.0);
}

/// The program at the end of tcp_recvmsg, of which there is one for each number of its arguments.
fn receive_end(text: &Exposition) -> &'static str {
    let programs = ["tcp_receive_four_fexit", "tcp_receive_five_fexit", "tcp_receive_six_fexit"];
    let is_attached = |program: &&str| {
        text.get("ebpf_exporter_ebpf_program_attached", &[("program", program)]) == Some(1.0)
    };
    programs.into_iter().find(is_attached).unwrap()
}

#[live::test(reattach, tool("dnsmasq"), last)]
fn over_tcp_an_answer_whose_end_is_lost_leaves_no_start_to_the_next() {
    let (exporter, _servers) = start();
    let mut client = TcpStream::connect((TWO[0], 53)).unwrap();
    let before = exporter.scrape();
    let receive = exporter.deafen(receive_end(&before));
    ask_by_tcp(&mut client, "first");
    let _receive = receive.attach();
    // As above.
    std::thread::sleep(LONGEST.1);
    ask_by_tcp(&mut client, "second");
    let delta = Delta(before, exporter.scrape());
    assert_eq!(queries(&delta, "tcp", "A"), 2.0);
    assert_one_answer(&delta);
    assert_eq!(delta.of("ebpf_dns_failures_total", &[("reason", "timeout")]), 1.0);
    let lost = delta.of("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
    assert_eq!(lost, 1.0, "the read whose end was not seen");
}

#[live::test(reattach, tool("dnsmasq"), last)]
fn over_tcp_an_answer_whose_start_is_lost_has_no_latency() {
    let (exporter, _servers) = start();
    let mut client = TcpStream::connect((TWO[0], 53)).unwrap();
    let before = exporter.scrape();
    ask_by_tcp(&mut client, "first");
    let receive = exporter.deafen("tcp_receive_fentry");
    ask_by_tcp(&mut client, "second");
    let _receive = receive.attach();
    // As above.
    std::thread::sleep(LONGEST.1);
    ask_by_tcp(&mut client, "third");
    let delta = Delta(before, exporter.scrape());
    assert_eq!(queries(&delta, "tcp", "A"), 3.0);
    let of = |part: &str, le: &[(&str, &str)]| delta.of(&format!("{LATENCY}{part}"), le);
    assert_eq!((of("_count", &[]), of("_bucket", &[("le", LONGEST.0)])), (2.0, 2.0), "{delta:?}");
    assert_eq!(delta.of("ebpf_dns_failures_total", &[("reason", "timeout")]), 1.0);
}

#[live::test(fentry, last)]
fn a_late_answer_is_not_that_of_the_next_question() {
    let server = UdpSocket::bind("127.0.0.57:53").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let exporter = Exporter::start("dns", &["--dns.timeout", "1h"]);
    let asked = || {
        let mut message = [0; 512];
        let (length, from) = server.recv_from(&mut message).unwrap();
        (message[..length].to_vec(), from)
    };
    let answer = |(mut message, from): (Vec<u8>, SocketAddr)| {
        message[2] |= 0x80;
        server.send_to(&message, from).unwrap();
        client.recv(&mut [0; 512]).unwrap();
    };
    // A process that answers is a resolver from then on, and asks others.
    client.send(&question("none")).unwrap();
    answer(asked());
    let before = exporter.scrape();
    client.send(&question("first")).unwrap();
    // The time that a wrong latency would contain, not a wait for an event.
    std::thread::sleep(LONGEST.1);
    client.send(&question("second")).unwrap();
    let (first, second) = (asked(), asked());
    answer(first);
    // As above: the time that the right latency contains.
    std::thread::sleep(LATER);
    answer(second);
    let delta = Delta(before, exporter.scrape());
    let upstream = |part: &str, le: &[(&str, &str)]| delta.of(&format!("ebpf_dns_upstream_{part}"), le);
    assert_eq!(upstream("queries_total", &[]), 2.0);
    assert_eq!(upstream("latency_microseconds_count", &[]), 1.0, "{delta:?}");
    let sum = upstream("latency_microseconds_sum", &[]);
    assert!((LATER.as_micros() as f64..LONGEST.1.as_micros() as f64).contains(&sum), "{sum} us");
    // The first one had no answer when its port and ID were used again.
    assert_eq!(upstream("failures_total", &[]), 1.0);
    assert_eq!(delta.of("ebpf_dns_unmatched_responses_total", &[]), 1.0);
    assert_eq!(delta.1.get("ebpf_exporter_map_entries", &[("map", "outstanding")]), Some(0.0));
}
