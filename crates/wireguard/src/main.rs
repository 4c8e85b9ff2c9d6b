// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much do peers send and lose, and why do handshakes fail?
//!
//! Hooks, cost and what is not seen: `bpf/wireguard.bpf.c`.

mod difference;
mod entries;
mod headlines;
mod names;
mod namespaces;
mod netlink;
mod tables;
mod view;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use caps::Capability;
use clap::{Args, ValueEnum};
use common::exposition::metric::Families;
use common::kernel::offsets::{Layout, Table, set_offsets};
use common::kernel::types::{KERNEL_BTF, Types};
use common::kernel::{facts::Facts, probes::Refused};
use common::process::exporter::{Exporter, OpenOf};
use common::read::{live::Live, part::Reader, roster::Rosters};
use common::spec::Spec;
use libbpf_rs::skel::OpenSkel;
use names::Names;
use view::View;

common::skeleton!();

const MODULE: &str = "wireguard";

/// For Debian's kernel 5.10. Later ones have BTF for modules.
const TABLE: &str = include_str!("../layouts/5.10.txt");

/// How much to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Detail {
    /// Bytes and handshake age, from netlink. Loads no programs; the module can be unloaded.
    Netlink,
    /// Also handshakes, keys and endpoints. Programs run for each handshake and each batch of
    /// received packets.
    #[default]
    Session,
    /// Also packets and drop reasons. Programs run for each packet.
    Packet,
}

#[derive(Args, Clone, Debug, Default)]
struct Flags {
    /// How much to count. More detail costs more.
    #[arg(long = "wireguard.detail", value_name = "LEVEL", default_value = "session")]
    detail: Detail,

    /// File with names of peers: TOML lines "PUBLIC KEY" = "NAME", or a wg-quick file with comments
    /// # friendly_name=NAME. Read again when it changes.
    #[arg(long = "wireguard.peer-names", value_name = "FILE")]
    peer_names: Option<PathBuf>,

    /// Use the whole public key as label peer, not only its first twelve characters.
    #[arg(long = "wireguard.full-keys")]
    full_keys: bool,

    /// Query netlink only in the network namespace of this process, not in those of /run/netns and
    /// /run/docker/netns. CAP_SYS_ADMIN is then dropped after attaching.
    #[arg(long = "wireguard.own-namespace")]
    own_namespace: bool,
}

#[derive(Default)]
struct Wireguard {
    view: View,
    layout: Option<Layout>,
    /// Why there is no layout.
    unknown: String,
}

impl Exporter for Wireguard {
    type Builder = skel::WireguardSkelBuilder;
    type Flags = Flags;

    fn spec(flags: &Flags) -> Spec {
        let mut spec =
            Spec::new("wireguard", 9115, "how much do peers send and lose, and why do handshakes fail?")
                .events(&[
                    "ebpf_wireguard_packets_total",
                    "ebpf_wireguard_handshake_attempts_total",
                    "ebpf_wireguard_handshake_responses_total",
                ])
                .headlines(headlines::headlines())
                .of_module(MODULE)
                .keep(Capability::CAP_NET_ADMIN);
        if !flags.own_namespace {
            // The second is for directories that only root may read; the unit does not have it.
            spec = spec.keep(Capability::CAP_SYS_ADMIN).keep(Capability::CAP_DAC_READ_SEARCH);
        }
        for (level, rows, maps) in [
            (Detail::Session, tables::SESSION, tables::of_sessions()),
            (Detail::Packet, tables::PACKET, tables::of_packets()),
        ] {
            if flags.detail >= level {
                for (function, programs, feeds) in rows {
                    spec = spec.optional(function, programs, feeds);
                }
                spec = maps.into_iter().fold(spec, Spec::map);
            }
        }
        spec
    }

    fn new(flags: &Flags) -> Result<Self> {
        let names = Names::new(flags.peer_names.as_deref())?;
        let (layout, unknown) = match layout() {
            Ok(layout) => (Some(layout), String::new()),
            Err(error) => (None, format!("{error:#}")),
        };
        let unproven = matches!(layout, Some(Layout::Table(_)));
        let mut view = View::new(names, flags.full_keys, !flags.own_namespace, unproven);
        // Fail now rather than at every scrape.
        view.look()?;
        Ok(Self { view, layout, unknown })
    }

    fn unusable(&self) -> Refused {
        if self.layout.is_some() {
            return Refused::new();
        }
        let programs =
            tables::SESSION.iter().chain(tables::PACKET).flat_map(|(_, programs, _)| programs.iter());
        let names = programs.flat_map(|set| set.split('+'));
        names.map(|program| (program.to_owned(), self.unknown.clone())).collect()
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, _: &Facts, flags: &Flags) -> Result<()> {
        let settings = open.maps.rodata_data.as_mut().context("no .rodata")?;
        settings.wireguard_each_packet = flags.detail >= Detail::Packet;
        let offsets = self.layout.as_ref().map(Layout::open).transpose()?;
        set_offsets(open.open_object_mut(), |structure, member| offsets.as_ref()?.offset(structure, member))
    }

    fn seed(live: &Live) -> Result<()> {
        entries::seed(live)
    }

    fn attached(&mut self, live: &Live) -> Result<()> {
        self.view.tell(live)?;
        entries::forget(live)?;
        Self::seed(live)
    }

    fn gather(&mut self, live: &Live) -> Result<()> {
        self.view.look()?;
        self.view.recognise(live)
    }

    fn rosters(&self) -> &Rosters {
        &self.view.rosters
    }

    fn fallback(flags: &Flags) -> Result<Option<Reader>> {
        let names = Names::new(flags.peer_names.as_deref())?;
        let mut view = View::new(names, flags.full_keys, !flags.own_namespace, false);
        view.look()?;
        Ok(Some(Box::new(move |families| {
            view.look()?;
            view.show(families);
            Ok(())
        })))
    }

    fn extra(&mut self, live: &Live, families: &mut Families) -> Result<()> {
        self.view.show(families);
        for (difference, probes) in tables::DIFFERENCES {
            if tables::IDENTITY.iter().chain(*probes).all(|probe| live.has(probe)) {
                self.view.difference(live, families, difference)?;
            }
        }
        Ok(())
    }
}

/// From the module's BTF, or from the table if it was made for a kernel like this.
fn layout() -> Result<Layout> {
    if let Some(btf) = Layout::btf(MODULE) {
        return Ok(btf);
    }
    let table = Table::parse(TABLE)?;
    match table.misfit(&Types::read(Path::new(KERNEL_BTF), None)?) {
        None => Ok(Layout::Table(table)),
        Some(why) => bail!("the module has no BTF, and the layout of {} {why}", table.version),
    }
}

fn main() -> ExitCode {
    common::run::<Wireguard>()
}

#[cfg(test)]
mod tests {
    use common::exposition::encode::{Format, encode};
    use common::exposition::metric::Labels;
    use common::fixture::{golden, golden_fallback, render_named};
    use common::read::layout::Contents::Element;
    use common::read::roster::Roster;

    use super::*;

    #[test]
    fn the_table_knows_every_member() {
        let table = Table::parse(TABLE).expect("a table");
        let program = concat!(
            include_str!("../../../bpf/wireguard_interfaces.bpf.h"),
            include_str!("../../../bpf/wireguard_peers.bpf.h")
        );
        let members = program.lines().filter_map(|line| line.strip_prefix("MEMBER(")?.strip_suffix(");"));
        let mut number = 0;
        for member in members {
            let (structure, member) = member.split_once(", ").expect("two words");
            let offset = common::kernel::offsets::Offsets::Table(&table).offset(structure, member);
            assert!(offset.is_some(), "{structure}.{member}");
            number += 1;
        }
        assert!(number > 15, "{number}");
    }

    #[test]
    fn exposition_is_as_expected() {
        let flags = Flags { detail: Detail::Packet, ..Flags::default() };
        let text = render_named::<Wireguard>(&flags, |maps| {
            let peer = Labels::of(&[("interface", "wg0"), ("peer", "AQEBAQEBAQEB...")]);
            let idle = Labels::of(&[("interface", "wg1"), ("netns", "blue"), ("peer", "AgICAgICAgIC...")]);
            let interface = Labels::of(&[("interface", "wg0")]);
            let idle_interface = Labels::of(&[("interface", "wg1"), ("netns", "blue")]);
            let mut rosters = Rosters::new();
            for map in ["peers", "packets"] {
                let key = maps.key(map, &[("id", 7.into())])?;
                let entries = [(key, peer.clone())].into();
                rosters.insert(map.to_owned(), Roster { entries, idle: vec![idle.clone()] });
            }
            let place = [("address", 0xffff_8880_0000_1000.into())];
            for map in ["devices", "traffic"] {
                let entries = [(maps.key(map, &place)?, interface.clone())].into();
                rosters.insert(map.to_owned(), Roster { entries, idle: vec![idle_interface.clone()] });
            }
            let id = [("id", 7.into())];
            let session = [
                ("attempts", 9.into()),
                ("completed", 5.into()),
                ("no_answer", 3.into()),
                ("gave_up", 1.into()),
                ("responses_sent", 2.into()),
                ("responses_received", 4.into()),
                ("rotations", 6.into()),
                ("roamed", 8.into()),
                ("purged", 10.into()),
            ];
            maps.set("peers", &id, &session)?;
            // Netlink does not list this peer, so it is not shown.
            maps.set("peers", &[("id", 8.into())], &session)?;
            let packets = [
                ("sent", 100.into()),
                ("sent_keepalives", 11.into()),
                ("not_sent", 1.into()),
                ("received", 90.into()),
                ("decrypted", 80.into()),
                ("undecrypted", 2.into()),
                ("delivered", 70.into()),
                ("denied", 3.into()),
                ("no_endpoint", 4.into()),
                ("overflowed", 5.into()),
                ("rx_full", 6.into()),
                ("tx_full", 7.into()),
            ];
            maps.set("packets", &id, &packets)?;
            let device = [
                ("latency.slots", Element(40, 4)),
                ("latency.sum", 5_000_000.into()),
                ("bad_mac", 20.into()),
                ("cookie_required", 21.into()),
                ("rate_limited", 22.into()),
                ("bad_initiations", 23.into()),
                ("bad_responses", 24.into()),
            ];
            maps.set("devices", &place, &device)?;
            let traffic = [
                ("entered", 95.into()),
                ("malformed", 30.into()),
                ("no_session", 31.into()),
                ("no_peer", 32.into()),
                ("unsupported", 33.into()),
            ];
            maps.set("traffic", &place, &traffic)?;
            Ok(rosters)
        });
        let mut families = Families::default();
        view::tests::example(true).show(&mut families);
        let text = text.expect("rendered") + &encode(families, Format::Text);
        golden::<Wireguard>(env!("CARGO_MANIFEST_DIR"), &text).expect("as the golden file");
        let mut families = Families::default();
        view::tests::example(false).show(&mut families);
        golden_fallback::<Wireguard>(env!("CARGO_MANIFEST_DIR"), families).expect("as the golden file");
    }
}
