// SPDX-License-Identifier: MIT OR Apache-2.0
//! Does the page cache hit?
//!
//! Hooks, cost and what is not seen: `bpf/cachestat.bpf.c`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use common::kernel::facts::Facts;
use common::process::exporter::{Exporter, OpenOf};
use common::spec::{Decode, MapSpec, Shape, Spec};

common::skeleton!();

/// In the order of `enum cachestat_content`.
const CONTENTS: &[&str] = &["file", "metadata"];

/// The flag of a folio of several pages.
const HEAD: &str = "PG_head";

#[derive(Default)]
struct Cachestat;

impl Exporter for Cachestat {
    type Builder = skel::CachestatSkelBuilder;
    type Flags = common::process::cli::NoFlags;

    fn spec(_: &Self::Flags) -> Spec {
        let lookups = MapSpec::new("lookups")
            .counter(
                "ebpf_page_cache_hits_total",
                "hits",
                "Look-ups in the page cache that found their page: pages of reads, and faults on mapped files.",
            )
            .counter(
                "ebpf_page_cache_misses_total",
                "misses",
                "Look-ups of pages that had to be read for it, also when readahead had just read them; \
                 hits and misses are all look-ups.",
            );
        Spec::new("cachestat", 9106, "does the page cache hit?")
            .events(&[
                "ebpf_page_cache_hits_total",
                "ebpf_page_cache_misses_total",
                "ebpf_page_cache_adds_total",
                "ebpf_page_cache_dirties_total",
            ])
            .required("mm_filemap_add_to_page_cache", &["add_folio", "add_page"])
            .required("writeback_dirty", &["dirty_folio", "dirty_page"])
            .required("read", &["read_fexit", "buffered_read_fexit", "get_pages_btf+exit_btf"])
            .where_present("filemap_splice_read", &["splice_fexit"])
            .required("filemap_fault", &["fault_fexit", "fault_btf+exit_btf"])
            .required(
                "filemap_map_pages",
                &["map_pages_fexit", "map_pages_void_fexit", "map_pages_btf+exit_btf"],
            )
            .shape("map_pages_fexit", Shape::Returns(true))
            .shape("map_pages_void_fexit", Shape::Returns(false))
            .shape("add_folio", Shape::First("folio".into()))
            .shape("add_page", Shape::First("page".into()))
            .enumerator(HEAD)
            .map(lookups)
            .map(pages("adds").counter(
                "ebpf_page_cache_adds_total",
                "pages",
                "Pages added to the page cache, for reading and for writing; metadata: of a block device.",
            ))
            .map(pages("dirties").counter(
                "ebpf_page_cache_dirties_total",
                "pages",
                "Pages that were clean and became dirty; metadata: of a block device.",
            ))
            .ratio(
                "ebpf_page_cache_hit_ratio",
                "ebpf_page_cache_hits_total",
                "ebpf_page_cache_misses_total",
                "Share of hits in the look-ups of the last 60 seconds; absent when nothing was looked up.",
            )
    }

    fn configure(&self, open: &mut OpenOf<'_, Self>, facts: &Facts, _: &Self::Flags) -> Result<()> {
        let settings = open.maps.rodata_data.as_mut().context("no .rodata")?;
        if let Some(bit) = facts.enumerators.get(HEAD) {
            settings.cachestat_head_bit = u32::try_from(*bit).context(HEAD)?;
        }
        Ok(())
    }
}

fn pages(map: &'static str) -> MapSpec {
    MapSpec::new(map).label("content", "", Decode::words(CONTENTS))
}

fn main() -> ExitCode {
    common::run::<Cachestat>()
}

#[cfg(test)]
mod tests {
    use common::fixture::{golden, render};

    use super::*;

    #[test]
    fn exposition_is_as_expected() {
        let text = render::<Cachestat>(&common::process::cli::NoFlags {}, |maps| {
            maps.set("lookups", &[], &[("hits", 9.into()), ("misses", 1.into())])?;
            for content in 0..2 {
                maps.set("adds", &[("", content.into())], &[("pages", (content + 1).into())])?;
                maps.set("dirties", &[("", content.into())], &[("pages", (content * 5).into())])?;
            }
            Ok(())
        });
        golden::<Cachestat>(env!("CARGO_MANIFEST_DIR"), &text.expect("rendered"))
            .expect("as the golden file");
    }

    #[test]
    fn without_look_ups_there_is_no_ratio() {
        let text = render::<Cachestat>(&common::process::cli::NoFlags {}, |_| Ok(())).expect("rendered");
        assert!(!text.contains("\nebpf_page_cache_hit_ratio "), "{text}");
    }
}
