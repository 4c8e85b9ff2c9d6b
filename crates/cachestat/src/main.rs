// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often is a page found in the page cache?
//!
//! Hooks, cost and what is not seen: `bpf/cachestat.bpf.c`.

mod headlines;

use std::process::ExitCode;

use anyhow::{Context, Result};
use common::kernel::facts::Facts;
use common::process::exporter::{Exporter, OpenOf};
use common::spec::{Decode, MapSpec, Shape, Spec};

common::skeleton!();

/// In the order of `enum cachestat_content`.
const CONTENTS: &[&str] = &["file", "metadata"];

/// The flag of a large folio.
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
                "Page cache lookups that found the page cached. One lookup is one page of a buffered read, \
                 or one page fault on a mapped file; tmpfs, O_DIRECT and access to pages already mapped are \
                 not counted.",
            )
            .counter(
                "ebpf_page_cache_misses_total",
                "misses",
                "Page cache lookups of a page that had to be read in, by the lookup itself or by readahead \
                 just before it. Readahead pages that nobody looks up are not counted; hits plus misses \
                 are all lookups.",
            );
        Spec::new("cachestat", 9106, "how often is a page found in the page cache?")
            .events(&[
                "ebpf_page_cache_hits_total",
                "ebpf_page_cache_misses_total",
                "ebpf_page_cache_adds_total",
                "ebpf_page_cache_dirties_total",
            ])
            .headlines(headlines::headlines())
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
                "Pages added to the page cache, for reads (readahead included) and for writes. content=\"metadata\" are \
                 pages of a block device, content=\"file\" all others.",
            ))
            .map(pages("dirties").counter(
                "ebpf_page_cache_dirties_total",
                "pages",
                "Clean pages in the page cache that became dirty. Another write to a page that is already \
                 dirty is not counted; content=\"metadata\" are pages of a block device.",
            ))
            .ratio(
                "ebpf_page_cache_hit_ratio",
                "ebpf_page_cache_hits_total",
                "ebpf_page_cache_misses_total",
                "Page cache hits divided by lookups over the last 60 seconds, independent of scrape times. \
                 Absent when there was no lookup.",
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
