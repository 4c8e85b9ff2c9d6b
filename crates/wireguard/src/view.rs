// SPDX-License-Identifier: MIT OR Apache-2.0
//! What netlink tells of peers, and which of them the programs' numbers are of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use common::decode::until_nul;
use common::engine::Live;
use common::layout::Field;
use common::maps::MapSource;
use common::metric::{Families, Labels, Value};
use common::render::{OTHER, number};
use common::roster::{Roster, Rosters};
use rustix::time::{ClockId, clock_gettime};

use crate::names::{Names, encode};
use crate::namespaces::{Namespace, Refusal};
use crate::netlink::{self, Device, Key, Peer};

/// How long an entry stays that nobody knows: netlink was asked before it was made.
const GRACE: Duration = Duration::from_secs(10);

/// After which no key is kept any more: three times `REJECT_AFTER_TIME`
/// (drivers/net/wireguard/timers.c: `wg_expired_zero_key_material`).
const KEY_GONE: Duration = Duration::from_secs(3 * 180);

/// Characters of a public key that make the label `peer`.
const SHORT: usize = 12;

/// Peers, and the labels of what is counted of them.
#[derive(Debug, Default)]
pub struct View {
    /// Names that people gave.
    names: Names,
    /// Whether `peer` is the whole key.
    full_keys: bool,
    /// Whether namespaces are entered that are not this process's own.
    everywhere: bool,
    /// Whether the programs read through a table that has to prove itself.
    unproven: bool,
    /// Labels by map.
    pub rosters: Rosters,
    spaces: Vec<(Namespace, Vec<Device>)>,
    /// Namespaces, and folders of them, that could not be read, and were complained of.
    closed: BTreeSet<String>,
    /// How many of them there are now.
    left_out: usize,
    /// Entries that nobody knows, and since when.
    strangers: BTreeMap<(&'static str, Vec<u8>), Instant>,
    distrusted: bool,
    /// Of peers by id, boot time in nanoseconds.
    birthdates: Vec<(Labels, u64)>,
    /// The greatest that was shown of numbers that are made of several.
    shown: BTreeMap<(Vec<u8>, &'static str), u64>,
}

/// An entry of the map `peers`.
struct Seen {
    id: Vec<u8>,
    key: Key,
    netns: u32,
    ifindex: u32,
    interface: String,
    birthdate: u64,
    idle: bool,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(until_nul(bytes)).into_owned()
}

fn labels(space: &str, interface: &str) -> Labels {
    let mut labels = Labels::of(&[("interface", interface)]);
    if !space.is_empty() {
        labels.push("netns", space);
    }
    labels
}

impl View {
    /// Nothing seen yet.
    pub fn new(names: Names, full_keys: bool, everywhere: bool, unproven: bool) -> Self {
        Self { names, full_keys, everywhere, unproven, ..Self::default() }
    }

    /// The label `peer` of a public key.
    fn short(&self, key: &Key) -> String {
        let text = encode(key);
        if self.full_keys { text } else { format!("{}...", &text[..SHORT]) }
    }

    fn of_peer(&self, space: &str, interface: &str, key: &Key) -> Labels {
        let mut labels = labels(space, interface);
        labels.push("peer", &self.short(key));
        labels
    }

    /// Asks netlink in every namespace.
    ///
    /// # Errors
    /// When it does not answer in that of this process.
    pub fn look(&mut self) -> Result<()> {
        self.names.refresh();
        let (spaces, refusals) =
            if self.everywhere { Namespace::all()? } else { (vec![Namespace::own()?], Vec::new()) };
        self.left_out = refusals.len();
        for Refusal { folder, error } in refusals {
            if self.closed.insert(folder.to_owned()) {
                log::warn!(
                    "network namespaces in {folder} are left out: {error}; CAP_DAC_READ_SEARCH, or a folder \
                     that others may search, lets them be seen"
                );
            }
        }
        self.spaces.clear();
        for space in spaces {
            match space.within(netlink::devices) {
                Ok(devices) => {
                    self.closed.remove(&space.name);
                    self.spaces.push((space, devices));
                }
                Err(error) if space.name.is_empty() => return Err(error),
                Err(error) => {
                    self.left_out += 1;
                    if self.closed.insert(space.name.clone()) {
                        log::warn!("network namespace {} is left out: {error:#}", space.name);
                    }
                }
            }
        }
        Ok(())
    }

    fn space(&self, inode: u32) -> Option<&(Namespace, Vec<Device>)> {
        self.spaces.iter().find(|(space, _)| space.inode == inode)
    }

    /// Finds out who the entries of all maps are, and removes those of what is gone.
    ///
    /// # Errors
    /// When maps cannot be read.
    pub fn recognise(&mut self, live: &Live) -> Result<()> {
        self.rosters.clear();
        self.birthdates.clear();
        if !live.has_probes() || self.distrusted {
            return Ok(());
        }
        let now = Instant::now();
        let mut peers = seen_peers(live)?;
        // The newest first: ids only grow.
        peers.sort_by_key(|seen| std::cmp::Reverse(number(&seen.id)));
        let places: BTreeSet<(u32, u32)> = peers.iter().map(|seen| (seen.netns, seen.ifindex)).collect();
        self.recognise_peers(live, peers, now)?;
        for map in ["devices", "traffic"] {
            self.recognise_interfaces(live, map, &places, now)?;
        }
        self.strangers.retain(|_, since| now.duration_since(*since) < 6 * GRACE);
        if self.unproven {
            self.rosters.clear();
            self.birthdates.clear();
        }
        Ok(())
    }

    fn recognise_peers(&mut self, live: &Live, peers: Vec<Seen>, now: Instant) -> Result<()> {
        let (mut roster, mut known, mut ids) = (Roster::default(), BTreeSet::new(), BTreeSet::new());
        let mut folded = false;
        for seen in peers {
            let other = number(&seen.id) == 0;
            folded |= other && !seen.idle;
            let labels = match self.space(seen.netns) {
                _ if other && seen.idle => continue,
                _ if other => Labels::of(&[("interface", OTHER), ("peer", OTHER)]),
                // Nobody can be asked there.
                None => self.of_peer(&seen.netns.to_string(), &seen.interface, &seen.key),
                Some((space, devices)) => {
                    let device = devices.iter().find(|device| device.ifindex == seen.ifindex);
                    let peer = device.and_then(|device| {
                        device.peers.iter().find(|peer| peer.key == seen.key).map(|_| device)
                    });
                    let Some(device) = peer else {
                        self.stranger(live, &["peers", "packets"], seen.id, now)?;
                        continue;
                    };
                    self.of_peer(&space.name, &device.name, &seen.key)
                }
            };
            if !other && self.space(seen.netns).is_some() {
                self.unproven = false;
            }
            // One that was removed and added again is another.
            if !known.insert(labels.as_str().to_owned()) {
                live.maps.delete("peers", &seen.id)?;
                live.maps.delete("packets", &seen.id)?;
                continue;
            }
            if seen.birthdate != 0 {
                self.birthdates.push((labels.clone(), seen.birthdate));
            }
            ids.insert(seen.id.clone());
            roster.entries.insert(seen.id, labels);
        }
        // Packets are counted under the same ids, but not of every peer.
        let mut packets = Roster { entries: roster.entries.clone(), idle: Vec::new() };
        let (mut counted, mut packets_folded) = (BTreeSet::new(), false);
        live.maps.for_each("packets", &mut |id, value| {
            packets_folded |= number(id) == 0 && value.iter().any(|byte| *byte != 0);
            counted.insert(id.to_owned());
        })?;
        packets.entries.retain(|id, _| counted.contains(id));
        let uncounted = roster.entries.iter().filter(|(id, _)| !counted.contains(*id) && number(id) != 0);
        packets.idle.extend(uncounted.map(|(_, labels)| labels.clone()));
        for (space, device, peer) in self.peers() {
            let labels = self.of_peer(&space.name, &device.name, &peer.key);
            if !known.contains(labels.as_str()) {
                roster.idle.push(labels.clone());
                packets.idle.push(labels);
            }
        }
        // Some found no room: whose numbers are among those of all others, is not known.
        if folded {
            roster.idle.clear();
        }
        if folded || packets_folded {
            packets.idle.clear();
        }
        self.shown.retain(|(id, _), _| ids.contains(id));
        self.rosters.insert("peers".to_owned(), roster);
        self.rosters.insert("packets".to_owned(), packets);
        Ok(())
    }

    /// `places` are those of which there are peers.
    fn recognise_interfaces(
        &mut self,
        live: &Live,
        map: &'static str,
        places: &BTreeSet<(u32, u32)>,
        now: Instant,
    ) -> Result<()> {
        let layout = live.layouts.get(map).context("no map of interfaces")?;
        let (netns, ifindex) = (layout.key.field("netns")?, layout.key.field("ifindex")?);
        let name = layout.value.field("interface")?;
        let mut entries = Vec::new();
        live.maps.for_each(map, &mut |key, value| {
            let idle = value.iter().all(|byte| *byte == 0);
            entries.push((key.to_owned(), text(name.bytes(value)), idle));
        })?;
        let (mut roster, mut known) = (Roster::default(), BTreeSet::new());
        let mut folded = false;
        for (key, name, idle) in entries {
            let place = (number(netns.bytes(&key)) as u32, number(ifindex.bytes(&key)) as u32);
            folded |= place == (0, 0) && !idle;
            let found = match self.space(place.0) {
                None if place == (0, 0) && idle => continue,
                None if place == (0, 0) => labels("", OTHER),
                None if places.contains(&place) => labels(&place.0.to_string(), &name),
                // A namespace that is gone, or one where nobody can be asked.
                None => {
                    self.stranger(live, &[map], key, now)?;
                    continue;
                }
                Some((space, devices)) => {
                    let Some(device) = devices.iter().find(|device| device.ifindex == place.1) else {
                        self.stranger(live, &[map], key, now)?;
                        continue;
                    };
                    labels(&space.name, &device.name)
                }
            };
            known.insert(place);
            roster.entries.insert(key, found);
        }
        for (space, devices) in &self.spaces {
            for device in devices.iter().filter(|device| !known.contains(&(space.inode, device.ifindex))) {
                roster.idle.push(labels(&space.name, &device.name));
            }
        }
        if folded {
            roster.idle.clear();
        }
        self.rosters.insert(map.to_owned(), roster);
        Ok(())
    }

    /// An entry whose peer or interface netlink does not know: gone, or too new, or nonsense.
    fn stranger(&mut self, live: &Live, maps: &[&'static str], key: Vec<u8>, now: Instant) -> Result<()> {
        let Some(first) = maps.first() else { return Ok(()) };
        let since = *self.strangers.entry((first, key.clone())).or_insert(now);
        if now.duration_since(since) < GRACE {
            return Ok(());
        }
        if self.unproven && !self.distrusted && maps.contains(&"peers") {
            self.distrusted = true;
            log::error!(
                "what the programs read of this kernel's WireGuard is not what netlink says: their numbers are \
                 not shown; its structs are laid out in a way that is not known"
            );
        }
        for map in maps {
            live.maps.delete(map, &key)?;
        }
        Ok(())
    }

    fn peers(&self) -> impl Iterator<Item = (&Namespace, &Device, &Peer)> {
        let devices = self.spaces.iter().flat_map(|(space, devices)| devices.iter().map(move |d| (space, d)));
        devices.flat_map(|(space, device)| device.peers.iter().map(move |peer| (space, device, peer)))
    }

    /// Adds what netlink tells.
    pub fn show(&self, families: &mut Families) {
        families.gauge(
            "ebpf_wireguard_namespaces_left_out",
            "Network namespaces, and folders of them, that cannot be looked into; the log says why.",
            Labels::none(),
            Value::Integer(self.left_out as u64),
        );
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        for (space, device, peer) in self.peers() {
            let of = || self.of_peer(&space.name, &device.name, &peer.key);
            for (direction, bytes) in [("rx", peer.rx_bytes), ("tx", peer.tx_bytes)] {
                let mut labels = of();
                labels.push("direction", direction);
                families.counter(
                    "ebpf_wireguard_bytes_total",
                    "Bytes of messages exchanged with a peer, handshakes included, as wg show has them.",
                    labels,
                    Value::Integer(bytes),
                );
            }
            if let Some(handshake) = peer.handshake {
                families.gauge(
                    "ebpf_wireguard_handshake_age_seconds",
                    "Time since the last handshake was completed; absent when there was none.",
                    of(),
                    Value::Nanoseconds(now.saturating_sub(handshake).as_nanos() as u64),
                );
            }
            let mut labels = of();
            let endpoint = peer.endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default();
            let allowed: Vec<String> =
                peer.allowed.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect();
            labels.push("public_key", &encode(&peer.key));
            labels.push("name", self.names.of(&peer.key));
            labels.push("endpoint", &endpoint);
            labels.push("allowed_ips", &allowed.join(","));
            families.gauge(
                "ebpf_wireguard_peer_info",
                "Always 1; who a peer is and where it was heard of last.",
                labels,
                Value::Integer(1),
            );
        }
        let time = clock_gettime(ClockId::Boottime);
        let now = Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_nanos() as u64;
        // What came after that, such as the interface going down, took the timer that ends it.
        let ages = self.birthdates.iter().map(|(labels, birthdate)| (labels, now.saturating_sub(*birthdate)));
        for (labels, age) in ages.filter(|(_, age)| *age <= KEY_GONE.as_nanos() as u64) {
            families.gauge(
                "ebpf_wireguard_session_age_seconds",
                "Age of the key in use: a new one is made after 120 s of traffic, none is used after 180 s.",
                labels.clone(),
                Value::Nanoseconds(age),
            );
        }
    }

    /// Adds a number that is what one counter is more than others, which are counted a moment
    /// apart: so it may seem to sink, and is not shown to.
    ///
    /// # Errors
    /// When there is no such member, or the map cannot be read.
    pub fn difference(&mut self, live: &Live, families: &mut Families, what: &Difference) -> Result<()> {
        let Some(roster) = self.rosters.get("packets") else { return Ok(()) };
        let layout = live.layouts.get("packets").context("no map of packets")?;
        let whole = layout.value.field(what.whole)?;
        let parts: Vec<Field> =
            what.parts.iter().map(|part| layout.value.field(part)).collect::<Result<_>>()?;
        let mut values = BTreeMap::new();
        live.maps.for_each("packets", &mut |id, value| {
            let parts = parts.iter().map(|part| number(part.bytes(value)));
            let rest = parts.fold(number(whole.bytes(value)), u64::saturating_sub);
            values.insert(id.to_owned(), rest);
        })?;
        let entries = roster.entries.iter().map(|(id, labels)| (Some(id), labels));
        for (id, labels) in entries.chain(roster.idle.iter().map(|labels| (None, labels))) {
            let mut labels = labels.clone();
            what.labels.iter().for_each(|(name, value)| labels.push(name, value));
            let mut value = 0;
            if let Some(id) = id {
                let shown = self.shown.entry((id.clone(), what.whole)).or_default();
                *shown = (*shown).max(values.get(id).copied().unwrap_or_default());
                value = *shown;
            }
            families.counter(what.name, what.help, labels, Value::Integer(value));
        }
        Ok(())
    }
}

/// A counter that is made of several: `whole` less `parts`.
#[derive(Debug)]
pub struct Difference {
    /// Full name.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Labels beside those of the peer.
    pub labels: &'static [(&'static str, &'static str)],
    /// Member of the map `packets`.
    pub whole: &'static str,
    /// Members that are taken away.
    pub parts: &'static [&'static str],
}

/// Removes what was counted of packets so far. Programs are attached one after another, and what
/// some count is taken from what others do: that begins once all of them count.
///
/// # Errors
/// When the map cannot be read or written.
pub fn forget_packets(live: &Live) -> Result<()> {
    let mut counted = Vec::new();
    live.maps.for_each("packets", &mut |id, _| counted.push(id.to_owned()))?;
    for id in counted {
        live.maps.delete("packets", &id)?;
    }
    Ok(())
}

fn seen_peers(live: &Live) -> Result<Vec<Seen>> {
    let layout = live.layouts.get("peers").context("no map of peers")?;
    let field = |member| layout.value.field(member);
    let (key, interface) = (field("public_key")?, field("interface")?);
    let (netns, ifindex, birthdate) = (field("netns")?, field("ifindex")?, field("birthdate")?);
    let mut all = Vec::new();
    live.maps.for_each("peers", &mut |id, value| {
        all.push(Seen {
            id: id.to_owned(),
            key: key.bytes(value).try_into().unwrap_or_default(),
            netns: number(netns.bytes(value)) as u32,
            ifindex: number(ifindex.bytes(value)) as u32,
            interface: text(interface.bytes(value)),
            birthdate: number(birthdate.bytes(value)),
            idle: value.iter().all(|byte| *byte == 0),
        });
    })?;
    Ok(all)
}

#[cfg(test)]
pub mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    /// One peer in this namespace, and one in another; with eBPF the age of their sessions.
    pub fn example(with_ebpf: bool) -> View {
        let allowed = |last: u8| (IpAddr::from(Ipv4Addr::new(10, 98, 0, last)), 32);
        let known = Peer {
            key: [1; 32],
            endpoint: Some(([192, 0, 2, 7], 51820).into()),
            handshake: Some(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default() + Duration::from_secs(60)),
            rx_bytes: 4096,
            tx_bytes: 8192,
            allowed: vec![allowed(1), allowed(2)],
        };
        let unknown = Peer { key: [2; 32], handshake: known.handshake, ..Peer::default() };
        let device = |name: &str, peer| Device { ifindex: 3, name: name.to_owned(), peers: vec![peer] };
        let spaces = vec![
            (Namespace::example(1, ""), vec![device("wg0", known)]),
            (Namespace::example(2, "blue"), vec![device("wg1", unknown)]),
        ];
        let mut view = View { spaces, ..View::default() };
        if with_ebpf {
            let sessions = [view.of_peer("", "wg0", &[1; 32]), view.of_peer("blue", "wg1", &[2; 32])];
            view.birthdates = sessions.map(|labels| (labels, u64::MAX)).to_vec();
        }
        view
    }

    #[test]
    fn labels_name_what_must_be_told_apart() {
        let mut view = example(false);
        let short = view.of_peer("", "wg0", &[1; 32]);
        assert_eq!(short.as_str(), "interface=\"wg0\",peer=\"AQEBAQEBAQEB...\"");
        view.full_keys = true;
        let full = view.of_peer("blue", "wg0", &[1; 32]);
        assert!(
            full.as_str().contains("netns=\"blue\",peer=\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"")
        );
    }
}
