// SPDX-License-Identifier: MIT OR Apache-2.0
//! A WireGuard tunnel between two network namespaces, and the counters of `wg` and of its interfaces.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::UdpSocket;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use crate::machine::sh;
use crate::net::{Cable, inside};

/// Interfaces `wg0` in both namespaces of a cable, with addresses 10.98.0.1 and 10.98.0.2 and ports 51820
/// and 51821. Each is a peer of the other. The left one also has a peer 10.98.0.3 without an endpoint,
/// and a route to 10.98.200.0/24, which no peer is allowed to use.
#[derive(Debug)]
pub struct Tunnel {
    _cable: Cable,
}

/// Directory with the keys: `a.key`, `a.pub`, ..., and the preshared key `psk`.
pub const KEYS: &str = "/run/wireguard-keys";

/// A peer, from `wg show wg0 dump`.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Public key.
    pub key: String,
    /// Its endpoint, as `address:port`, or `(none)`.
    pub endpoint: String,
    /// Time of the last handshake, in seconds since 1970; 0 for never.
    pub handshake: f64,
    /// Bytes received.
    pub rx: f64,
    /// Bytes sent.
    pub tx: f64,
}

impl Tunnel {
    /// Creates the tunnel, with `netem` on the cable (empty for none).
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn new(netem: &str) -> Self {
        let tunnel = Self { _cable: Cable::new(netem) };
        sh(&format!(
            "mkdir -p {KEYS}; cd {KEYS}; umask 077
            for k in a b c; do wg genkey > $k.key; wg pubkey < $k.key > $k.pub; done; wg genpsk > psk
            for ns in left right; do ip -n $ns link add wg0 type wireguard; done
            ip netns exec left wg set wg0 listen-port 51820 private-key a.key \\
                peer $(cat b.pub) preshared-key psk allowed-ips 10.98.0.2/32 endpoint 10.99.0.2:51821 \\
                peer $(cat c.pub) allowed-ips 10.98.0.3/32
            ip netns exec right wg set wg0 listen-port 51821 private-key b.key \\
                peer $(cat a.pub) preshared-key psk allowed-ips 10.98.0.1/32
            for n in 1 2; do
                [ $n = 1 ] && ns=left || ns=right
                echo \"addr add 10.98.0.$n/24 dev wg0
                      link set wg0 up\" | ip -n $ns -batch -
            done
            ip -n left route add 10.98.200.0/24 dev wg0"
        ));
        tunnel
    }

    /// Sends `count` datagrams from a namespace to an address. Returns how many the kernel accepted.
    ///
    /// # Panics
    /// When no socket can be opened.
    #[track_caller]
    pub fn send(&self, from: &str, to: &str, count: u32) -> u32 {
        inside(from, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            (0..count).map(|_| u32::from(socket.send_to(&[7; 100], (to, 9)).is_ok())).sum()
        })
    }

    /// Sends `count` datagrams through the tunnel and waits until each arrives at the other end.
    ///
    /// # Panics
    /// When one does not arrive.
    #[track_caller]
    pub fn exchange(&self, from: &str, to: &str, address: &str, count: u32) {
        let receiver = inside(to, || UdpSocket::bind((address, 0)).expect("a socket"));
        let port = receiver.local_addr().expect("bound").port();
        receiver.set_read_timeout(Some(Duration::from_secs(30))).expect("valid");
        let sender = inside(from, || UdpSocket::bind("0.0.0.0:0").expect("a socket"));
        for _ in 0..count {
            sender.send_to(&[7; 100], (address, port)).expect("sent");
            receiver.recv(&mut [0; 200]).expect("it comes");
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // If this fails, the next test fails.
        let _ = fs::remove_dir_all(KEYS);
    }
}

/// Sends datagrams from outside the tunnel, from the left namespace to the right interface.
///
/// # Panics
/// When one cannot be sent.
#[track_caller]
pub fn inject(datagrams: &[Vec<u8>]) {
    inside("left", || {
        let socket = UdpSocket::bind("10.99.0.1:0").expect("a socket");
        for datagram in datagrams {
            socket.send_to(datagram, "10.99.0.2:51821").expect("sent");
        }
    });
}

/// Captures the messages that arrive at the right interface.
#[derive(Debug)]
pub struct Tap(fs::File);

impl Tap {
    /// Starts the capture.
    ///
    /// # Panics
    /// When no packet socket can be opened.
    #[track_caller]
    pub fn new() -> Self {
        inside("right", || {
            let protocol = i32::from((libc::ETH_P_IP as u16).to_be());
            // SAFETY: the system calls take no pointers; the descriptor has no other owner.
            let fd = unsafe {
                let flags = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                let fd = libc::socket(libc::AF_PACKET, flags, protocol);
                assert!(fd >= 0, "a packet socket");
                OwnedFd::from_raw_fd(fd)
            };
            Self(fd.into())
        })
    }

    /// The first handshake initiation, and all data messages except keepalives, that have arrived so far.
    ///
    /// # Panics
    /// When there are fewer than ten such data messages.
    #[track_caller]
    pub fn recorded(&mut self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let messages = self.messages();
        let of = |kind: u8| messages.iter().filter(move |message| message[0] == kind).cloned();
        let data: Vec<Vec<u8>> = of(4).filter(|message| message.len() > 32).collect();
        assert!(data.len() >= 10, "{} messages", data.len());
        (of(1).next().expect("an initiation"), data)
    }

    /// The messages that have arrived so far, oldest first.
    ///
    /// # Panics
    /// When reading the socket fails.
    #[track_caller]
    pub fn messages(&mut self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut packet = vec![0; 65536];
        loop {
            let length = match self.0.read(&mut packet) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return found,
                Err(error) => panic!("reading packets: {error}"),
            };
            let header = usize::from(packet[0] & 15) * 4;
            let udp = &packet[header..length];
            // UDP to the interface's port. The UDP header has eight bytes.
            if packet[9] == 17 && udp[2..4] == 51821u16.to_be_bytes() && udp.len() > 8 {
                found.push(udp[8..].to_vec());
            }
        }
    }
}

impl Default for Tap {
    fn default() -> Self {
        Self::new()
    }
}

/// The peers of `wg0` in a namespace.
///
/// # Panics
/// When `wg` fails.
#[track_caller]
pub fn peers(namespace: &str) -> Vec<Peer> {
    let text = sh(&format!("ip netns exec {namespace} wg show wg0 dump | tail -n +2"));
    let peer = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |at: usize| fields[at].parse().expect("a number");
        Peer {
            key: fields[0].to_owned(),
            endpoint: fields[2].to_owned(),
            handshake: number(4),
            rx: number(5),
            tx: number(6),
        }
    };
    text.lines().map(peer).collect()
}

/// A counter of `wg0` in a namespace: `rx_packets`, `rx_errors`, `tx_packets`, `tx_errors` or
/// `tx_dropped`. It starts no process, because tests poll it.
///
/// # Panics
/// When there is none with that name.
#[track_caller]
pub fn statistic(namespace: &str, name: &str) -> f64 {
    // net/core/net-procfs.c: dev_seq_printf_stats().
    let column = match name {
        "rx_packets" => 1,
        "rx_errors" => 2,
        "tx_packets" => 9,
        "tx_errors" => 10,
        "tx_dropped" => 11,
        _ => panic!("no column for {name}"),
    };
    let text = inside(namespace, || fs::read_to_string("/proc/thread-self/net/dev").expect("it is there"));
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("wg0:")).expect("an interface");
    line.split_whitespace().nth(column).expect("a column").parse().expect("a number")
}

/// A key, as text.
///
/// # Panics
/// When there is none with that name.
#[track_caller]
pub fn key(file: &str) -> String {
    fs::read_to_string(format!("{KEYS}/{file}")).expect("a key").trim_end().to_owned()
}

/// The label `peer` for the public key in a file.
///
/// # Panics
/// When there is none with that name.
#[track_caller]
pub fn label(file: &str) -> String {
    format!("{}...", &key(file)[..12])
}
