// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tunnel between two namespaces: sent, lost and forged packets, compared with
//! `wg show` and the interfaces' counters; and the unit.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

#[path = "live/below_interfaces.rs"]
mod below_interfaces;
#[path = "live/interfaces.rs"]
mod interfaces;
#[path = "live/module.rs"]
mod module;
#[path = "live/pairs.rs"]
mod pairs;
#[path = "live/secrets.rs"]
mod secrets;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::{Delta, Exposition};
use live::truth::between;
use live::wireguard::{KEYS, Tap, Tunnel, inject, key, label, peers, statistic};
use live::work::{Stop, without_workers};
use live::{sh, wait_until};

const BYTES: &str = "ebpf_wireguard_bytes_total";
const PACKETS: &str = "ebpf_wireguard_packets_total";
const DROPS: &str = "ebpf_wireguard_drops_total";
const FAILURES: &str = "ebpf_wireguard_handshake_failure_total";
const ATTEMPTS: &str = "ebpf_wireguard_handshake_attempts_total";
const SUCCESS: &str = "ebpf_wireguard_handshake_success_total";

fn start(detail: &str) -> Exporter {
    sh("modprobe wireguard");
    Exporter::start("wireguard", &["--wireguard.detail", detail])
}

/// An exporter that has also run during the tests before, which had other tunnels.
fn shared() -> Arc<Exporter> {
    sh("modprobe wireguard");
    Exporter::shared("wireguard", &["--wireguard.detail", "packet"])
}

/// Whether the module has BTF. Without it, offsets in the module's structs come from a table, and metrics
/// of the programs are absent until a peer that the programs saw is one that netlink lists.
fn has_module_btf() -> bool {
    Path::new("/sys/kernel/btf/wireguard").exists()
}

/// Where the module has no BTF: lets the programs see a peer that netlink lists.
fn verify_offsets(exporter: &Exporter) {
    if has_module_btf() {
        return;
    }
    let tunnel = Tunnel::new("");
    tunnel.exchange("left", "right", "10.98.0.2", 1);
    settle();
    let labels = [("netns", "left"), ("peer", &label("b.pub"))];
    assert_eq!(exporter.scrape().get(ATTEMPTS, &labels), Some(1.0));
}

/// Waits until no packet is in flight, by the interfaces' counters. A scrape would not do: while
/// maps are read, the kernel runs no kprobe program on that CPU.
fn settle() {
    let packets = |ns| statistic(ns, "rx_packets") + statistic(ns, "tx_packets");
    quiet(Duration::from_millis(300), || packets("left") + packets("right"));
}

/// Waits until a number stays the same for `time`.
fn quiet(time: Duration, number: impl Fn() -> f64) {
    let mut now = number();
    wait_until("nothing is on its way", Duration::from_secs(120), || {
        std::thread::sleep(time); // There is no event for "nothing happens".
        let before = now;
        now = number();
        before == now
    });
}

/// Compares the counters of a peer during `work` with those of its interface: bytes, packets
/// and errors, received and sent. No other peer of the interface may be active.
#[track_caller]
fn compared(exporter: &Exporter, namespace: &str, peer: &str, work: impl FnOnce()) -> Delta {
    let interface = ["rx_packets", "tx_packets", "rx_errors", "tx_errors", "tx_dropped"];
    let truth = || {
        let (rx, tx) = peers(namespace).iter().fold((0.0, 0.0), |(rx, tx), p| (rx + p.rx, tx + p.tx));
        let [a, b, c, d, e] = interface.map(|name| statistic(namespace, name));
        [rx, tx, a, b, c, d, e]
    };
    let (delta, ranges) = between(exporter, truth, work);
    delta.assert_whole();
    let of = |metric: &str, labels: &[(&str, &str)]| {
        delta.of(metric, &[labels, &[("netns", namespace), ("interface", "wg0")]].concat())
    };
    let drops = |direction: &str, reason: &str| of(DROPS, &[("direction", direction), ("reason", reason)]);
    let same = |what: &str, ours: f64, range: &RangeInclusive<f64>| {
        println!("{namespace} {what}: {ours}, the kernel {range:?}");
        assert!(range.contains(&ours), "{namespace} {what}: {ours}, the kernel {range:?}");
    };
    same("bytes received", of(BYTES, &[("peer", peer), ("direction", "rx")]), &ranges[0]);
    same("bytes sent", of(BYTES, &[("peer", peer), ("direction", "tx")]), &ranges[1]);
    // The interface does not count packets whose source address is not allowed.
    let received = of(PACKETS, &[("direction", "rx")]) - drops("rx", "source_not_allowed");
    same("packets received", received, &ranges[2]);
    // Cookie messages do not belong to a peer, but the interface counts them.
    let sent = of(PACKETS, &[("direction", "tx")]) + of(FAILURES, &[("reason", "cookie_required")]);
    same("packets sent", sent, &ranges[3]);
    same(
        "errors received",
        drops("rx", "source_not_allowed") + drops("rx", "malformed_contents"),
        &ranges[4],
    );
    same(
        "errors sent",
        drops("tx", "no_peer") + drops("tx", "no_endpoint") + drops("tx", "unsupported"),
        &ranges[5],
    );
    same("dropped", drops("tx", "staged_overflow") + drops("tx", "purged"), &ranges[6]);
    delta
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn traffic_and_handshakes_are_those_of_wg_show() {
    let exporter = start("packet");
    let tunnel = Tunnel::new("");
    let (left, right) = ([("netns", "left")], [("netns", "right")]);
    let text = exporter.scrape();
    assert_eq!(text.count(BYTES, &left), 0.0);
    // Netlink lists the peer, and nothing happened yet: 0.
    let attempts = text.get(ATTEMPTS, &[("netns", "left"), ("peer", &label("b.pub"))]);
    assert_eq!(attempts, has_module_btf().then_some(0.0));
    assert_eq!(text.get("ebpf_wireguard_handshake_age_seconds", &[("netns", "left")]), None);
    let work = || {
        tunnel.exchange("left", "right", "10.98.0.2", 50);
        tunnel.exchange("right", "left", "10.98.0.1", 30);
        settle();
    };
    let delta = compared(&exporter, "left", &label("b.pub"), work);
    assert_eq!(delta.of(ATTEMPTS, &left), 1.0);
    assert_eq!(delta.of(ATTEMPTS, &right), 0.0);
    for namespace in [left, right] {
        assert_eq!(delta.of(SUCCESS, &namespace), 1.0);
        assert_eq!(delta.of("ebpf_wireguard_keypair_rotations_total", &namespace), 1.0);
        assert_eq!(delta.of(FAILURES, &namespace), 0.0);
        assert_eq!(delta.of(DROPS, &namespace), 0.0);
    }
    let responses = "ebpf_wireguard_handshake_responses_total";
    assert_eq!(delta.of(responses, &[("netns", "left"), ("direction", "rx")]), 1.0);
    assert_eq!(delta.of(responses, &[("netns", "right"), ("direction", "tx")]), 1.0);
    assert_eq!(delta.of("ebpf_wireguard_handshake_latency_seconds_count", &left), 1.0);
    assert_eq!(delta.of("ebpf_wireguard_handshake_latency_seconds_count", &right), 0.0);
    assert_eq!(delta.of("ebpf_wireguard_rx_delivered_total", &right), 50.0);
    assert_eq!(delta.of("ebpf_wireguard_rx_delivered_total", &left), 30.0);
    let keepalives = |ns| delta.of("ebpf_wireguard_keepalives_total", &[("netns", ns), ("direction", "rx")]);
    assert_eq!(delta.of("ebpf_wireguard_decrypt_done_total", &right), 50.0 + keepalives("right"));
    let entered = delta.of("ebpf_wireguard_rx_enter_total", &right);
    assert_eq!(entered, delta.of(PACKETS, &[("netns", "right"), ("direction", "rx")]));
    // Now the other direction, and the ages, compared with wg show.
    let delta = compared(&exporter, "right", &label("a.pub"), || {
        tunnel.exchange("left", "right", "10.98.0.2", 5);
        settle();
    });
    // wg show has whole seconds.
    for namespace in ["left", "right"] {
        let since = |handshake: f64| sh("date +%s.%N").parse::<f64>().unwrap() - handshake;
        let handshake = peers(namespace)[0].handshake;
        let least = since(handshake + 1.0);
        let text = exporter.scrape();
        let most = since(handshake);
        let of = |metric: &str| text.get(metric, &[("netns", namespace)]).unwrap();
        let (age, session) =
            (of("ebpf_wireguard_handshake_age_seconds"), of("ebpf_wireguard_session_age_seconds"));
        println!("{namespace}: handshake {age} s ago, wg show {least} to {most}, session {session} s");
        assert!((least..=most).contains(&age), "{age}, wg show {least} to {most}");
        assert!((age - session).abs() < 1.0, "{age}, session {session}");
    }
    let info = [
        ("netns", "left"),
        ("public_key", &key("b.pub")),
        ("endpoint", "10.99.0.2:51821"),
        ("allowed_ips", "10.98.0.2/32"),
        ("name", ""),
    ];
    assert_eq!(delta.1.get("ebpf_wireguard_peer_info", &info), Some(1.0), "{delta:?}");
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn a_start_amid_traffic_makes_up_no_losses() {
    sh("modprobe wireguard");
    let tunnel = Tunnel::new("");
    tunnel.exchange("left", "right", "10.98.0.2", 1);
    let done = AtomicBool::new(false);
    let exporter = std::thread::scope(|scope| {
        let _done = Stop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                tunnel.exchange("left", "right", "10.98.0.2", 10);
            }
        });
        start("packet")
    });
    settle();
    let text = exporter.scrape();
    assert!(text.count("ebpf_wireguard_rx_enter_total", &[("netns", "right")]) > 0.0, "{text:?}");
    // One packet may have been in flight when counting began.
    let lost = text.count(DROPS, &[("netns", "right")]);
    assert!(lost <= 1.0, "{lost} lost");
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn keepalives_sent_are_keepalives_received() {
    let exporter = shared();
    let tunnel = Tunnel::new("");
    tunnel.exchange("left", "right", "10.98.0.2", 1);
    settle();
    let count = |ns, direction| {
        let labels = [("netns", ns), ("direction", direction)];
        exporter.scrape().count("ebpf_wireguard_keepalives_total", &labels)
    };
    let (sent, received) = (count("left", "tx"), count("right", "rx"));
    sh(&format!("ip netns exec left wg set wg0 peer {} persistent-keepalive 1", key("b.pub")));
    let before = statistic("left", "tx_packets");
    wait_until("five keepalives", Duration::from_secs(60), || {
        statistic("left", "tx_packets") >= before + 5.0
    });
    sh(&format!("ip netns exec left wg set wg0 peer {} persistent-keepalive 0", key("b.pub")));
    settle();
    let (sent, received) = (count("left", "tx") - sent, count("right", "rx") - received);
    assert!(sent >= 5.0 && sent == received, "{sent} sent, {received} received");
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn what_is_forged_is_told_apart() {
    let exporter = shared();
    let tunnel = Tunnel::new("");
    let mut tap = Tap::new();
    tunnel.exchange("left", "right", "10.98.0.2", 20);
    settle();
    let (initiation, data) = tap.recorded();
    let right = [("netns", "right"), ("interface", "wg0")];
    let injected = |what: &str, metric: &str, reason: &str, datagrams: Vec<Vec<u8>>| {
        let count = datagrams.len() as f64;
        let before = exporter.scrape();
        inject(&datagrams);
        settle();
        let labels = [right[0], right[1], ("reason", reason)];
        wait_until(what, Duration::from_secs(30), || {
            exporter.scrape().count(metric, &labels) - before.count(metric, &labels) >= count
        });
        let delta = Delta(before.clone(), exporter.scrape());
        println!("{what}: {} of {count}", delta.of(metric, &labels));
        assert_eq!(delta.of(metric, &labels), count, "{what}");
        // It is counted under no other reason.
        assert_eq!(delta.of(DROPS, &right) + delta.of(FAILURES, &right), count, "{what}: {delta:?}");
        assert_eq!(delta.of("ebpf_wireguard_rx_enter_total", &right), count, "{what}");
        delta.assert_nothing_lost();
    };
    let junk: Vec<Vec<u8>> = (0..40)
        .map(|n| match n % 4 {
            0 => [vec![9, 0, 0, 0], vec![n; 60]].concat(),
            1 => [vec![1, 0, 0, 0], vec![n; 100]].concat(),
            2 => vec![4, 0],
            _ => [vec![4, 1, 0, 0], vec![n; 60]].concat(),
        })
        .collect();
    injected("junk", DROPS, "malformed", junk);
    let macs = (0..20).map(|n| match n % 2 {
        0 => [vec![1, 0, 0, 0], vec![n; 144]].concat(),
        _ => [vec![2, 0, 0, 0], vec![n; 88]].concat(),
    });
    injected("wrong MACs", FAILURES, "bad_mac", macs.collect());
    let unknown = (0..15).map(|n| [vec![4, 0, 0, 0], vec![0xee; 4], vec![n; 8], vec![n; 48]].concat());
    injected("an index that nobody has", DROPS, "no_session", unknown.collect());
    injected("replayed", DROPS, "replayed", data[..10].to_vec());
    let flipped = data[..10].iter().map(|message| {
        let mut message = message.clone();
        *message.last_mut().unwrap() ^= 0x55;
        message
    });
    injected("flipped", DROPS, "undecryptable", flipped.collect());
    injected("an old initiation", FAILURES, "bad_initiation", vec![initiation.clone(); 5]);
    // No forged message counts for the peer, and the interface counts none of them.
    let delta = compared(&exporter, "right", &label("a.pub"), || {
        tunnel.exchange("left", "right", "10.98.0.2", 3);
        settle();
    });
    assert_eq!(delta.of(DROPS, &right), 0.0);
    assert_eq!(delta.of("ebpf_wireguard_endpoint_changes_total", &right), 0.0);

    // A flood: under load the responder asks for cookies, which the interface counts as sent.
    let flood = 2000.0;
    let refused = |text: &Exposition| {
        let of = |reason| text.count(FAILURES, &[right[0], right[1], ("reason", reason)]);
        ["cookie_required", "bad_initiation", "rate_limited", "bad_mac"].map(of)
    };
    let sent = || [statistic("right", "tx_packets")];
    let (delta, ranges) = between(&exporter, sent, || {
        let before = sent()[0];
        inject(&vec![initiation; flood as usize]);
        wait_until("the first cookie", Duration::from_secs(60), || sent()[0] > before);
        // The responder stays under load for a second after its queue was last long.
        quiet(Duration::from_millis(1500), || sent()[0]);
    });
    let grown: Vec<f64> =
        refused(&delta.1).iter().zip(refused(&delta.0)).map(|(after, before)| after - before).collect();
    println!("of {flood} initiations: cookies, bad, rate-limited, bad MAC: {grown:?}");
    assert!(grown[0] > 0.0, "{grown:?}");
    // Add messages to the peer, such as a keepalive.
    let cookies = grown[0] + delta.of(PACKETS, &[right[0], ("direction", "tx")]);
    assert!(ranges[0].contains(&cookies), "{cookies}, the interface {ranges:?}");
    // The rest found the queue full (4096 messages), or was accepted for a session.
    assert!(grown.iter().sum::<f64>() <= flood && grown.iter().sum::<f64>() > 0.5 * flood, "{grown:?}");
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn handshakes_that_find_the_queue_full_are_told_apart() {
    let exporter = shared();
    let tunnel = Tunnel::new("");
    let mut tap = Tap::new();
    tunnel.exchange("left", "right", "10.98.0.2", 20);
    settle();
    let flood = vec![tap.recorded().0; 10_000];
    let right = [("netns", "right"), ("interface", "wg0")];
    let full = |text: &Exposition| {
        let labels = [right[0], right[1], ("direction", "rx"), ("reason", "queue_full")];
        text.count(DROPS, &labels)
    };
    let before = exporter.scrape();
    assert_eq!(full(&before), 0.0);
    // The queue has room for 4096 messages. Kernel workers take them from it.
    wait_until("the queue is full", Duration::from_secs(60), || {
        without_workers(|| inject(&flood));
        quiet(Duration::from_millis(1500), || statistic("right", "tx_packets"));
        full(&exporter.scrape()) > 0.0
    });
    let delta = Delta(before, exporter.scrape());
    delta.assert_nothing_lost();
    let reasons = ["bad_mac", "cookie_required", "rate_limited", "bad_initiation", "bad_response"];
    let refused = reasons.map(|reason| delta.of(FAILURES, &[right[0], right[1], ("reason", reason)]));
    let [entered, dropped] =
        ["ebpf_wireguard_rx_enter_total", DROPS].map(|metric| delta.of(metric, &[right[0], right[1]]));
    let received = delta.of(PACKETS, &[right[0], right[1], ("direction", "rx")]);
    println!("of {entered} messages {dropped} were dropped, {refused:?} refused, {received} received");
    assert_eq!(dropped, full(&delta.1), "for no other reason");
    assert_eq!(entered, dropped + refused.iter().sum::<f64>() + received);
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn what_goes_nowhere_is_told_apart() {
    let exporter = shared();
    let tunnel = Tunnel::new("");
    tunnel.exchange("left", "right", "10.98.0.2", 1);
    settle();
    let delta = compared(&exporter, "left", &label("b.pub"), || {
        assert_eq!(tunnel.send("left", "10.98.200.5", 3), 0);
        tunnel.send("left", "10.98.0.3", 4);
        settle();
    });
    let of = |peer: &[(&str, &str)], reason| {
        delta.of(DROPS, &[peer, &[("netns", "left"), ("direction", "tx"), ("reason", reason)]].concat())
    };
    assert_eq!(of(&[], "no_peer"), 3.0);
    assert_eq!(of(&[("peer", &label("c.pub"))], "no_endpoint"), 4.0);
    assert_eq!(of(&[("peer", &label("b.pub"))], "no_endpoint"), 0.0);
    // Packets from a source address that is not allowed for the peer.
    let delta = compared(&exporter, "right", &label("a.pub"), || {
        sh("ip -n left addr add 10.98.77.1/32 dev wg0");
        live::net::inside("left", || {
            let socket = std::net::UdpSocket::bind("10.98.77.1:0").unwrap();
            (0..5).for_each(|_| assert_eq!(socket.send_to(&[1], "10.98.0.2:9").unwrap(), 1));
        });
        settle();
        sh("ip -n left addr del 10.98.77.1/32 dev wg0");
    });
    let denied = [("netns", "right"), ("peer", &label("a.pub")), ("reason", "source_not_allowed")];
    assert_eq!(delta.of(DROPS, &denied), 5.0);
}

#[live::test(kprobes, module("wireguard"), tool("wg"), waits)]
fn a_peer_that_is_gone_is_tried_until_it_is_given_up() {
    let exporter = start("packet");
    let tunnel = Tunnel::new("");
    sh("ip -n right link set wg0 down");
    let peer = label("b.pub");
    let labels = [("netns", "left"), ("peer", peer.as_str())];
    let delta = compared(&exporter, "left", &peer, || {
        // 128 packets can wait for a handshake, plus the newest. Older ones are dropped.
        assert_eq!(tunnel.send("left", "10.98.0.2", 300), 300);
        let overflow = [labels[0], labels[1], ("reason", "staged_overflow")];
        assert_eq!(exporter.scrape().count(DROPS, &overflow), 171.0);
        // Then the waiting packets are dropped. No scrapes here: see `settle`.
        wait_until("it is given up", Duration::from_secs(180), || statistic("left", "tx_dropped") >= 300.0);
        settle();
    });
    // drivers/net/wireguard/timers.c: MAX_TIMER_HANDSHAKES is 90 s / 5 s.
    assert_eq!(delta.of(ATTEMPTS, &labels), 20.0);
    let failed = |reason| delta.of(FAILURES, &[labels[0], labels[1], ("reason", reason)]);
    assert_eq!((failed("no_answer"), failed("gave_up")), (19.0, 1.0));
    assert_eq!(delta.of(DROPS, &[labels[0], labels[1], ("reason", "purged")]), 129.0);
    assert_eq!(delta.of(SUCCESS, &labels), 0.0);
    // Bring the peer back.
    let delta = compared(&exporter, "left", &peer, || {
        sh("ip -n right link set wg0 up");
        tunnel.exchange("left", "right", "10.98.0.2", 3);
        settle();
    });
    assert_eq!(delta.of(SUCCESS, &labels), 1.0);
}

#[live::test(kprobes, module("wireguard"), module("sch_netem"), tool("wg"))]
fn loss_roaming_and_a_hundred_peers() {
    let exporter = start("session");
    let tunnel = Tunnel::new("loss 20%");
    let right = [("netns", "right"), ("peer", label("a.pub").leak() as &str)];
    let changes = || exporter.scrape().count("ebpf_wireguard_endpoint_changes_total", &right);
    let delivered = |port: u16| {
        sh(&format!("ip netns exec left wg set wg0 listen-port {port}"));
        wait_until("the new port is known", Duration::from_secs(60), || {
            tunnel.send("left", "10.98.0.2", 5);
            let left = &peers("right")[0];
            // A change of the endpoint counts only if there is a session.
            left.handshake > 0.0 && left.endpoint == format!("10.99.0.1:{port}")
        });
    };
    delivered(51820);
    let before = changes();
    delivered(51999);
    wait_until("the change is seen", Duration::from_secs(30), || changes() == before + 1.0);
    delivered(51820);
    wait_until("and the next", Duration::from_secs(30), || changes() == before + 2.0);
    // Metrics that need a probe for each packet are absent.
    let text = exporter.scrape();
    assert!(text.labels(PACKETS).is_empty() && text.labels("ebpf_wireguard_rx_enter_total").is_empty());

    sh(&format!(
        "cd {KEYS}; for n in $(seq 100); do
            ip netns exec left wg set wg0 peer $(wg genkey | wg pubkey | tee many.$n) allowed-ips 10.97.0.$n/32 \\
                endpoint 10.99.0.2:$((40000 + n))
        done; ip -n left route add 10.97.0.0/24 dev wg0"
    ));
    let before = exporter.scrape();
    for n in 1..=100 {
        tunnel.send("left", &format!("10.97.0.{n}"), 1);
    }
    let attempts = |text: &Exposition, n: u32| {
        text.count(ATTEMPTS, &[("netns", "left"), ("peer", &label(&format!("many.{n}")))])
    };
    let mut text = exporter.scrape();
    wait_until("each was tried", Duration::from_secs(60), || {
        text = exporter.scrape();
        (1..=100).all(|n| attempts(&text, n) >= 1.0)
    });
    assert_eq!(text.labels("ebpf_wireguard_peer_info").len(), 103);
    Delta(before, text.clone()).assert_nothing_down();
    // A peer that is removed and added again is a new one. The others continue.
    let public = key("many.7");
    sh(&format!("ip netns exec left wg set wg0 peer {public} remove"));
    let gone = exporter.scrape();
    assert!(gone.get(ATTEMPTS, &[("netns", "left"), ("peer", &label("many.7"))]).is_none());
    assert_eq!(gone.labels("ebpf_wireguard_peer_info").len(), 102);
    sh(&format!("ip netns exec left wg set wg0 peer {public} allowed-ips 10.97.0.7/32"));
    let back = exporter.scrape();
    assert_eq!(back.get(ATTEMPTS, &[("netns", "left"), ("peer", &label("many.7"))]), Some(0.0));
    assert!(attempts(&back, 8) >= attempts(&text, 8));
    // If there is room for few peers, the others have no series, because 0 would be wrong.
    let small = Exporter::start("wireguard", &["--max-series", "16"]);
    wait_until("some find no room", Duration::from_secs(60), || {
        small.scrape().count(ATTEMPTS, &[("peer", "other")]) > 0.0
    });
    let shown = small.scrape().labels(ATTEMPTS).len();
    assert!(shown <= 16, "{shown} peers");
}

live::main!();
