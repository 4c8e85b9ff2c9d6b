// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often does the ARC hit, how large is it, and how much is evicted?
//!
//! Hooks, cost and what is not seen: `bpf/zfs-arc.bpf.c`.

mod arcstats;
mod headlines;

use std::process::ExitCode;

use anyhow::Result;
use arcstats::{ASYNC_READS, EVICTED_BYTES, HITS, L2_HITS, L2_MISSES, LOOKUPS, MISSES};
use common::exposition::hist::Unit;
use common::exposition::metric::Families;
use common::kernel::facts::Facts;
use common::kernel::probes::Refused;
use common::process::exporter::{Exporter, OpenOf};
use common::read::live::Live;
use common::read::part::Reader;
use common::spec::{Decode, MapSpec, Spec};
use libbpf_rs::skel::OpenSkel;
use zfs::{Flags, Zfs, kstat};

common::skeleton!();

/// A value of arcstats that exists if ZFS classifies hits in arc_access (2.2 and later).
const SINCE_2_2: &str = "iohits";

/// In the order of `enum zfs_arc_result`.
const RESULTS: &[&str] = &["hit", "iohit", "miss"];

/// Label values for each index of the map `lookups`: result, class and content.
const RESULT: &[&str] =
    &["hit", "hit", "hit", "hit", "iohit", "iohit", "iohit", "iohit", "miss", "miss", "miss", "miss"];
const CLASS: &[&str] = &[
    "demand", "demand", "prefetch", "prefetch", "demand", "demand", "prefetch", "prefetch", "demand",
    "demand", "prefetch", "prefetch",
];
const CONTENT: &[&str] = &[
    "data", "metadata", "data", "metadata", "data", "metadata", "data", "metadata", "data", "metadata",
    "data", "metadata",
];

#[derive(Default)]
struct ZfsArc {
    zfs: Zfs,
}

impl Exporter for ZfsArc {
    type Builder = skel::ZfsArcSkelBuilder;
    type Flags = Flags;

    fn spec(_: &Flags) -> Spec {
        let counts = MapSpec::new("counts")
            .counter(HITS.0, "hits", HITS.1)
            .counter(MISSES.0, "misses", MISSES.1)
            .counter(
                "ebpf_zfs_arc_evictions_total",
                "evictions",
                "Blocks evicted from the ARC to make \
                                                                   room.",
            )
            .counter(L2_HITS.0, "l2_hits", L2_HITS.1)
            .counter(L2_MISSES.0, "l2_misses", L2_MISSES.1);
        let lookups = MapSpec::new("lookups")
            .label("result", "", Decode::words(RESULT))
            .label("class", "", Decode::words(CLASS))
            .label("content", "", Decode::words(CONTENT))
            .counter(LOOKUPS.0, "lookups", LOOKUPS.1);
        let prefetches = MapSpec::new("prefetches").counter(ASYNC_READS.0, "lookups", ASYNC_READS.1);
        let evicted = MapSpec::new("evicted").counter(EVICTED_BYTES.0, "bytes", EVICTED_BYTES.1);
        let latencies =
            MapSpec::new("latencies").sparse().label("result", "", Decode::words(RESULTS)).histogram(
                "ebpf_zfs_arc_read_latency_seconds",
                "latency",
                Unit::Seconds,
                "Time from the call of arc_read until the block was found (hit) or read (miss). Hits that \
                 do not pass arc_read, and lookups with result=\"iohit\", are not observed.",
            );
        Spec::new("zfs-arc", 9110, "how often does the ARC hit, how large is it, and how much is evicted?")
            .events(&["ebpf_zfs_arc_lookups_total", "ebpf_zfs_arc_evictions_total"])
            .headlines(headlines::headlines())
            .of_module(zfs::MODULE)
            .required("trace_zfs_arc__hit", &["hit"])
            .required("trace_zfs_arc__miss", &["miss"])
            .required("trace_zfs_arc__evict", &["evict"])
            .required("arc_read", &["read"])
            .required("trace_zfs_l2arc__hit", &["l2_hit"])
            .required("trace_zfs_l2arc__miss", &["l2_miss"])
            .optional(
                "arc_access",
                &["access+iohit+split_miss", "split_hit+split_miss"],
                &["lookups", "prefetches"],
            )
            .optional("b_lsize", &["evicted_bytes"], &["evicted"])
            .optional("arc_read_done", &["read_done+buf_access"], &["latencies"])
            .map(counts)
            .map(lookups)
            .map(prefetches)
            .map(evicted)
            .map(latencies)
            .ratio(
                "ebpf_zfs_arc_hit_ratio",
                "ebpf_zfs_arc_hits_total",
                "ebpf_zfs_arc_misses_total",
                "ARC hits divided by hits plus misses over the last 60 seconds, independent of scrape \
                 times. Absent when there was no lookup.",
            )
    }

    fn new(flags: &Flags) -> Result<Self> {
        Ok(Self { zfs: Zfs::new(flags)? })
    }

    fn unusable(&self) -> Refused {
        let programs = ["access", "split_hit", "split_miss", "evicted_bytes", "read_done"];
        let mut unusable = self.zfs.unusable(&programs);
        if kstat::named("arcstats").is_ok_and(|stats| stats.is_some_and(|all| all.contains_key(SINCE_2_2))) {
            let why = format!("arcstats has {SINCE_2_2}: this ZFS version classifies lookups in arc_access");
            unusable.entry("split_hit".to_owned()).or_insert(why);
        }
        unusable
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, _: &Facts, _: &Flags) -> Result<()> {
        self.zfs.configure(open.open_object_mut())
    }

    fn fallback(_: &Flags) -> Result<Option<Reader>> {
        Ok(Some(Box::new(|families| {
            if let Some(arcstats) = kstat::named("arcstats")? {
                arcstats::counters(&arcstats, families);
                arcstats::gauges(&arcstats, families);
            }
            Ok(())
        })))
    }

    fn extra(&mut self, _: &Live, families: &mut Families) -> Result<()> {
        if let Some(arcstats) = kstat::named("arcstats")? {
            arcstats::gauges(&arcstats, families);
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    common::run::<ZfsArc>()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::mem::MaybeUninit;

    use common::exposition::encode::{Format, encode};
    use common::fixture::{golden, golden_fallback, render};
    use common::kernel::hook::{Hook, hooks};
    use common::read::layout::Contents::Element;
    use libbpf_rs::skel::SkelBuilder;

    use super::*;

    #[test]
    fn programs_that_only_count_are_told_from_those_that_read_arguments() {
        let mut storage = MaybeUninit::uninit();
        let open = skel::ZfsArcSkelBuilder::default().open(&mut storage).expect("opened");
        let hooks = hooks(open.open_object());
        let reads = |program: &&str| match &hooks[*program] {
            Hook::Kprobe { reads_arguments, .. } => *reads_arguments,
            other => panic!("{program} is at {other}"),
        };
        let counting = ["hit", "evict", "l2_hit", "l2_miss", "iohit", "buf_access"];
        let reading = ["read", "miss", "access", "read_done"];
        assert_eq!(counting.iter().filter(|program| reads(program)).count(), 0);
        assert_eq!(reading.iter().filter(|program| reads(program)).count(), reading.len());
    }

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<ZfsArc>(&Flags::default(), |maps| {
            let counts = ["hits", "misses", "evictions", "l2_hits", "l2_misses"];
            for (n, name) in counts.into_iter().enumerate() {
                maps.set("counts", &[], &[(name, (100 - 10 * n as u64).into())])?;
            }
            for place in 0..12u64 {
                maps.set("lookups", &[("", place.into())], &[("lookups", (place + 1).into())])?;
            }
            // Those of class prefetch above.
            maps.set("prefetches", &[], &[("lookups", 45.into())])?;
            maps.set("evicted", &[], &[("bytes", 131_072.into())])?;
            for result in [0u64, 2] {
                let latency = [("latency.slots", Element(8, 3)), ("latency.sum", 2000.into())];
                maps.set("latencies", &[("", result.into())], &latency)?;
            }
            Ok(())
        });
        let mut text = text.expect("rendered");
        let mut families = Families::default();
        let arcstats = [("size", "10"), ("c", "20"), ("c_min", "5"), ("c_max", "30"), ("arc_meta_used", "3")];
        arcstats::gauges(&numbers(&arcstats), &mut families);
        text += &encode(families, Format::Text);
        golden::<ZfsArc>(env!("CARGO_MANIFEST_DIR"), &text).expect("as the golden file");
    }

    fn numbers(numbers: &[(&str, &str)]) -> BTreeMap<String, String> {
        numbers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn arcstats_are_shown_without_ebpf() {
        let arcstats = numbers(&[
            ("hits", "40"),
            ("misses", "9"),
            ("demand_data_hits", "30"),
            ("demand_data_misses", "7"),
            ("prefetch_data_hits", "10"),
            ("prefetch_data_misses", "2"),
            ("l2_hits", "4"),
            ("l2_misses", "5"),
            ("evict_l2_cached", "1"),
            ("evict_l2_eligible", "2"),
            ("evict_l2_ineligible", "3"),
            ("size", "10"),
            ("c", "20"),
            ("c_min", "5"),
            ("c_max", "30"),
            ("arc_meta_used", "3"),
        ]);
        let mut families = Families::default();
        arcstats::counters(&arcstats, &mut families);
        arcstats::gauges(&arcstats, &mut families);
        golden_fallback::<ZfsArc>(env!("CARGO_MANIFEST_DIR"), families).expect("as the golden file");
    }
}
