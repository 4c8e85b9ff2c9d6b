// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much is read from and written to each dataset?
//!
//! Hooks, cost and what is not seen: `bpf/zfs-dmu.bpf.c`.

mod headlines;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use common::exposition::metric::{Families, Labels, Value};
use common::kernel::facts::Facts;
use common::kernel::probes::Refused;
use common::process::exporter::{Exporter, OpenOf};
use common::read::decode::{FOLDED, OTHER, shown};
use common::read::layout::number;
use common::read::live::Live;
use common::read::maps::MapSource;
use common::read::part::Reader;
use common::read::roster::Rosters;
use common::spec::{MapSpec, Spec};
use libbpf_rs::skel::OpenSkel;
use zfs::names::{self, Names};
use zfs::{Flags, Zfs, kstat};

common::skeleton!();

const MAP: &str = "datasets";

const OPS: &str = "ebpf_zfs_dmu_ops_total";
const OPS_HELP: &str = "Read and write requests to a dataset (file system or volume), as in its objset \
                        kstat. zfs send and receive, snapshots and unmounted datasets are not counted. \
                        The label dataset is empty for a dataset that appeared and vanished between two \
                        scrapes.";
const BYTES: &str = "ebpf_zfs_dmu_bytes_total";
const BYTES_HELP: &str = "Bytes read and written by the requests that ebpf_zfs_dmu_ops_total counts.";

/// The pool of a dataset, and the dataset's id in the pool.
type Dataset = (String, u64);

#[derive(Default)]
struct ZfsDmu {
    zfs: Zfs,
    datasets: Names,
    /// The last known name of each dataset; empty if no scrape saw it.
    names: BTreeMap<Dataset, String>,
    rosters: Rosters,
}

impl Exporter for ZfsDmu {
    type Builder = skel::ZfsDmuSkelBuilder;
    type Flags = Flags;

    fn spec(_: &Flags) -> Spec {
        let (read, write) = (&[("operation", "read")], &[("operation", "write")]);
        let datasets = MapSpec::new(MAP)
            .bounded()
            .named()
            .counter_of(OPS, read, "reads", OPS_HELP)
            .counter_of(OPS, write, "writes", OPS_HELP)
            .counter_of(BYTES, read, "read_bytes", BYTES_HELP)
            .counter_of(BYTES, write, "written_bytes", BYTES_HELP);
        Spec::new("zfs-dmu", 9114, "how much is read from and written to each dataset?")
            .events(&["ebpf_zfs_dmu_ops_total"])
            .headlines(headlines::headlines())
            .of_module(zfs::MODULE)
            .required("dataset_kstats_update_read_kstats", &["read"])
            .required("dataset_kstats_update_write_kstats", &["write"])
            .map(datasets)
    }

    fn new(flags: &Flags) -> Result<Self> {
        Ok(Self { zfs: Zfs::new(flags)?, datasets: flags.names(), ..Self::default() })
    }

    fn unusable(&self) -> Refused {
        self.zfs.unusable(&["read", "write"])
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, _: &Facts, _: &Flags) -> Result<()> {
        self.zfs.configure(open.open_object_mut())
    }

    fn seed(live: &Live) -> Result<()> {
        live.maps.insert_zero(MAP, &live.key(MAP, &[("pool", FOLDED.into())])?)?;
        Ok(())
    }

    fn gather(&mut self, live: &Live) -> Result<()> {
        self.zfs.pools.sweep_pools(live, &[MAP])?;
        let layout = live.layouts.get(MAP).context("no map of datasets")?;
        let (pool, objset) = (layout.key.field("pool")?, layout.key.field("objset")?);
        let (reads, writes) = (layout.value.field("reads")?, layout.value.field("writes")?);
        let dataset = |key: &[u8]| (names::text(pool.bytes(key)), number(objset.bytes(key)));
        let mut keys = BTreeMap::new();
        live.maps.for_each(MAP, &mut |key, value| {
            let idle = number(reads.bytes(value)) + number(writes.bytes(value)) == 0;
            keys.insert(key.to_owned(), idle);
        })?;
        let mut there = Vec::new();
        for dataset in keys.keys().map(|key| dataset(key)) {
            let Some(pool) = names::whole_name(&dataset.0)? else { continue };
            if let Some(name) = kstat::dataset_name(&pool, dataset.1)? {
                there.push(identity(&dataset));
                self.names.insert(dataset, name);
            }
        }
        self.datasets.update(there, Instant::now());
        let name = |key: &[u8]| match dataset(key) {
            (other, 0) if other == FOLDED => other,
            dataset => identity(&dataset),
        };
        // The entries left belong to known pools. No dataset has id 0.
        self.datasets.sweep(live, MAP, keys.keys().cloned(), name, |name| !name.ends_with(" 0"))?;
        let known = &self.datasets;
        self.names.retain(|dataset, _| known.has(&identity(dataset)));
        let roster = self.rosters.entry(MAP.to_owned()).or_default();
        roster.entries.clear();
        for (key, idle) in keys {
            let dataset = dataset(&key);
            if known.has(&identity(&dataset)) {
                let name = self.names.get(&dataset).map_or("", String::as_str);
                roster.entries.insert(key, labels(&dataset.0, name, &dataset.1.to_string()));
            } else if dataset == (FOLDED.to_owned(), 0) && !idle {
                roster.entries.insert(key, labels_of_folded());
            }
        }
        Ok(())
    }

    fn fallback(_: &Flags) -> Result<Option<Reader>> {
        Ok(Some(Box::new(|families| {
            for pool in kstat::pools()? {
                for id in kstat::datasets(&pool)? {
                    // It may have been unmounted meanwhile.
                    if let Some(numbers) = kstat::named(&format!("{pool}/objset-{id:#x}"))? {
                        counted((&pool, id), &numbers, families);
                    }
                }
            }
            Ok(())
        })))
    }

    fn rosters(&self) -> &Rosters {
        &self.rosters
    }
}

/// Adds the counters of a dataset's kstat, counted since it was mounted.
fn counted((pool, id): (&str, u64), numbers: &BTreeMap<String, String>, families: &mut Families) {
    let Some(name) = numbers.get("dataset_name") else { return };
    for (family, help, operation, key) in [
        (OPS, OPS_HELP, "read", "reads"),
        (OPS, OPS_HELP, "write", "writes"),
        (BYTES, BYTES_HELP, "read", "nread"),
        (BYTES, BYTES_HELP, "write", "nwritten"),
    ] {
        if let Some(Ok(value)) = numbers.get(key).map(|value| value.parse()) {
            let mut labels = labels(pool, name, &id.to_string());
            labels.push("operation", operation);
            families.counter(family, help, labels, Value::Integer(value));
        }
    }
}

fn identity((pool, objset): &Dataset) -> String {
    format!("{pool} {objset}")
}

fn labels(pool: &str, name: &str, id: &str) -> Labels {
    Labels::of(&[("pool", &*shown(pool)), ("dataset", &*shown(name)), ("objset_id", id)])
}

fn labels_of_folded() -> Labels {
    Labels::of(&["pool", "dataset", "objset_id"].map(|label| (label, OTHER)))
}

fn main() -> ExitCode {
    common::run::<ZfsDmu>()
}

#[cfg(test)]
mod tests {
    use common::fixture::{golden, golden_fallback, render_named};
    use common::read::roster::Roster;

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render_named::<ZfsDmu>(&Flags::default(), |maps| {
            let requests = [
                ("reads", 3.into()),
                ("writes", 4.into()),
                ("read_bytes", 12_288.into()),
                ("written_bytes", 524_288.into()),
            ];
            let mut roster = Roster::default();
            for (pool, objset, labels) in [
                ("tank", 54u64, labels("tank", "tank/home", "54")),
                ("tank", 68, labels("tank", "tank/a \"volume\"", "68")),
                ("other", 54, labels("other", "other", "54")),
                (FOLDED, 0, labels_of_folded()),
            ] {
                let key = [("pool", pool.into()), ("objset", objset.into())];
                roster.entries.insert(maps.key(MAP, &key)?, labels);
                maps.set(MAP, &key, &requests)?;
            }
            Ok([(MAP.to_owned(), roster)].into())
        });
        golden::<ZfsDmu>(env!("CARGO_MANIFEST_DIR"), &text.expect("rendered")).expect("as the golden file");
        let numbers = [
            ("dataset_name", "tank/home"),
            ("reads", "3"),
            ("nread", "384"),
            ("writes", "4"),
            ("nwritten", "512"),
        ];
        let numbers = numbers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut families = Families::default();
        counted(("tank", 54), &numbers.into(), &mut families);
        golden_fallback::<ZfsDmu>(env!("CARGO_MANIFEST_DIR"), families).expect("as the golden file");
    }
}
