// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interfaces that are created, removed or moved, and those of other users: which numbers they get.

use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::Exposition;
use live::net::inside;
use live::wireguard::{Tunnel, label};
use live::work::Running;
use live::{sh, wait_until};

use super::{ATTEMPTS, DROPS, has_module_btf, settle, start, verify_offsets};

/// A network namespace without a name, which exists until this is dropped.
struct Unnamed(Running);

impl Unnamed {
    /// `options` are further options of unshare(1).
    fn new(options: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.arg("--net").args(options).args(["sleep", "infinity"]).stdout(Stdio::null());
        let unnamed = Self(Running::start(&mut command));
        wait_until("it is in there", Duration::from_secs(30), || {
            sh(&format!("cat /proc/{}/comm", unnamed.0.0.id())) == "sleep"
        });
        unnamed.run("ip link set lo up");
        unnamed
    }

    fn file(&self) -> String {
        format!("/proc/{}/ns/net", self.0.0.id())
    }

    fn inode(&self) -> String {
        sh(&format!("stat -Lc %i {}", self.file()))
    }

    fn run(&self, line: &str) -> String {
        sh(&format!("nsenter --net={} sh -ec '{line}'", self.file()))
    }

    /// Creates an interface with `peers` peers. It sends to them at once, and they do not answer.
    fn tries(&self, peers: u32) {
        self.run(&format!(
            "ip link add wg0 type wireguard; umask 077; wg genkey > /run/unnamed.key
            wg set wg0 private-key /run/unnamed.key; rm /run/unnamed.key
            for n in $(seq {peers}); do
                wg set wg0 peer $(wg genkey | wg pubkey) endpoint 127.0.0.1:$((40000 + n)) persistent-keepalive 1
            done
            ip link set wg0 up"
        ));
    }
}

/// Handshake attempts of peers with these labels.
fn attempts(text: &Exposition, labels: &[(&str, &str)]) -> Option<f64> {
    text.get(ATTEMPTS, labels)
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn a_namespace_with_anothers_inode_begins_anew() {
    let exporter = start("packet");
    let make = |name: &str| {
        sh(&format!(
            "ip netns add {name}; ip -n {name} link add wg0 type wireguard
            ip -n {name} addr add 10.50.0.1/24 dev wg0; ip -n {name} link set wg0 up"
        ));
        sh(&format!("stat -Lc %i /run/netns/{name}; ip -n {name} -o link show wg0 | cut -d: -f1"))
    };
    // Send to an address that no peer has.
    let lose = |name: &str, count: usize| {
        inside(name, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            (0..count).for_each(|_| assert!(socket.send_to(&[1], "10.50.0.77:9").is_err()));
        });
    };
    let no_peer = |name| [("netns", name), ("interface", "wg0"), ("reason", "no_peer")];
    let lost = |text: &Exposition, name| text.count(DROPS, &no_peer(name));
    let place = make("vpn1");
    lose("vpn1", 9);
    assert_eq!(exporter.scrape().get(DROPS, &no_peer("vpn1")), has_module_btf().then_some(9.0));
    verify_offsets(&exporter);
    assert_eq!(lost(&exporter.scrape(), "vpn1"), 9.0);
    sh("ip netns del vpn1");
    // The inode number is free when the kernel has removed the namespace.
    wait_until("the inode is given again", Duration::from_secs(120), || {
        let same = make("vpn2") == place;
        if !same {
            sh("ip netns del vpn2");
        }
        same
    });
    let text = exporter.scrape();
    assert_eq!((lost(&text, "vpn1"), lost(&text, "vpn2")), (0.0, 0.0), "{text:?}");
    lose("vpn2", 4);
    let text = exporter.scrape();
    sh("ip netns del vpn2");
    assert_eq!((lost(&text, "vpn1"), lost(&text, "vpn2")), (0.0, 4.0), "{text:?}");
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn a_moved_interface_is_shown_where_it_is() {
    let exporter = start("packet");
    // Netlink does not list the peer before the move.
    verify_offsets(&exporter);
    let unnamed = Unnamed::new(&[]);
    let inode = unnamed.inode();
    let (old, new) = ([("netns", inode.as_str())], [("netns", "moved")]);
    unnamed.tries(1);
    let mut before = 0.0;
    wait_until("it is tried", Duration::from_secs(60), || {
        before = attempts(&exporter.scrape(), &old).unwrap_or(0.0);
        before >= 1.0
    });
    sh("ip netns add moved; ip -n moved link set lo up");
    unnamed.run("ip link set wg0 netns moved");
    // Until it is up again, the exporter cannot tell which interface there it is.
    let text = exporter.scrape();
    let shown = (attempts(&text, &old), attempts(&text, &new));
    let sent = |text: &Exposition, labels| text.get("ebpf_wireguard_packets_total", labels);
    let packets = (sent(&text, &old), sent(&text, &new));
    // Longer than entries of an unknown interface are kept. There is no event to wait for.
    std::thread::sleep(Duration::from_secs(12));
    exporter.scrape();
    sh("ip -n moved link set wg0 up");
    let mut text = exporter.scrape();
    wait_until("it is tried there", Duration::from_secs(60), || {
        text = exporter.scrape();
        attempts(&text, &new) > Some(before)
    });
    let latency = text.get("ebpf_wireguard_handshake_latency_seconds_count", &new);
    let under_the_old_name = text.series().filter(|(_, labels)| labels.contains(&old[0])).count();
    sh("ip netns del moved");
    assert_eq!((shown, packets), ((None, None), (None, None)), "between two places");
    assert_eq!(under_the_old_name, 0, "{text:?}");
    assert_eq!(latency, Some(0.0));
}

#[live::test(kprobes, module("wireguard"), tool("wg"))]
fn namespaces_of_other_users_share_a_series() {
    sh("modprobe wireguard");
    let exporter = Exporter::start("wireguard", &["--wireguard.detail", "packet", "--max-series", "16"]);
    // Netlink lists none of the first thirty peers.
    verify_offsets(&exporter);
    let foreign = Unnamed::new(&["--user", "--map-root-user"]);
    foreign.tries(30);
    let shared = [("netns", "other"), ("interface", "other"), ("peer", "other")];
    wait_until("all are tried", Duration::from_secs(120), || {
        attempts(&exporter.scrape(), &shared).unwrap_or(0.0) >= 30.0
    });
    // Peers in the machine's own namespaces still find room, also those without traffic.
    let tunnel = Tunnel::new("");
    tunnel.exchange("left", "right", "10.98.0.2", 3);
    settle();
    let text = exporter.scrape();
    assert_eq!(attempts(&text, &[("netns", "left"), ("peer", &label("b.pub"))]), Some(1.0), "{text:?}");
    assert_eq!(attempts(&text, &[("netns", "left"), ("peer", &label("c.pub"))]), Some(0.0), "{text:?}");
    let without = |metric: &str| text.labels(metric).iter().filter(|l| !l.contains_key("netns")).count();
    assert_eq!((without(ATTEMPTS), without(DROPS)), (0, 0), "{text:?}");
    assert_eq!(text.get("ebpf_exporter_folded_events_total", &[]).unwrap_or(0.0), 0.0);
    assert!(text.count("ebpf_wireguard_packets_total", &[shared[0], ("direction", "tx")]) >= 30.0);
    // A namespace of another user that has a name gets its own series.
    let tenant = Unnamed::new(&["--user", "--map-root-user"]);
    sh(&format!("touch /run/netns/tenant; mount --bind {} /run/netns/tenant", tenant.file()));
    exporter.scrape();
    tenant.tries(1);
    let mut text = exporter.scrape();
    wait_until("it is tried", Duration::from_secs(60), || {
        text = exporter.scrape();
        attempts(&text, &[("netns", "tenant"), ("interface", "wg0")]) >= Some(1.0)
    });
    sh("umount /run/netns/tenant; rm /run/netns/tenant");
    assert!(attempts(&text, &shared) >= Some(30.0), "{text:?}");
}
