// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads maps and renders a scrape.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;

use crate::exposition::encode::{Format, encode};
use crate::exposition::metric::{Families, FamilyKind, Labels, Value};
use crate::read::live::Live;
use crate::read::ratio::Window;
use crate::read::render::{Renderer, Unknown};
use crate::read::roster::Rosters;
use crate::read::self_metrics::{self, Program};
use crate::read::top::Ranking;
use crate::spec::{Spec, Text};

/// Everything that a scrape reads. Scrapes run one at a time, because the map buffers are the
/// largest allocation of the process.
#[derive(Debug)]
pub struct Engine {
    /// NAME of `ebpf-NAME-exporter`.
    pub config: String,
    /// Families that count each event once: see [`Spec::events`].
    pub events: Vec<Text>,
    /// The kernel module to wait for; None once it is loaded.
    pub waiting_for: Option<String>,
    /// The spec, with its names resolved in the object.
    pub renderer: Renderer,
    /// The loaded programs; none after [`Engine::release`].
    pub programs: Mutex<Vec<Program>>,
    /// Whether to leave out metrics about the exporter itself.
    pub without_exporter_metrics: bool,
    /// State kept between scrapes.
    pub history: Mutex<History>,
}

/// The exporter's part of a scrape: see [`crate::process::exporter::Exporter`].
pub trait Source: Send {
    /// Called before maps are read.
    ///
    /// # Errors
    /// When the kernel refuses a read.
    fn gather(&mut self, live: &Live) -> Result<()>;
    /// Labels of the entries of maps.
    fn rosters(&self) -> &Rosters;
    /// The reader to use after [`Engine::release`], if it is not the exporter's fallback.
    fn release(&mut self) -> Option<Reader> {
        None
    }
    /// Called after maps are read.
    ///
    /// # Errors
    /// When the kernel refuses a read.
    fn extra(&mut self, live: &Live, families: &mut Families) -> Result<()>;
}

/// Reads the metrics that need no program.
pub type Reader = Box<dyn FnMut(&mut Families) -> Result<()> + Send>;

/// A source without programs.
struct WithoutPrograms(Reader);

impl Source for WithoutPrograms {
    fn gather(&mut self, _: &Live) -> Result<()> {
        Ok(())
    }

    fn rosters(&self) -> &Rosters {
        static NOBODY: Rosters = BTreeMap::new();
        &NOBODY
    }

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

/// State kept between scrapes.
#[derive(Default)]
pub struct History {
    /// The loaded object.
    pub live: Live,
    /// The exporter; None for an engine with self metrics only.
    pub source: Option<Box<dyn Source>>,
    /// Creates the reader that replaces the source after [`Engine::release`].
    pub fallback: Option<Fallback>,
    /// Earlier counters of ratios.
    pub windows: Vec<Window>,
    /// State of families that show only their largest series.
    pub rankings: Vec<Ranking>,
    scrapes: u64,
    unknown: Unknown,
    /// Whether no programs are loaded, from the start or after [`Engine::release`].
    released: bool,
}

impl History {
    /// The state before the first scrape.
    pub fn new(spec: &Spec) -> Self {
        Self {
            windows: spec.ratios.iter().cloned().map(Window::new).collect(),
            rankings: spec.tops.iter().cloned().map(Ranking::new).collect(),
            ..Self::default()
        }
    }
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("scrapes", &self.scrapes).finish_non_exhaustive()
    }
}

impl Default for Engine {
    /// An engine with self metrics only.
    fn default() -> Self {
        Self {
            config: String::new(),
            events: Vec::new(),
            waiting_for: None,
            renderer: Renderer::default(),
            programs: Mutex::default(),
            without_exporter_metrics: false,
            history: Mutex::default(),
        }
    }
}

impl Engine {
    /// An engine without programs that exports the metrics of `reader`.
    pub fn without_programs(spec: &Spec, reader: Reader, without_exporter_metrics: bool) -> Self {
        let source: Option<Box<dyn Source>> = Some(Box::new(WithoutPrograms(reader)));
        let history = History { source, released: true, ..History::new(spec) };
        let history = Mutex::new(history);
        let (config, events) = (spec.name.to_string(), spec.events.clone());
        Self { config, events, without_exporter_metrics, history, ..Self::default() }
    }

    /// Reads everything and renders it.
    ///
    /// # Errors
    /// When the kernel refuses a read. No partial result is returned.
    pub fn scrape(&self, format: Format) -> Result<String> {
        Ok(encode(self.families()?, format))
    }

    /// As [`Engine::scrape`], for a file that node_exporter reads with those of other exporters.
    ///
    /// # Errors
    /// As there.
    pub fn scrape_for_file(&self) -> Result<String> {
        let mut families = self.families()?;
        families.set_apart(&self.config);
        Ok(encode(families, Format::Text))
    }

    fn families(&self) -> Result<Families> {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let mut families = self.read(&mut history)?;
        history.windows.iter().for_each(|window| window.add(&mut families));
        history.rankings.iter_mut().for_each(|ranking| ranking.apply(&mut families));
        history.scrapes += 1;
        if !self.without_exporter_metrics {
            self.about_itself(&mut families, &history, start)?;
        }
        Ok(families)
    }

    /// Updates state between scrapes. If there are ratios, reads everything and records their
    /// counters. Otherwise only calls [`Source::gather`].
    ///
    /// # Errors
    /// When the kernel refuses a read.
    pub fn tick(&self) -> Result<()> {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.windows.is_empty() {
            let History { live, source, .. } = &mut *history;
            return source.as_mut().map_or(Ok(()), |source| source.gather(live));
        }
        let families = self.read(&mut history)?;
        let now = Instant::now();
        history.windows.iter_mut().for_each(|window| window.remember(&families, now));
        Ok(())
    }

    /// Releases programs, maps and iterators, and continues with the metrics that need none of
    /// them, or with self metrics only. Call it after the links of the programs are closed.
    pub fn release(&self) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.released {
            return;
        }
        let shown = self.read(&mut history).map(counters).unwrap_or_else(|error| {
            log::warn!("counters restart from 0: {error:#}");
            Counters::new()
        });
        let own = history.source.as_mut().and_then(|source| source.release());
        let fallback = || history.fallback.take().map_or(Ok(None), |fallback| fallback());
        let reader = own.map_or_else(fallback, |reader| Ok(Some(reader))).unwrap_or_else(|error| {
            log::warn!("{error:#}");
            None
        });
        history.released = true;
        history.live = Live::default();
        history.windows.iter_mut().for_each(Window::forget);
        history.source =
            reader.map(|reader| -> Box<dyn Source> { Box::new(WithoutPrograms(continued(reader, shown))) });
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn read(&self, history: &mut History) -> Result<Families> {
        let mut families = Families::default();
        let nobody = Rosters::new();
        let mut rosters = &nobody;
        let History { live, source, released, unknown, .. } = history;
        if let Some(source) = source {
            source.gather(live)?;
            rosters = source.rosters();
        }
        if !*released {
            self.renderer.render(&live.maps, rosters, &mut families, unknown)?;
        }
        if let Some(source) = source {
            source.extra(live, &mut families)?;
        }
        Ok(families)
    }

    fn about_itself(&self, families: &mut Families, history: &History, start: Instant) -> Result<()> {
        let config = || Labels::of(&[("config", &self.config)]);
        let mode = match (&self.waiting_for, history.released) {
            (Some(_), _) => "waiting",
            (None, true) => "fallback",
            (None, false) => "ebpf",
        };
        self_metrics::identity(families, &self.config, mode);
        let programs = self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = self_metrics::programs(families, &self.config, &programs)?;
        self_metrics::events(families, &self.config, &history.live.layouts, &history.live.maps, missed)?;
        self_metrics::counted(families, &self.config, &self.events);
        self_metrics::map_fill(families, &history.live.maps)?;
        families.counter(
            "ebpf_exporter_decoder_errors_total",
            "Distinct keys and values that could not be decoded, up to 1024. Each counts once; its label \
             is unknown:N.",
            config(),
            Value::Integer(history.unknown.count()),
        );
        families.counter(
            "ebpf_exporter_scrapes_total",
            "Scrapes served, this one included.",
            Labels::none(),
            Value::Integer(history.scrapes),
        );
        self_metrics::process(families);
        families.gauge(
            "ebpf_exporter_scrape_duration_seconds",
            "Time to collect the metrics of this scrape. Encoding and sending are not included.",
            Labels::none(),
            Value::Nanoseconds(start.elapsed().as_nanos() as u64),
        );
        Ok(())
    }
}
