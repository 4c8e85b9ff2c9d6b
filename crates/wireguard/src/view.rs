// SPDX-License-Identifier: MIT OR Apache-2.0
//! Peers from netlink, matched with the entries of the programs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use common::exposition::metric::{Families, Labels, Value};
use common::read::decode::{OTHER, shown};
use common::read::layout::number;
use common::read::live::Live;
use common::read::maps::MapSource;
use common::read::roster::{Roster, Rosters};
use rustix::time::{ClockId, clock_gettime};

use crate::difference::{Difference, Shown};
use crate::entries::{self, Owner, Place, Places, Seen, Waiting};
use crate::names::{Names, encode};
use crate::namespaces::{Namespace, Refusal};
use crate::netlink::{self, Device, Key, Peer};

/// How long to keep an entry that netlink does not list: it may be newer than netlink's answer.
const GRACE: Duration = Duration::from_secs(10);

/// Lifetime of key material: three times `REJECT_AFTER_TIME` (drivers/net/wireguard/timers.c:
/// `wg_expired_zero_key_material`).
const KEY_GONE: Duration = Duration::from_secs(3 * 180);

/// Length of the label `peer`, in characters of the public key.
const SHORT: usize = 12;

/// Peers, and the labels of their counters.
#[derive(Debug, Default)]
pub struct View {
    /// Configured names.
    names: Names,
    /// Whether `peer` is the whole key.
    full_keys: bool,
    /// Whether to enter other network namespaces than that of this process.
    everywhere: bool,
    /// Whether the programs use a layout table that is not yet verified, and whether the log says so.
    unproven: bool,
    is_told_unproven: bool,
    /// Labels by map.
    pub rosters: Rosters,
    spaces: Vec<(Namespace, Vec<Device>)>,
    /// Namespaces, and directories of them, that could not be read and were logged.
    closed: BTreeSet<String>,
    /// How many there are now.
    left_out: usize,
    /// Inode numbers of all namespaces found, and whether the log says that they are too many.
    found: BTreeSet<u32>,
    too_many: bool,
    /// Entries that netlink does not list, and since when.
    strangers: BTreeMap<(&'static str, Vec<u8>), Instant>,
    distrusted: bool,
    /// Creation times of the keys of peers, boot time in nanoseconds.
    birthdates: Vec<(Labels, u64)>,
    shown: Shown,
}

/// Where netlink lists an interface that the programs know.
enum Found<'v> {
    /// In this namespace.
    At(&'v Namespace, &'v Device),
    /// In a namespace where netlink cannot be queried.
    Unasked(&'v Place),
    /// Unknown until it comes up again, because it was moved; or newer than netlink's answer.
    Waits,
    /// It is gone.
    Gone,
}

/// What to do with an entry.
enum Entry {
    /// Show it with these labels.
    Shown(Labels),
    /// Keep it, do not show it.
    Kept,
    /// Remove it, unless netlink lists it soon.
    Unknown,
}

fn labels(space: &str, interface: &str) -> Labels {
    let mut labels = Labels::of(&[("interface", &*shown(interface))]);
    if !space.is_empty() {
        labels.push("netns", &shown(space));
    }
    labels
}

impl View {
    /// An empty view: nothing is read yet.
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

    /// Queries netlink in every namespace.
    ///
    /// # Errors
    /// When it does not answer in that of this process.
    pub fn look(&mut self) -> Result<()> {
        self.names.refresh();
        let (spaces, refusals) =
            if self.everywhere { Namespace::all()? } else { (vec![Namespace::own()?], Vec::new()) };
        self.left_out = refusals.len();
        self.found = spaces.iter().map(|space| space.inode).collect();
        for Refusal { folder, error } in refusals {
            if self.closed.insert(folder.to_owned()) {
                log::warn!(
                    "skipping network namespaces in {folder}: {error}; add CAP_DAC_READ_SEARCH, or make \
                     the directory searchable for others"
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
                        log::warn!("skipping network namespace {}: {error:#}", space.name);
                    }
                }
            }
        }
        Ok(())
    }

    fn space(&self, inode: u32) -> Option<&(Namespace, Vec<Device>)> {
        self.spaces.iter().find(|(space, _)| space.inode == inode)
    }

    /// Finds the interface with that address.
    fn find<'v>(&'v self, places: &'v Places, device: u64) -> Found<'v> {
        let Some(place) = places.get(&device) else { return Found::Gone };
        match self.space(place.netns) {
            Some((space, devices)) => devices
                .iter()
                .find(|device| device.ifindex == place.ifindex)
                .map_or(Found::Waits, |device| Found::At(space, device)),
            None if place.is_down => Found::Waits,
            None => Found::Unasked(place),
        }
    }

    /// Tells the programs which namespaces were found.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn tell(&mut self, live: &Live) -> Result<()> {
        if !entries::ask_for(live, &self.found)? && !self.too_many {
            self.too_many = true;
            log::warn!(
                "too many named network namespaces for the programs: peers in some namespaces of other \
                 users share a series"
            );
        }
        Ok(())
    }

    /// Finds the labels of the entries of all maps, and removes entries of peers that are gone.
    ///
    /// # Errors
    /// When maps cannot be read.
    pub fn recognise(&mut self, live: &Live) -> Result<()> {
        self.rosters.clear();
        self.birthdates.clear();
        if !live.has_probes() || self.distrusted {
            return Ok(());
        }
        self.tell(live)?;
        let now = Instant::now();
        let peers = entries::peers(live)?;
        // Read the places after the peers: each peer's interface has one.
        let places = entries::places(live)?;
        let waits = |device: u64| matches!(self.find(&places, device), Found::Waits);
        let waiting = Waiting {
            names: places.iter().filter(|(at, _)| waits(**at)).map(|(_, place)| place.name.clone()).collect(),
            keys: peers.iter().filter(|seen| waits(seen.device)).map(|seen| seen.key).collect(),
        };
        self.recognise_peers(live, peers, &places, &waiting, now)?;
        for map in ["devices", "traffic"] {
            self.recognise_interfaces(live, map, &places, &waiting, now)?;
        }
        self.strangers.retain(|_, since| now.duration_since(*since) < 6 * GRACE);
        if self.unproven {
            self.rosters.clear();
            self.birthdates.clear();
            if !std::mem::replace(&mut self.is_told_unproven, true) {
                log::warn!(
                    "the module wireguard has no BTF, and member offsets come from a table: metrics of \
                     programs are absent until one of them sees a peer that netlink lists, in a network \
                     namespace that has a name or is the exporter's"
                );
            }
        } else if std::mem::take(&mut self.is_told_unproven) {
            log::info!("the table of member offsets is right: metrics of programs are shown from now on");
        }
        Ok(())
    }

    fn entry_of_peer(&mut self, seen: &Seen, places: &Places) -> Entry {
        if let Some(mut labels) = seen.owner.labels() {
            labels.push("peer", OTHER);
            return if seen.idle { Entry::Kept } else { Entry::Shown(labels) };
        }
        let labels = match self.find(places, seen.device) {
            Found::At(space, device) if device.peers.iter().any(|peer| peer.key == seen.key) => {
                self.of_peer(&space.name, &device.name, &seen.key)
            }
            Found::At(..) | Found::Gone => return Entry::Unknown,
            Found::Waits => return Entry::Kept,
            Found::Unasked(place) => {
                return Entry::Shown(self.of_peer(&place.netns.to_string(), &place.name, &seen.key));
            }
        };
        self.unproven = false;
        Entry::Shown(labels)
    }

    fn recognise_peers(
        &mut self,
        live: &Live,
        peers: Vec<Seen>,
        places: &Places,
        waiting: &Waiting,
        now: Instant,
    ) -> Result<()> {
        let (mut roster, mut known, mut ids) = (Roster::default(), BTreeSet::new(), BTreeSet::new());
        let mut folded = false;
        for seen in peers {
            folded |= seen.owner == Owner::Other && !seen.idle;
            let labels = match self.entry_of_peer(&seen, places) {
                Entry::Shown(labels) => labels,
                Entry::Kept => {
                    ids.insert(seen.id);
                    continue;
                }
                Entry::Unknown => {
                    self.stranger(live, &["peers", "packets"], seen.id, now)?;
                    continue;
                }
            };
            // A peer that was removed and added again is a new one.
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
        // `packets` has the same ids, but not all of them.
        let mut packets = Roster { entries: roster.entries.clone(), idle: Vec::new() };
        let (mut counted, mut packets_folded) = (BTreeSet::new(), false);
        live.maps.for_each("packets", &mut |id, value| {
            packets_folded |= Owner::of(id) == Owner::Other && value.iter().any(|byte| *byte != 0);
            counted.insert(id.to_owned());
        })?;
        packets.entries.retain(|id, _| counted.contains(id));
        let uncounted =
            roster.entries.iter().filter(|(id, _)| !counted.contains(*id) && !Owner::of(id).is_shared());
        packets.idle.extend(uncounted.map(|(_, labels)| labels.clone()));
        for (space, device, peer) in self.peers().filter(|(_, _, peer)| !waiting.keys.contains(&peer.key)) {
            let labels = self.of_peer(&space.name, &device.name, &peer.key);
            if !known.contains(labels.as_str()) {
                roster.idle.push(labels.clone());
                packets.idle.push(labels);
            }
        }
        // Some peers found no room. Which ones share the entry of others is not known.
        if folded {
            roster.idle.clear();
        }
        if folded || packets_folded {
            packets.idle.clear();
        }
        self.shown.retain(&ids);
        self.rosters.insert("peers".to_owned(), roster);
        self.rosters.insert("packets".to_owned(), packets);
        Ok(())
    }

    fn recognise_interfaces(
        &mut self,
        live: &Live,
        map: &'static str,
        places: &Places,
        waiting: &Waiting,
        now: Instant,
    ) -> Result<()> {
        let mut entries = Vec::new();
        live.maps.for_each(map, &mut |key, value| {
            entries.push((key.to_owned(), value.iter().all(|byte| *byte == 0)));
        })?;
        let (mut roster, mut known) = (Roster::default(), BTreeSet::new());
        let mut folded = false;
        for (key, idle) in entries {
            let owner = Owner::of(&key);
            folded |= owner == Owner::Other && !idle;
            let found = match (owner.labels(), self.find(places, number(&key))) {
                (Some(_), _) if idle => continue,
                (Some(labels), _) => labels,
                (None, Found::At(space, device)) => {
                    known.insert((space.inode, device.ifindex));
                    labels(&space.name, &device.name)
                }
                (None, Found::Unasked(place)) => labels(&place.netns.to_string(), &place.name),
                (None, Found::Waits) => continue,
                (None, Found::Gone) => {
                    self.stranger(live, &[map], key, now)?;
                    continue;
                }
            };
            roster.entries.insert(key, found);
        }
        for (space, devices) in &self.spaces {
            let idle = devices.iter().filter(|device| !known.contains(&(space.inode, device.ifindex)));
            let idle = idle.filter(|device| !waiting.may_be(device));
            roster.idle.extend(idle.map(|device| labels(&space.name, &device.name)));
        }
        if folded {
            roster.idle.clear();
        }
        self.rosters.insert(map.to_owned(), roster);
        Ok(())
    }

    /// Handles an entry that netlink does not list: gone, too new, or read with a wrong layout.
    fn stranger(&mut self, live: &Live, maps: &[&'static str], key: Vec<u8>, now: Instant) -> Result<()> {
        let Some(first) = maps.first() else { return Ok(()) };
        let since = *self.strangers.entry((first, key.clone())).or_insert(now);
        if now.duration_since(since) < GRACE {
            return Ok(());
        }
        if self.unproven && !self.distrusted && maps.contains(&"peers") {
            self.distrusted = true;
            log::error!(
                "the struct layout of this kernel's WireGuard module is not known: the programs read other \
                 peers than netlink lists, so their metrics are not exported"
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

    /// Adds the metrics from netlink.
    pub fn show(&self, families: &mut Families) {
        families.gauge(
            "ebpf_wireguard_namespaces_left_out",
            "Network namespaces, and directories of network namespaces, that the exporter cannot look \
             into. The log says why.",
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
                    "Bytes of WireGuard messages received from (rx) or sent to (tx) a peer, handshakes \
                     included, as in wg show.",
                    labels,
                    Value::Integer(bytes),
                );
            }
            if let Some(handshake) = peer.handshake {
                families.gauge(
                    "ebpf_wireguard_handshake_age_seconds",
                    "Time since the last completed handshake with a peer. Absent when there was none.",
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
                "Always 1. The labels give a peer's public key, name, last known endpoint and allowed IPs.",
                labels,
                Value::Integer(1),
            );
        }
        let time = clock_gettime(ClockId::Boottime);
        let now = Duration::new(time.tv_sec as u64, time.tv_nsec as u32).as_nanos() as u64;
        // Without the timer that ends a key, such as after the interface went down, hide keys past
        // their lifetime.
        let ages = self.birthdates.iter().map(|(labels, birthdate)| (labels, now.saturating_sub(*birthdate)));
        for (labels, age) in ages.filter(|(_, age)| *age <= KEY_GONE.as_nanos() as u64) {
            families.gauge(
                "ebpf_wireguard_session_age_seconds",
                "Age of the session key in use with a peer. WireGuard makes a new key after 120 s of \
                 traffic and uses none older than 180 s.",
                labels.clone(),
                Value::Nanoseconds(age),
            );
        }
    }

    /// Adds a difference counter.
    ///
    /// # Errors
    /// When there is no such member, or the map cannot be read.
    pub fn difference(&mut self, live: &Live, families: &mut Families, what: &Difference) -> Result<()> {
        let Some(roster) = self.rosters.get("packets") else { return Ok(()) };
        self.shown.add(live, roster, families, what)
    }
}

#[cfg(test)]
pub mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    /// A view of one peer in this namespace and one in another. With eBPF, it has session ages.
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
    fn what_moved_waits_until_it_is_opened() {
        let view = example(false);
        let found = |netns, ifindex, is_down| {
            let places = [(7, Place { netns, ifindex, is_down, ..Place::default() })].into();
            match view.find(&places, 7) {
                Found::At(space, device) => format!("{} {}", space.name, device.name),
                Found::Unasked(place) => place.netns.to_string(),
                Found::Waits => "waits".to_owned(),
                Found::Gone => "gone".to_owned(),
            }
        };
        assert_eq!([found(2, 3, false), found(2, 3, true)], ["blue wg1", "blue wg1"]);
        assert_eq!([found(2, 4, false), found(9, 3, true), found(9, 3, false)], ["waits", "waits", "9"]);
        assert!(matches!(view.find(&Places::new(), 7), Found::Gone));
    }

    #[test]
    fn labels_name_what_must_be_told_apart() {
        let mut view = example(false);
        let short = view.of_peer("", "wg0", &[1; 32]);
        assert_eq!(short.as_str(), "interface=\"wg0\",peer=\"AQEBAQEBAQEB...\"");
        let own = labels("other", "other");
        assert_eq!(own.as_str(), r#"interface="\\other",netns="\\other""#);
        assert_ne!(Owner::Foreign.labels(), Some(own));
        view.full_keys = true;
        let full = view.of_peer("blue", "wg0", &[1; 32]);
        assert!(
            full.as_str().contains("netns=\"blue\",peer=\"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"")
        );
    }
}
