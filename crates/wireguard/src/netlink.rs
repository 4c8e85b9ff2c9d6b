// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads interfaces and peers over generic netlink (include/uapi/linux/wireguard.h).
//!
//! The kernel always sends the private key of an interface and the preshared keys of its peers too.
//! They are never read, and the only buffer that holds them is wiped after each message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    Emitable, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NlaBuffer,
    NlasIterator,
};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr as Port};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// Bytes of a public key.
pub const KEY_BYTES: usize = 32;

/// A public key.
pub type Key = [u8; KEY_BYTES];

/// A WireGuard interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Index in its network namespace.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Peers, in the kernel's order.
    pub peers: Vec<Peer>,
}

/// A peer of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Public key.
    pub key: Key,
    /// Last known or configured endpoint.
    pub endpoint: Option<SocketAddr>,
    /// Time of the last completed handshake, since 1970; None if there was none.
    pub handshake: Option<Duration>,
    /// Bytes received, as `wg show` has them.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Allowed IPs: addresses with prefix lengths.
    pub allowed: Vec<(IpAddr, u8)>,
}

/// The longest message: the kernel makes none of more than 32 KiB (af_netlink.c).
const BUFFER_BYTES: usize = 64 << 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
const GENL_HEADER_BYTES: usize = 4;
const IFINFO_BYTES: usize = 16;

/// Numbers of the kernel's enumerators and macros, under their own names.
mod number {
    pub const RTM_NEWLINK: u16 = 16;
    pub const RTM_GETLINK: u16 = 18;
    pub const IFLA_IFNAME: u16 = 3;
    pub const IFLA_LINKINFO: u16 = 18;
    pub const IFLA_INFO_KIND: u16 = 1;
    pub const GENL_ID_CTRL: u16 = 16;
    pub const CTRL_CMD_GETFAMILY: u8 = 3;
    pub const CTRL_ATTR_FAMILY_ID: u16 = 1;
    pub const CTRL_ATTR_FAMILY_NAME: u16 = 2;
    pub const WG_CMD_GET_DEVICE: u8 = 0;
    pub const WGDEVICE_A_IFINDEX: u16 = 1;
    pub const WGDEVICE_A_PEERS: u16 = 8;
    pub const WGPEER_A_PUBLIC_KEY: u16 = 1;
    pub const WGPEER_A_ENDPOINT: u16 = 4;
    pub const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
    pub const WGPEER_A_RX_BYTES: u16 = 7;
    pub const WGPEER_A_TX_BYTES: u16 = 8;
    pub const WGPEER_A_ALLOWEDIPS: u16 = 9;
    pub const WGALLOWEDIP_A_IPADDR: u16 = 2;
    pub const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;
}

/// All WireGuard interfaces of the calling thread's network namespace.
///
/// # Errors
/// When the kernel refuses: reading peers takes CAP_NET_ADMIN in the namespace.
pub fn devices() -> Result<Vec<Device>> {
    let mut devices = links().context("failed to list network interfaces")?;
    if devices.is_empty() {
        return Ok(devices);
    }
    let mut generic = Channel::open(NETLINK_GENERIC)?;
    let family = family(&mut generic).context("failed to find the netlink family of WireGuard")?;
    for device in &mut devices {
        peers(&mut generic, family, device)
            .with_context(|| format!("failed to read the peers of {}", device.name))?;
    }
    Ok(devices)
}

struct Channel {
    socket: Socket,
    buffer: Zeroizing<Vec<u8>>,
    sequence: u32,
}

impl Channel {
    fn open(protocol: isize) -> Result<Self> {
        let mut socket = Socket::new(protocol).context("failed to open a netlink socket")?;
        socket.bind_auto().context("failed to bind a netlink socket")?;
        socket.connect(&Port::new(0, 0)).context("failed to connect the netlink socket")?;
        Ok(Self { socket, buffer: Zeroizing::new(vec![0; BUFFER_BYTES]), sequence: 0 })
    }

    /// Sends a request and passes the payload of each answer to `each`. Returns whether the answers
    /// were interrupted by a change.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        payload: &[u8],
        mut each: impl FnMut(u16, &[u8]) -> Result<()>,
    ) -> Result<bool> {
        self.sequence += 1;
        let mut message = vec![0; HEADER_BYTES + payload.len()];
        let mut header = NetlinkHeader::default();
        header.length = message.len() as u32;
        header.message_type = kind;
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        header.emit(&mut message);
        message[HEADER_BYTES..].copy_from_slice(payload);
        self.socket.send(&message, 0).context("failed to send a netlink request")?;
        let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut changed = false;
        loop {
            let length = self.socket.recv(&mut &mut self.buffer[..], 0).context("no answer")?;
            let over = read(&self.buffer[..length], is_dump, &mut changed, &mut each);
            // Wipe what was received, which includes secrets, before doing anything else.
            zeroize::Zeroize::zeroize(&mut self.buffer[..length]);
            if over? {
                return Ok(changed);
            }
        }
    }
}

/// Parses the messages of one datagram. Returns whether it was the last.
fn read(
    mut rest: &[u8],
    is_dump: bool,
    changed: &mut bool,
    each: &mut impl FnMut(u16, &[u8]) -> Result<()>,
) -> Result<bool> {
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).context("a netlink message is truncated")?;
        *changed |= message.flags() & NLM_F_DUMP_INTR != 0;
        let payload = message.payload();
        match message.message_type() {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let code = payload.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                if code == 0 {
                    return Ok(true);
                }
                return Err(refusal(code));
            }
            kind => each(kind, payload)?,
        }
        let length = (message.length() as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(!is_dump)
}

fn refusal(code: i32) -> anyhow::Error {
    let error = Errno::from_raw_os_error(-code);
    if error == Errno::PERM {
        return anyhow::anyhow!("{error}: it takes CAP_NET_ADMIN");
    }
    error.into()
}

fn attribute(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    into.extend(length.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

fn attributes(payload: &[u8]) -> impl Iterator<Item = Result<NlaBuffer<&[u8]>>> {
    NlasIterator::new(payload).map(|item| item.context("a netlink attribute is truncated"))
}

/// The value of an attribute. For an array, its elements follow one another.
fn value<'a>(attribute: &NlaBuffer<&'a [u8]>) -> &'a [u8] {
    let whole: &'a [u8] = attribute.into_inner();
    &whole[4..4 + attribute.value_length()]
}

fn word(bytes: &[u8]) -> u64 {
    common::read::layout::number(bytes)
}

/// Text without its terminating NUL.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// Interfaces of kind wireguard, without their peers.
fn links() -> Result<Vec<Device>> {
    let mut route = Channel::open(NETLINK_ROUTE)?;
    let mut kind = Vec::new();
    attribute(&mut kind, number::IFLA_INFO_KIND, b"wireguard");
    let mut request = vec![0; IFINFO_BYTES];
    attribute(&mut request, number::IFLA_LINKINFO, &kind);
    loop {
        let mut links = Vec::new();
        let changed = route.ask(number::RTM_GETLINK, NLM_F_DUMP, &request, |kind, payload| {
            if kind == number::RTM_NEWLINK {
                links.extend(link(payload)?);
            }
            Ok(())
        })?;
        if !changed {
            return Ok(links);
        }
    }
}

/// Parses a message with struct ifinfomsg and attributes; None for another kind.
fn link(payload: &[u8]) -> Result<Option<Device>> {
    let (Some(index), Some(rest)) = (payload.get(4..8), payload.get(IFINFO_BYTES..)) else {
        bail!("a netlink message is truncated");
    };
    let mut device = Device { ifindex: word(index) as u32, ..Device::default() };
    let mut is_wireguard = false;
    for item in attributes(rest) {
        let item = item?;
        match item.kind() {
            number::IFLA_IFNAME => device.name = text(value(&item)),
            number::IFLA_LINKINFO => {
                for item in attributes(value(&item)) {
                    let item = item?;
                    is_wireguard |=
                        item.kind() == number::IFLA_INFO_KIND && text(value(&item)) == "wireguard";
                }
            }
            _ => {}
        }
    }
    Ok(is_wireguard.then_some(device))
}

fn family(generic: &mut Channel) -> Result<u16> {
    let mut request = vec![number::CTRL_CMD_GETFAMILY, 1, 0, 0];
    attribute(&mut request, number::CTRL_ATTR_FAMILY_NAME, b"wireguard\0");
    let mut id = None;
    generic.ask(number::GENL_ID_CTRL, 0, &request, |_, payload| {
        for item in attributes(payload.get(GENL_HEADER_BYTES..).unwrap_or_default()) {
            let item = item?;
            if item.kind() == number::CTRL_ATTR_FAMILY_ID {
                id = Some(word(value(&item)) as u16);
            }
        }
        Ok(())
    })?;
    id.context("the kernel has no WireGuard")
}

fn peers(generic: &mut Channel, family: u16, device: &mut Device) -> Result<()> {
    let mut request = vec![number::WG_CMD_GET_DEVICE, 1, 0, 0];
    attribute(&mut request, number::WGDEVICE_A_IFINDEX, &device.ifindex.to_ne_bytes());
    loop {
        let mut peers = Vec::new();
        let changed = generic.ask(family, NLM_F_DUMP, &request, |_, payload| {
            more_peers(payload.get(GENL_HEADER_BYTES..).unwrap_or_default(), &mut peers)
        })?;
        if !changed {
            device.peers = peers;
            return Ok(());
        }
    }
}

/// The peers in one message. The last peer of a message continues in the next one if its addresses
/// did not fit.
fn more_peers(payload: &[u8], peers: &mut Vec<Peer>) -> Result<()> {
    for item in attributes(payload) {
        let item = item?;
        if item.kind() != number::WGDEVICE_A_PEERS {
            continue;
        }
        for element in attributes(value(&item)) {
            let peer = peer(value(&element?))?;
            match peers.last_mut() {
                Some(last) if last.key == peer.key => last.allowed.extend(peer.allowed),
                _ => peers.push(peer),
            }
        }
    }
    Ok(())
}

fn peer(payload: &[u8]) -> Result<Peer> {
    let mut peer = Peer::default();
    for item in attributes(payload) {
        let item = item?;
        let bytes = value(&item);
        match item.kind() {
            number::WGPEER_A_PUBLIC_KEY => {
                peer.key = bytes.try_into().context("a public key has the wrong length")?
            }
            number::WGPEER_A_ENDPOINT => peer.endpoint = endpoint(bytes),
            number::WGPEER_A_LAST_HANDSHAKE_TIME => {
                // struct __kernel_timespec
                let (seconds, rest) =
                    bytes.split_at_checked(8).context("a netlink timestamp is truncated")?;
                let time = Duration::new(word(seconds), word(rest) as u32);
                peer.handshake = (!time.is_zero()).then_some(time);
            }
            number::WGPEER_A_RX_BYTES => peer.rx_bytes = word(bytes),
            number::WGPEER_A_TX_BYTES => peer.tx_bytes = word(bytes),
            number::WGPEER_A_ALLOWEDIPS => {
                for element in attributes(bytes) {
                    peer.allowed.extend(allowed(value(&element?))?);
                }
            }
            _ => {}
        }
    }
    Ok(peer)
}

/// Parses a struct sockaddr_in or sockaddr_in6.
fn endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match i32::from(u16::from_ne_bytes(*bytes.first_chunk()?)) {
        libc::AF_INET => Some(SocketAddr::new(address(bytes.get(4..8)?)?, port)),
        libc::AF_INET6 => Some(SocketAddr::new(address(bytes.get(8..24)?)?, port)),
        _ => None,
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn allowed(payload: &[u8]) -> Result<Option<(IpAddr, u8)>> {
    let (mut to, mut prefix) = (None, 0);
    for item in attributes(payload) {
        let item = item?;
        match item.kind() {
            number::WGALLOWEDIP_A_IPADDR => to = address(value(&item)),
            number::WGALLOWEDIP_A_CIDR_MASK => prefix = word(value(&item)) as u8,
            _ => {}
        }
    }
    Ok(to.map(|to| (to, prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(kind: u16, parts: &[(u16, Vec<u8>)]) -> (u16, Vec<u8>) {
        let mut bytes = Vec::new();
        parts.iter().for_each(|(kind, value)| attribute(&mut bytes, *kind, value));
        (kind, bytes)
    }

    fn address(last: u8) -> (u16, Vec<u8>) {
        let address = (number::WGALLOWEDIP_A_IPADDR, vec![10, 0, 0, last]);
        nested(0, &[(1, 2u16.to_ne_bytes().to_vec()), address, (number::WGALLOWEDIP_A_CIDR_MASK, vec![24])])
    }

    /// The payload of a message with these peers, after its two headers. It has secret keys before the
    /// peers and between them.
    fn message(peers: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let peers = nested(number::WGDEVICE_A_PEERS, peers);
        nested(0, &[(3, vec![0xee; 32]), peers]).1
    }

    #[test]
    fn a_peer_goes_on_in_the_next_message() {
        let mut endpoint = vec![0; 16];
        endpoint[..8].copy_from_slice(&[2, 0, 0xca, 0x6c, 192, 0, 2, 7]);
        let time = [7u64.to_ne_bytes(), 500u64.to_ne_bytes()].concat();
        let first = nested(
            0,
            &[
                (number::WGPEER_A_PUBLIC_KEY, vec![1; 32]),
                (2, vec![0xee; 32]),
                (number::WGPEER_A_ENDPOINT, endpoint),
                (number::WGPEER_A_LAST_HANDSHAKE_TIME, time),
                (number::WGPEER_A_RX_BYTES, 4096u64.to_ne_bytes().to_vec()),
                (number::WGPEER_A_TX_BYTES, 8192u64.to_ne_bytes().to_vec()),
                nested(number::WGPEER_A_ALLOWEDIPS, &[address(0)]),
            ],
        );
        let more = |key: u8, last: u8| {
            let addresses = nested(number::WGPEER_A_ALLOWEDIPS, &[address(last)]);
            nested(0, &[(number::WGPEER_A_PUBLIC_KEY, vec![key; 32]), addresses])
        };
        let mut peers = Vec::new();
        more_peers(&message(&[first]), &mut peers).expect("a peer");
        more_peers(&message(&[more(1, 1), more(2, 2)]), &mut peers).expect("more");
        let allowed = |last: u8| (IpAddr::from(Ipv4Addr::new(10, 0, 0, last)), 24);
        let known = Peer {
            key: [1; 32],
            endpoint: Some(([192, 0, 2, 7], 51820).into()),
            handshake: Some(Duration::new(7, 500)),
            rx_bytes: 4096,
            tx_bytes: 8192,
            allowed: vec![allowed(0), allowed(1)],
        };
        let other = Peer { key: [2; 32], allowed: vec![allowed(2)], ..Peer::default() };
        assert_eq!(peers, [known, other]);
        assert!(!format!("{peers:?}").contains("238, 238"), "a secret was kept");
    }

    #[test]
    fn what_is_cut_short_is_an_error_and_no_panic() {
        let peer =
            nested(0, &[(number::WGPEER_A_PUBLIC_KEY, vec![1; 32]), (number::WGPEER_A_ENDPOINT, vec![2])]);
        let whole = message(&[peer]);
        for end in 0..whole.len() {
            let _ = more_peers(&whole[..end], &mut Vec::new());
            let _ = read(&whole[..end], true, &mut false, &mut |_, _| Ok(()));
            let _ = link(&whole[..end]);
        }
        assert!(more_peers(&whole[..whole.len() - 1], &mut Vec::new()).is_err());
    }

    #[test]
    fn a_refusal_says_what_it_takes() {
        let mut error = vec![20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        error.extend((-1i32).to_ne_bytes());
        let refused = read(&error, true, &mut false, &mut |_, _| Ok(())).expect_err("EPERM");
        assert!(refused.to_string().contains("CAP_NET_ADMIN"), "{refused}");
    }
}
