// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one object and its config contribute to a scrape. A built-in exporter is one part; a process
//! that loads users' objects has one for each.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

use crate::exposition::metric::{Families, FamilyKind, Labels, Value};
use crate::exposition::native::Schema;
use crate::read::cgroups::{self, Folds};
use crate::read::live::Live;
use crate::read::maps::{Fill, MapSource};
use crate::read::ratio::Window;
use crate::read::render::{Renderer, Unknown};
use crate::read::roster::Rosters;
use crate::read::self_metrics::{self, Program};
use crate::read::top::Ranking;
use crate::spec::{Spec, Text};

/// One object and what is read of it.
#[derive(Default)]
pub struct Part {
    /// The `config` label.
    pub config: String,
    /// Families that count each event once: see [`Spec::events`].
    pub events: Vec<Text>,
    /// The spec, with its names resolved in the object.
    pub renderer: Renderer,
    /// The loaded programs; none after [`Part::release`].
    pub programs: Vec<Program>,
    /// The loaded object.
    pub live: Live,
    /// The exporter's own part; None for self metrics only.
    pub source: Option<Box<dyn Source>>,
    /// Creates the reader that replaces the source after [`Part::release`].
    pub fallback: Option<Fallback>,
    /// Whether the programs' run time is also shown under its name in ebpf_exporter.
    pub bare_run_time: bool,
    /// Earlier counters of ratios.
    windows: Vec<Window>,
    /// State of families that show only their largest series.
    rankings: Vec<Ranking>,
    unknown: Unknown,
    /// Removes entries when a map was full: see [`sweep_cgroups`].
    pub sweep: Option<Sweep>,
    /// Whether maps were full since the last scrape.
    folds: Folds,
    /// Whether no programs are loaded, from the start or after [`Part::release`].
    released: bool,
}

/// Removes entries of maps that stand for nothing any more.
pub type Sweep = fn(&Renderer, &Live, &mut Unknown) -> Result<()>;

/// Those of removed cgroups.
///
/// # Errors
/// When a map cannot be read or written.
pub fn sweep_cgroups(renderer: &Renderer, live: &Live, unknown: &mut Unknown) -> Result<()> {
    renderer.sweep(&live.maps, cgroups::all, |map, key| live.maps.delete(map, key), unknown)
}

/// What only the exporter knows about its part: see [`crate::process::exporter::Exporter`].
pub trait Source: Send {
    /// Called before maps are read.
    ///
    /// # Errors
    /// When the kernel refuses a read.
    fn gather(&mut self, live: &Live) -> Result<()> {
        let _ = live;
        Ok(())
    }

    /// Labels of the entries of maps.
    fn rosters(&self) -> &Rosters {
        static NOBODY: Rosters = BTreeMap::new();
        &NOBODY
    }

    /// The reader to use after [`Part::release`], if it is not the exporter's fallback.
    fn release(&mut self) -> Option<Reader> {
        None
    }

    /// Called after maps are read.
    ///
    /// # Errors
    /// When the kernel refuses a read.
    fn extra(&mut self, live: &Live, families: &mut Families) -> Result<()>;

    /// Adds metrics about the exporter itself.
    fn about_itself(&mut self, families: &mut Families) {
        let _ = families;
    }

    /// Keys and values that the source itself could not decode.
    fn decoder_errors(&self) -> u64 {
        0
    }

    /// How full the maps are, if the source counted their entries while it read them. None: they are
    /// counted after the scrape.
    fn fill(&self) -> Option<Vec<Fill>> {
        None
    }

    /// The text of a page for whoever looks for a fault: see [`Spec::pages`].
    ///
    /// # Errors
    /// When the kernel refuses a read.
    fn page(&mut self, path: &str, live: &Live) -> Result<String> {
        let _ = (path, live);
        Ok(String::new())
    }
}

/// Reads the metrics that need no program.
pub type Reader = Box<dyn FnMut(&mut Families) -> Result<()> + Send>;

/// A source without programs.
struct WithoutPrograms(Reader);

impl Source for WithoutPrograms {
    fn extra(&mut self, _: &Live, families: &mut Families) -> Result<()> {
        (self.0)(families)
    }
}

/// Creates a [`Reader`], if the exporter has metrics that need no program.
pub type Fallback = Box<dyn FnOnce() -> Result<Option<Reader>> + Send>;

/// Counters by name and labels.
type Counters = BTreeMap<(String, Labels), Value>;

fn counters(families: Families) -> Counters {
    let counters = families.into_sorted().into_iter().filter(|family| family.kind != FamilyKind::Gauge);
    let samples = counters.flat_map(|family| {
        family.samples.into_iter().map(move |sample| ((family.name.clone(), sample.labels), sample.value))
    });
    samples.collect()
}

/// Wraps `reader` so that its counters continue from those in `shown`. The reader may count from
/// another moment, such as boot.
fn continued(mut reader: Reader, shown: Counters) -> Reader {
    let mut first: Option<Counters> = None;
    Box::new(move |families| {
        let mut read = Families::default();
        reader(&mut read)?;
        let first = first.get_or_insert_with(|| counters(read.clone()));
        for mut family in read.into_sorted() {
            if family.kind != FamilyKind::Gauge {
                for sample in &mut family.samples {
                    let series = (family.name.clone(), sample.labels.clone());
                    if let Some(first) = first.get(&series) {
                        sample.value.reduce(first);
                    }
                    if let Some(shown) = shown.get(&series) {
                        sample.value.merge(shown);
                    }
                }
            }
            families.family(&family.name, &family.help, family.kind).samples.extend(family.samples);
        }
        Ok(())
    })
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Part {
    /// The part that `spec` describes, before its object is there.
    pub fn new(spec: &Spec) -> Self {
        Self {
            config: spec.name.to_string(),
            events: spec.events.clone(),
            windows: spec.ratios.iter().cloned().map(Window::new).collect(),
            rankings: spec.tops.iter().cloned().map(Ranking::new).collect(),
            ..Self::default()
        }
    }

    /// A part without programs that exports the metrics of `reader`.
    pub fn without_programs(spec: &Spec, reader: Reader) -> Self {
        let source: Option<Box<dyn Source>> = Some(Box::new(WithoutPrograms(reader)));
        Self { source, released: true, ..Self::new(spec) }
    }

    /// Whether no programs are loaded.
    pub fn is_released(&self) -> bool {
        self.released
    }

    /// Reads everything, with native histograms of `schema` if there is one.
    ///
    /// # Errors
    /// When the kernel refuses a read.
    pub fn read(&mut self, schema: Option<Schema>) -> Result<Families> {
        let mut families = Families::default();
        let nobody = Rosters::new();
        let mut rosters = &nobody;
        if let Some(source) = &mut self.source {
            source.gather(&self.live)?;
            rosters = source.rosters();
        }
        if !self.released {
            let unknown = &mut self.unknown;
            self.renderer.render(&self.live.maps, rosters, schema, &mut families, unknown)?;
            // After the entries were shown, for what they counted last.
            if let Some(sweep) = self.sweep
                && self.folds.grew(&self.live)?
            {
                sweep(&self.renderer, &self.live, unknown)?;
            }
        }
        if let Some(source) = &mut self.source {
            source.extra(&self.live, &mut families)?;
        }
        Ok(families)
    }

    /// What a scrape shows, with native histograms of `schema` if there is one.
    ///
    /// # Errors
    /// When the kernel refuses a read.
    pub fn scrape(&mut self, schema: Option<Schema>) -> Result<Families> {
        let mut families = self.read(schema)?;
        self.windows.iter().for_each(|window| window.add(&mut families));
        self.rankings.iter_mut().for_each(|ranking| ranking.apply(&mut families));
        Ok(families)
    }

    /// Updates state between scrapes. If there are ratios, reads everything and records their
    /// counters. Otherwise only calls [`Source::gather`].
    ///
    /// # Errors
    /// When the kernel refuses a read.
    pub fn tick(&mut self) -> Result<()> {
        if self.windows.is_empty() {
            return self.source.as_mut().map_or(Ok(()), |source| source.gather(&self.live));
        }
        let families = self.read(None)?;
        let now = Instant::now();
        self.windows.iter_mut().for_each(|window| window.remember(&families, now));
        Ok(())
    }

    /// Releases programs, maps and iterators, and continues with the metrics that need none of
    /// them, or with self metrics only. Call it after the links of the programs are closed.
    pub fn release(&mut self) {
        if self.released {
            return;
        }
        let shown = self.read(None).map(counters).unwrap_or_else(|error| {
            log::warn!("counters restart from 0: {error:#}");
            Counters::new()
        });
        let own = self.source.as_mut().and_then(|source| source.release());
        let fallback = || self.fallback.take().map_or(Ok(None), |fallback| fallback());
        let reader = own.map_or_else(fallback, |reader| Ok(Some(reader))).unwrap_or_else(|error| {
            log::warn!("{error:#}");
            None
        });
        self.released = true;
        self.live = Live::default();
        self.windows.iter_mut().for_each(Window::forget);
        self.source =
            reader.map(|reader| -> Box<dyn Source> { Box::new(WithoutPrograms(continued(reader, shown))) });
        self.programs.clear();
    }

    /// Adds metrics about this part to `own`. `shown` is what the part has read in this scrape.
    ///
    /// # Errors
    /// When the kernel refuses a read.
    pub fn about_itself(&mut self, shown: &Families, own: &mut Families) -> Result<()> {
        let config = || Labels::of(&[("config", &self.config)]);
        let missed = self_metrics::programs(own, &self.config, &self.programs, self.bare_run_time)?;
        self_metrics::events(own, &self.config, &self.live.layouts, &self.live.maps, missed)?;
        self_metrics::counted(own, &self.config, &self.events, shown);
        let counted = self.source.as_ref().and_then(|source| source.fill());
        let fills = counted.map_or_else(|| self.live.maps.fill(), Ok)?;
        self_metrics::map_fill(own, &self.config, &fills);
        let undecoded = self.source.as_ref().map_or(0, |source| source.decoder_errors());
        own.counter(
            "ebpf_exporter_decoder_errors_total",
            "Distinct keys and values that could not be decoded, up to 1024. Each counts once; its label \
             is unknown:N.",
            config(),
            Value::Integer(self.unknown.count() + undecoded),
        );
        if let Some(source) = &mut self.source {
            source.about_itself(own);
        }
        Ok(())
    }
}
