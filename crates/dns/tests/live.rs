// SPDX-License-Identifier: MIT OR Apache-2.0
//! Look-ups by dig, directly and through dnsmasq, at a name server of this test that
//! counts its queries.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

#[path = "live/names.rs"]
mod names;
#[path = "live/pairs.rs"]
mod pairs;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::Delta;
use live::work::Running;
use live::{sh, wait_until};

/// Address of the server. Answers to `slow.` take [`SLOW`], answers to `nothing.` are
/// NXDOMAIN, and `silent.` gets no answer.
const SERVER: &str = "127.0.0.53:53";
const SLOW: Duration = Duration::from_millis(70);

/// A name server that counts queries. Its threads run until the test program ends.
struct Server {
    udp: Arc<AtomicUsize>,
    tcp: Arc<AtomicUsize>,
}

impl Server {
    /// The server, which all tests share.
    fn get() -> &'static Self {
        static ONE: std::sync::OnceLock<Server> = std::sync::OnceLock::new();
        ONE.get_or_init(|| {
            let server = Self { udp: Arc::default(), tcp: Arc::default() };
            let (udp, tcp) = (Arc::clone(&server.udp), Arc::clone(&server.tcp));
            for address in [SERVER, "[::1]:53"] {
                let socket = UdpSocket::bind(address).unwrap();
                let udp = Arc::clone(&udp);
                std::thread::spawn(move || {
                    let mut message = [0; 512];
                    while let Ok((length, peer)) = socket.recv_from(&mut message) {
                        udp.fetch_add(1, Ordering::SeqCst);
                        if let Some(answer) = answer(&message[..length]) {
                            socket.send_to(&answer, peer).unwrap();
                        }
                    }
                });
            }
            let listener = TcpListener::bind(SERVER).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                        stream.read_exact(&mut message).unwrap();
                        tcp.fetch_add(1, Ordering::SeqCst);
                        let answer = answer(&message).unwrap();
                        let length = (answer.len() as u16).to_be_bytes();
                        stream.write_all(&[&length, answer.as_slice()].concat()).unwrap();
                    }
                }
            });
            server
        })
    }

    fn asked(&self) -> (usize, usize) {
        (self.udp.load(Ordering::SeqCst), self.tcp.load(Ordering::SeqCst))
    }
}

/// The answer to a question: an address for type A, no records for other types.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let mut end = 12;
    while question[end] != 0 {
        end += 1 + usize::from(question[end]);
    }
    let first = question[13..13 + usize::from(question[12])].to_ascii_lowercase();
    let kind = u16::from_be_bytes([question[end + 1], question[end + 2]]);
    let mut answer = question[..end + 5].to_vec();
    // A response, with recursion available. One question, and no records yet.
    answer[2] |= 0x80;
    answer[3] = 0x80;
    answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    match first.as_slice() {
        b"silent" => return None,
        b"nothing" => answer[3] |= 3,
        _ => {
            if first == b"slow" {
                std::thread::sleep(SLOW); // The latency that a test compares, not a wait for an event.
            }
            if kind == 1 {
                answer[7] = 1;
                // The name at byte 12, type A, class IN, valid for 600 s, four bytes.
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 2, 0x58, 0, 4, 192, 0, 2, 1]);
            }
        }
    }
    Some(answer)
}

/// One look-up by dig, with a single try and without /etc/resolv.conf.
fn dig(server: &str, name: &str, options: &str) -> String {
    sh(&format!("dig @{server} {name} {options} +tries=1 +timeout=2 +noedns +norecurse +recurse +short || :"))
}

fn measure(flags: &[&str], work: impl FnOnce(&Exporter)) -> Delta {
    Server::get();
    let exporter = Exporter::shared("dns", flags);
    let before = exporter.scrape();
    work(&exporter);
    let delta = Delta(before, exporter.scrape());
    delta.assert_whole();
    assert_eq!(delta.of("ebpf_dns_unparsed_total", &[]), 0.0);
    delta
}

fn queries(delta: &Delta, transport: &str, kind: &str) -> f64 {
    delta.of("ebpf_dns_queries_total", &[("transport", transport), ("type", kind)])
}

const LATENCY: &str = "ebpf_dns_latency_microseconds";

#[live::test(functions, tool("dig"))]
fn look_ups_over_udp_are_those_that_the_server_was_asked() {
    let (before, _) = Server::get().asked();
    let delta = measure(&[], |_| {
        for n in 0..23 {
            assert_eq!(dig("127.0.0.53", &format!("a{n}.example"), "A"), "192.0.2.1");
        }
        (0..7).for_each(|n| drop(dig("::1", &format!("b{n}.example"), "AAAA")));
        (0..5).for_each(|n| drop(dig("127.0.0.53", &format!("c{n}.example"), "TXT")));
        drop(dig("127.0.0.53", "d.example", "TYPE4711"));
    });
    assert_eq!(queries(&delta, "udp", "A"), 23.0);
    assert_eq!(queries(&delta, "udp", "AAAA"), 7.0);
    assert_eq!(queries(&delta, "udp", "TXT"), 5.0);
    assert_eq!(queries(&delta, "udp", "other"), 1.0);
    assert_eq!(Server::get().asked().0 - before, 36);
    assert_eq!(delta.of("ebpf_dns_queries_total", &[]), 36.0);
    assert_eq!(delta.of("ebpf_dns_responses_total", &[("rcode", "NOERROR")]), 36.0);
    assert_eq!(delta.of(&format!("{LATENCY}_count"), &[]), 36.0);
    assert_eq!(delta.of("ebpf_dns_failures_total", &[]), 0.0);
    // The server is not a resolver: it queries no other server.
    assert_eq!(
        delta.of("ebpf_dns_cache_hits_total", &[]) + delta.of("ebpf_dns_cache_misses_total", &[]),
        0.0
    );
    assert_eq!(delta.of("ebpf_dns_upstream_queries_total", &[]), 0.0);
}

#[live::test(functions, tool("dig"))]
fn look_ups_over_tcp_are_counted_as_well() {
    let (_, before) = Server::get().asked();
    let delta = measure(&[], |_| {
        for n in 0..11 {
            assert_eq!(dig("127.0.0.53", &format!("t{n}.example"), "A +tcp"), "192.0.2.1");
        }
        drop(dig("127.0.0.53", "nothing.example", "A +tcp"));
    });
    assert_eq!(Server::get().asked().1 - before, 12);
    assert_eq!(queries(&delta, "tcp", "A"), 12.0);
    assert_eq!(delta.of("ebpf_dns_responses_total", &[("rcode", "NOERROR")]), 11.0);
    assert_eq!(delta.of("ebpf_dns_failures_total", &[("reason", "NXDOMAIN")]), 1.0);
    assert_eq!(delta.of(&format!("{LATENCY}_count"), &[]), 12.0);
}

#[live::test(functions, tool("dig"))]
fn latency_is_the_servers() {
    let delta =
        measure(&[], |_| (0..7).for_each(|n| drop(dig("127.0.0.53", &format!("slow.s{n}.example"), "A"))));
    let of = |part: &str, le: &[(&str, &str)]| delta.of(&format!("{LATENCY}{part}"), le);
    assert_eq!((of("_count", &[]), of("_bucket", &[("le", "65536")])), (7.0, 0.0));
    let mean = of("_sum", &[]) / 7.0;
    assert!((70_000.0..110_000.0).contains(&mean), "{mean} us");
}

/// An address at which no server listens. It is removed when this is dropped.
struct Address;

impl Address {
    fn new() -> Self {
        sh("ip addr replace fd00::99/128 dev lo");
        Self
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = Command::new("ip").args("addr del fd00::99/128 dev lo".split(' ')).status();
    }
}

// Last: its query without an answer times out during a test after it.
#[live::test(functions, tool("dig"), last)]
fn failures_have_their_reason() {
    let _address = Address::new();
    let delta = measure(&["--dns.timeout", "1s"], |exporter| {
        (0..5).for_each(|n| drop(dig("127.0.0.53", &format!("nothing.n{n}.example"), "A")));
        // No server listens there, so the kernel answers with ICMP; dig itself tries again.
        for server in ["127.0.0.99", "fd00::99"] {
            (0..3).for_each(|n| drop(dig(server, &format!("r{n}.example"), "A")));
        }
        drop(dig("127.0.0.53", "silent.example", "A"));
        wait_until("the time-out is noticed", Duration::from_secs(20), || {
            exporter.scrape().count("ebpf_dns_failures_total", &[("reason", "timeout")]) >= 1.0
        });
    });
    let failed = |reason: &str| delta.of("ebpf_dns_failures_total", &[("reason", reason)]);
    assert_eq!((failed("NXDOMAIN"), failed("timeout")), (5.0, 1.0));
    assert!(failed("unreachable") >= 6.0, "{delta:?}");
    // Each query has exactly one outcome.
    let ends = delta.of("ebpf_dns_responses_total", &[]) + failed("timeout") + failed("unreachable");
    assert_eq!(delta.of("ebpf_dns_queries_total", &[]), ends);
    assert_eq!(delta.1.get("ebpf_exporter_map_entries", &[("map", "outstanding")]), Some(0.0));
}

/// dnsmasq as a local resolver with a cache. It ends when this is dropped.
struct Resolver {
    _dnsmasq: Running,
}

impl Resolver {
    fn start() -> Self {
        let arguments = "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --no-daemon \
                         --listen-address=127.0.0.54 --bind-interfaces --server=127.0.0.53 --pid-file=";
        let mut dnsmasq = Command::new("dnsmasq");
        let dnsmasq = dnsmasq.args(arguments.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
        let resolver = Self { _dnsmasq: Running::start(dnsmasq) };
        wait_until("dnsmasq listens", Duration::from_secs(20), || {
            sh("ss -Hlun src 127.0.0.54:53").contains("127.0.0.54:53")
        });
        resolver
    }
}

#[live::test(functions, tool("dig"), tool("dnsmasq"))]
fn what_a_local_resolver_asks_in_turn_is_not_one_more_look_up() {
    Server::get();
    let _resolver = Resolver::start();
    let (before, _) = Server::get().asked();
    let delta = measure(&[], |_| {
        // Each of three names is queried upstream once, and answered from the cache four times.
        for n in 0..3 {
            for case in ["m", "M", "m", "M", "m"] {
                assert_eq!(dig("127.0.0.54", &format!("{case}{n}.example"), "A"), "192.0.2.1");
            }
        }
        drop(dig("127.0.0.54", "nothing.m.example", "A"));
    });
    let asked = (Server::get().asked().0 - before) as f64;
    assert_eq!(queries(&delta, "udp", "A"), 16.0);
    assert_eq!(delta.of(&format!("{LATENCY}_count"), &[]), 16.0);
    assert_eq!(delta.of("ebpf_dns_upstream_queries_total", &[]), asked);
    assert_eq!(delta.of("ebpf_dns_upstream_latency_microseconds_count", &[]), asked);
    assert_eq!(delta.of("ebpf_dns_cache_misses_total", &[]), 4.0);
    assert_eq!(delta.of("ebpf_dns_cache_hits_total", &[]), 12.0);
    assert_eq!(delta.of("ebpf_dns_failures_total", &[("reason", "NXDOMAIN")]), 1.0);
    assert_eq!(delta.of("ebpf_dns_upstream_failures_total", &[]), 1.0);
}

#[live::test(functions, tool("dig"), tool("dnsmasq"))]
fn the_same_question_by_many_at_once_is_as_many_look_ups() {
    Server::get();
    let _resolver = Resolver::start();
    let (before, _) = Server::get().asked();
    let delta = measure(&[], |_| {
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| assert_eq!(dig("127.0.0.54", "slow.many.example", "A"), "192.0.2.1"));
            }
        });
    });
    assert_eq!(queries(&delta, "udp", "A"), 6.0);
    let asked = (Server::get().asked().0 - before) as f64;
    assert_eq!(delta.of("ebpf_dns_upstream_queries_total", &[]), asked);
    let answers = delta.of("ebpf_dns_cache_hits_total", &[]) + delta.of("ebpf_dns_cache_misses_total", &[]);
    assert_eq!(answers, 6.0);
}

/// Two authoritative name servers. They end when this is dropped.
struct Two {
    _dnsmasq: [Running; 2],
}

/// Addresses of these servers.
const TWO: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 55), Ipv4Addr::new(127, 0, 0, 56)];

/// Sends each query to all servers before it reads an answer.
const ASKER: &str = r#"
use Socket;
my ($times, @servers) = @ARGV;
alarm 60;
socket(my $asker, PF_INET, SOCK_DGRAM, 0) or die;
for my $n (0 .. $times - 1) {
    my $question = pack("n6 C/a* C/a* C n2", 1792 + $n, 256, 1, 0, 0, 0, "q$n", "example", 0, 1, 1);
    for (@servers) { send($asker, $question, 0, pack_sockaddr_in(53, inet_aton($_))) or die }
    for (@servers) { defined recv($asker, my $answer, 512, 0) or die }
}
"#;

impl Two {
    /// Starts them. With `failing`, the second one answers REFUSED.
    fn start(failing: bool) -> Self {
        let server = |address: Ipv4Addr, known: &str| {
            let arguments = format!(
                "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --no-daemon \
                 --listen-address={address} --bind-interfaces --address=/{known}/192.0.2.1 --pid-file="
            );
            let mut dnsmasq = Command::new("dnsmasq");
            let dnsmasq =
                dnsmasq.args(arguments.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
            let running = Running::start(dnsmasq);
            wait_until("dnsmasq listens", Duration::from_secs(20), || {
                sh(&format!("ss -Hlun src {address}:53")).contains(&format!("{address}:53"))
            });
            running
        };
        let known = if failing { "elsewhere" } else { "example" };
        Self { _dnsmasq: [server(TWO[0], "example"), server(TWO[1], known)] }
    }

    /// A process queries both at once, from the same port and with the same id.
    fn ask(times: u32) {
        let mut asker = Command::new("perl");
        let asker = asker.args(["-e", ASKER, &times.to_string()]).args(TWO.map(|server| server.to_string()));
        assert!(asker.status().unwrap().success(), "both have answered each time");
    }
}

#[live::test(functions, tool("perl"), tool("dnsmasq"))]
fn who_asks_two_servers_the_same_is_no_resolver() {
    let _two = Two::start(false);
    let delta = measure(&[], |_| Two::ask(20));
    assert_eq!(queries(&delta, "udp", "A"), 40.0, "{delta:?}");
    assert_eq!(delta.of("ebpf_dns_upstream_queries_total", &[]), 0.0);
    assert_eq!(delta.of("ebpf_dns_responses_total", &[("rcode", "NOERROR")]), 40.0);
    assert_eq!(delta.of(&format!("{LATENCY}_count"), &[]), 40.0);
    assert_eq!(delta.of("ebpf_dns_retries_total", &[]), 0.0);
    assert_eq!(delta.of("ebpf_dns_unmatched_responses_total", &[]), 0.0);
}

#[live::test(functions, tool("perl"), tool("dnsmasq"))]
fn of_two_servers_each_has_its_own_answer() {
    let _two = Two::start(true);
    let delta = measure(&[], |_| Two::ask(20));
    assert_eq!(queries(&delta, "udp", "A"), 40.0, "{delta:?}");
    assert_eq!(delta.of("ebpf_dns_responses_total", &[("rcode", "NOERROR")]), 20.0, "{delta:?}");
    assert_eq!(delta.of("ebpf_dns_responses_total", &[("rcode", "REFUSED")]), 20.0, "{delta:?}");
    // These are failed queries: each of the 20 look-ups also got an answer.
    assert_eq!(delta.of("ebpf_dns_failures_total", &[]), 20.0);
    assert_eq!(delta.of("ebpf_dns_unmatched_responses_total", &[]), 0.0);
}

/// Sends each query that it receives at the first address on to the second one, and tells the
/// sender from a port that is not 53. It never answers a query.
const FORWARDER: &str = r#"
use Socket;
my ($here, $there) = map { pack_sockaddr_in(53, inet_aton($_)) } @ARGV;
socket($_, PF_INET, SOCK_DGRAM, 0) or die for my ($server, $client, $other);
bind($server, $here) or die;
while (my $from = recv($server, my $query, 512, 0)) {
    send($client, $query, 0, $there) or die;
    send($other, "sent on", 0, $from) or die;
}
"#;

/// Sends the same question many times, each time after the one before was sent on.
const REPEATER: &str = r#"
use Socket;
my ($times, $server) = @ARGV;
alarm 60;
socket(my $client, PF_INET, SOCK_DGRAM, 0) or die;
for my $n (1 .. $times) {
    my $query = pack("n6 C/a* C/a* C n2", $n, 256, 1, 0, 0, 0, "silent", "example", 0, 1, 1);
    send($client, $query, 0, pack_sockaddr_in(53, inet_aton($server))) or die;
    defined recv($client, my $told, 512, 0) or die;
}
"#;

// Last: its queries have no answers and time out during tests after it.
#[live::test(functions, tool("perl"), last)]
fn a_query_that_is_sent_on_while_the_same_one_arrives_is_upstream() {
    const EACH: u32 = 1500;
    let address = "127.0.0.57";
    let _forwarder = Running::start(Command::new("perl").args(["-e", FORWARDER, address, "127.0.0.53"]));
    wait_until("the forwarder listens", Duration::from_secs(20), || {
        sh(&format!("ss -Hlun src {address}:53")).contains(address)
    });
    let delta = measure(&[], |_| {
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut repeater = Command::new("perl");
                    let repeater = repeater.args(["-e", REPEATER, &EACH.to_string(), address]);
                    assert!(repeater.status().unwrap().success(), "each query was sent on");
                });
            }
        });
    });
    assert_eq!(queries(&delta, "udp", "A"), f64::from(2 * EACH), "{delta:?}");
    assert_eq!(delta.of("ebpf_dns_upstream_queries_total", &[]), f64::from(2 * EACH));
}

// Last: for the exporter that tests share, this process is a resolver afterwards.
#[live::test(functions, last)]
fn answers_that_come_twice_at_once_are_one_and_one_without_a_question() {
    const QUESTIONS: u16 = 300;
    let delta = measure(&[], |_| {
        let server = UdpSocket::bind("127.0.0.54:53").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for id in 0..QUESTIONS {
            // Recursion desired, one question.
            let mut question = [id.to_be_bytes(), [1, 0], [0, 1], [0; 2], [0; 2], [0; 2]].concat();
            question.extend(b"\x05twice\x07example\x00\x00\x01\x00\x01");
            client.send_to(&question, server.local_addr().unwrap()).unwrap();
            let mut message = [0; 512];
            let (length, peer) = server.recv_from(&mut message).unwrap();
            let (answer, ready) = (answer(&message[..length]).unwrap(), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        ready.fetch_add(1, Ordering::SeqCst);
                        while ready.load(Ordering::SeqCst) < 2 {
                            std::hint::spin_loop();
                        }
                        server.send_to(&answer, peer).unwrap();
                    });
                }
            });
            for _ in 0..2 {
                client.recv(&mut message).unwrap();
            }
        }
    });
    let exact = f64::from(QUESTIONS);
    // A process that answers and queries is a resolver, once the exporter knows both.
    let answers = ["latency", "upstream_latency"]
        .map(|latency| delta.of(&format!("ebpf_dns_{latency}_microseconds_count"), &[]));
    assert_eq!(answers[0] + answers[1], exact);
    assert_eq!(delta.of("ebpf_dns_unmatched_responses_total", &[]), exact);
}

#[live::test(functions, tool("dig"))]
fn names_are_never_labels() {
    let delta = measure(&[], |_| drop(dig("127.0.0.53", "secret.example", "A")));
    assert!(!format!("{:?}", delta.1).contains("secret"));
}

live::main!();
