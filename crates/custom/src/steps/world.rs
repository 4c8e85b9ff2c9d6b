// SPDX-License-Identifier: MIT OR Apache-2.0
//! What decoders look names up in. All configs share one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::kernel::symbols::KALLSYMS;
use common::read::cgroups;

use super::devices::{Disks, Interfaces};
use super::groups::Cgroups;
use super::pci::PciIds;
use super::symbols::{Addresses, Kallsyms};
use crate::config::{Config, Label};

/// What is read only if a config uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Names of kernel addresses. They need CAP_SYSLOG, also later: for modules that come.
    pub symbols: bool,
    /// Kernel symbols whose address is wanted.
    pub kaddrs: BTreeSet<String>,
    /// Paths of cgroups.
    pub cgroups: bool,
    /// Names of PCI devices.
    pub pci: bool,
}

/// Where things are.
#[derive(Clone, Debug)]
pub struct Places {
    /// /proc/kallsyms.
    pub kallsyms: PathBuf,
    /// /proc/modules.
    pub modules: PathBuf,
    /// /proc/partitions.
    pub partitions: PathBuf,
    /// Mount point of the cgroup2 file system; None: it is not mounted.
    pub cgroups: Option<PathBuf>,
    /// pci.ids; the first that exists.
    pub pci: Vec<PathBuf>,
}

impl Default for Places {
    fn default() -> Self {
        let folders = ["/usr/share/hwdata", "/usr/share/misc"];
        let names = ["pci.ids", "pci.ids.gz"];
        let pci = names.iter().flat_map(|name| folders.map(|folder| Path::new(folder).join(name)));
        Self {
            kallsyms: KALLSYMS.into(),
            modules: "/proc/modules".into(),
            partitions: "/proc/partitions".into(),
            cgroups: cgroups::mount().map(Path::to_owned),
            pci: pci.collect(),
        }
    }
}

/// What decoders look names up in.
#[derive(Clone, Debug)]
pub struct World {
    pub(super) symbols: Option<Arc<Kallsyms>>,
    pub(super) cgroups: Arc<Cgroups>,
    pub(super) interfaces: Arc<Interfaces>,
    pub(super) disks: Arc<Disks>,
    pub(super) pci: Option<Arc<PciIds>>,
    addresses: Addresses,
}

impl World {
    /// What the configs use.
    pub fn needs(configs: &[Config]) -> Needs {
        let mut needs = Needs::default();
        for config in configs {
            needs.kaddrs.extend(config.kaddrs.iter().cloned());
            needs.cgroups |= config.cgroup_id_map.is_some();
            let labels = config.metrics().flat_map(|metric| &metric.labels);
            let labels = labels.chain(config.spans.iter().flat_map(|span| &span.labels));
            for decoder in labels.flat_map(|label: &Label| &label.decoders) {
                match decoder.name.as_str() {
                    "ksym" | "kstack" => needs.symbols = true,
                    "cgroup" | "container" => needs.cgroups = true,
                    name if name.starts_with("pci_") => needs.pci = true,
                    _ => {}
                }
            }
        }
        needs
    }

    /// Reads what is needed. To be called before privileges are dropped. What cannot be read is
    /// logged, and unknown later.
    pub fn new(needs: &Needs, places: &Places) -> Self {
        let mut addresses = Addresses::of(needs.kaddrs.clone());
        let mut symbols = None;
        if needs.symbols {
            match Kallsyms::read(&places.kallsyms, &places.modules, &mut addresses) {
                Ok(read) => symbols = Some(Arc::new(read)),
                Err(error) => log::warn!("cannot read {}: {error}", places.kallsyms.display()),
            }
        } else if !needs.kaddrs.is_empty()
            && let Err(error) = addresses.read(&places.kallsyms)
        {
            log::warn!("cannot read {}: {error}", places.kallsyms.display());
        }
        if symbols.as_ref().is_some_and(|symbols| symbols.is_hidden()) {
            log::warn!(
                "kernel addresses are hidden, decoders `ksym` and `kstack` will not know them: start as root or with CAP_SYSLOG, and look at sysctl kernel.kptr_restrict"
            );
        }
        if needs.cgroups && places.cgroups.is_none() {
            log::warn!(
                "no cgroup2 file system is mounted, decoders `cgroup` and `container` will not know ids"
            );
        }
        let cgroups = places.cgroups.as_deref().filter(|_| needs.cgroups);
        Self {
            symbols,
            cgroups: Arc::new(Cgroups::new(cgroups)),
            interfaces: Arc::new(Interfaces::new()),
            disks: Arc::new(Disks::new(&places.partitions)),
            pci: needs.pci.then(|| PciIds::read(&places.pci)).flatten().map(Arc::new),
            addresses,
        }
    }

    /// The address of a kernel symbol in [`Needs::kaddrs`].
    ///
    /// # Errors
    /// When it is unknown, and what to do.
    pub fn address(&self, symbol: &str) -> Result<u64, String> {
        self.addresses.get(symbol)
    }

    /// The cgroups.
    pub fn cgroups(&self) -> &Arc<Cgroups> {
        &self.cgroups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CgroupIdMap, Decoder, Histogram, Metric, Span};

    fn labels(decoder: &str) -> Vec<Label> {
        let decoder = Decoder { name: decoder.to_owned(), ..Decoder::default() };
        vec![Label { decoders: vec![decoder], ..Label::default() }]
    }

    #[test]
    fn only_what_configs_use_is_needed() {
        let metric = |decoder| Metric { labels: labels(decoder), ..Metric::default() };
        let counter = |decoder| Config { counters: vec![metric(decoder)], ..Config::default() };
        assert_eq!(World::needs(&[]), Needs::default());
        assert_eq!(World::needs(&[counter("uint"), counter("ifname")]), Needs::default());
        let symbols = Needs { symbols: true, ..Needs::default() };
        assert_eq!(World::needs(&[counter("uint"), counter("ksym")]), symbols);
        let span = Span { labels: labels("kstack"), ..Span::default() };
        assert_eq!(World::needs(&[Config { spans: vec![span], ..Config::default() }]), symbols);
        let cgroups = Needs { cgroups: true, ..Needs::default() };
        let histogram = Histogram { metric: metric("container"), ..Histogram::default() };
        assert_eq!(World::needs(&[Config { histograms: vec![histogram], ..Config::default() }]), cgroups);
        let map = Some(CgroupIdMap::default());
        assert_eq!(World::needs(&[Config { cgroup_id_map: map, ..Config::default() }]), cgroups);
        let gauge = Config { gauges: vec![metric("pci_class")], ..Config::default() };
        assert_eq!(World::needs(&[gauge]), Needs { pci: true, ..Needs::default() });
        let kaddrs = Config { kaddrs: vec!["jiffies".to_owned(); 2], ..Config::default() };
        let needs = World::needs(&[kaddrs]);
        assert_eq!(needs, Needs { kaddrs: ["jiffies".to_owned()].into(), ..Needs::default() });
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let nowhere = PathBuf::from("/nonexistent");
        let places = Places {
            kallsyms: nowhere.clone(),
            modules: nowhere.clone(),
            partitions: nowhere.clone(),
            cgroups: None,
            pci: vec![nowhere],
        };
        let needs = Needs { symbols: true, kaddrs: ["f".to_owned()].into(), cgroups: true, pci: true };
        let world = World::new(&needs, &places);
        assert!(world.symbols.is_none() && world.pci.is_none());
        assert!(world.address("f").unwrap_err().starts_with("no kernel symbol `f`"));
    }
}
