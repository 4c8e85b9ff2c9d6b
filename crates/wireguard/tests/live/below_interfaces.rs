// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages that the host drops below the tunnel, compared with the interface's own counters.

use live::net::{inside, snmp_of_cable};
use live::sh;
use live::truth::between;
use live::wireguard::{Tunnel, key, label, statistic};

use super::{DROPS, PACKETS, settle, shared};

/// Messages that a side sent during `work`, and those that were dropped below the tunnel, compared
/// with the counters of its interface.
#[track_caller]
fn compared(what: &str, exporter: &live::exporter::Exporter, side: &str, work: impl FnOnce()) -> [f64; 2] {
    let truth = || {
        let lost = statistic(side, "tx_dropped") + statistic(side, "tx_errors");
        [statistic(side, "tx_packets"), lost]
    };
    let (delta, ranges) = between(exporter, truth, || {
        work();
        settle();
    });
    delta.assert_whole();
    let of = |metric: &str, more: (&str, &str)| {
        delta.of(metric, &[("netns", side), ("interface", "wg0"), ("direction", "tx"), more])
    };
    let ours = [of(PACKETS, ("interface", "wg0")), of(DROPS, ("reason", "not_sent"))];
    println!("{what}: {ours:?} sent and not sent, the interface {ranges:?}");
    for (ours, range) in ours.iter().zip(&ranges) {
        assert!(range.contains(ours), "{what}: {ours}, the interface {range:?}: {delta:?}");
    }
    ours
}

/// Sends `count` datagrams of `bytes` bytes through the tunnel. The kernel may refuse them.
fn send(from: &str, to: &str, bytes: usize, count: usize) {
    inside(from, || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..count).for_each(|_| drop(socket.send_to(&vec![7; bytes], (to, 9))));
    });
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn what_is_dropped_below_the_tunnel_is_not_sent() {
    let exporter = shared();
    let tunnel = Tunnel::new("");
    let end = |address: &str| {
        sh(&format!("ip netns exec left wg set wg0 peer {} endpoint {address}:51821", key("b.pub")));
    };
    for (family, address) in [("IPv4", "10.99.0.2"), ("IPv6", "[fd99::2]")] {
        end(address);
        tunnel.exchange("left", "right", "10.98.0.2", 1);
        settle();
        let sent = compared(family, &exporter, "left", || send("left", "10.98.0.2", 100, 3));
        assert_eq!(sent, [3.0, 0.0]);
        // A queue without room.
        sh("tc -n left qdisc add dev cable root pfifo limit 0");
        let sent =
            compared(&format!("{family}, no room"), &exporter, "left", || send("left", "10.98.0.2", 100, 5));
        sh("tc -n left qdisc del dev cable root");
        assert_eq!(sent, [0.0, 5.0]);
    }
    // Larger than the MTU of the cable at this end: the message is fragmented.
    end("10.99.0.2");
    tunnel.exchange("left", "right", "10.98.0.2", 1);
    settle();
    sh("ip -n left link set cable mtu 1000");
    let fragments = || snmp_of_cable(["Ip FragCreates"])[0];
    let before = fragments();
    let sent = compared("too long here", &exporter, "left", || send("left", "10.98.0.2", 1300, 5));
    assert_eq!((sent, fragments() - before), ([5.0, 0.0], 10.0));
    // Larger than the MTU of the other end. Whether the interface counts a drop depends on the kernel.
    let sent = compared("too long there", &exporter, "right", || send("right", "10.98.0.1", 1300, 5));
    assert!(sent[0] + sent[1] >= 5.0, "{sent:?}");
    let (peer, text) = (label("b.pub"), exporter.scrape());
    assert!(text.get(DROPS, &[("netns", "left"), ("peer", &peer), ("reason", "not_sent")]) >= Some(10.0));
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn a_reply_that_is_dropped_is_not_the_senders() {
    let exporter = shared();
    let _tunnel = Tunnel::new("");
    // The right side has no tunnel. It replies with an ICMP error in the sending thread, and drops that.
    sh("ip -n right link set wg0 down; tc -n right qdisc add dev cable root pfifo limit 0");
    let refused = || {
        let text = sh("ip netns exec right cat /sys/class/net/cable/statistics/tx_dropped");
        text.parse::<f64>().unwrap()
    };
    let before = refused();
    let sent = compared("nobody there", &exporter, "left", || {
        send("left", "10.98.0.2", 100, 1);
        settle();
    });
    println!("{} replies were dropped", refused() - before);
    assert!(sent[0] >= 1.0 && sent[1] == 0.0, "{sent:?}");
}
