// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the parts of a process and renders a scrape.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use anyhow::Result;

use crate::exposition::encode::{Format, encode};
use crate::exposition::metric::{Families, Labels, Value};
use crate::exposition::native::Schema;
use crate::exposition::protobuf;
use crate::read::part::{Part, Reader};
use crate::read::self_metrics;
use crate::spec::Spec;

/// Everything that a scrape reads. Scrapes run one at a time, because the map buffers are the
/// largest allocation of the process.
#[derive(Debug, Default)]
pub struct Engine {
    /// NAME of `ebpf-NAME-exporter`.
    pub name: String,
    /// The kernel module to wait for; None once it is loaded.
    pub waiting_for: Option<String>,
    /// Whether to leave out metrics about the exporter itself.
    pub without_exporter_metrics: bool,
    state: Mutex<State>,
}

/// What changes between scrapes.
#[derive(Debug, Default)]
pub struct State {
    /// The parts, in the order in which they are read.
    pub parts: Vec<Part>,
    scrapes: u64,
}

/// A scrape: what the parts show, and metrics about the exporter itself.
struct Scrape {
    shown: Families,
    own: Families,
}

impl Engine {
    /// The engine of process `name`, which reads `parts`.
    pub fn new(name: &str, parts: Vec<Part>, without_exporter_metrics: bool) -> Self {
        let state = Mutex::new(State { parts, scrapes: 0 });
        Self { name: name.to_owned(), waiting_for: None, without_exporter_metrics, state }
    }

    /// An engine that exports only metrics about itself while the kernel module `module` is not loaded.
    pub fn waiting(spec: &Spec, module: &str) -> Self {
        let waiting_for = Some(module.to_owned());
        Self { waiting_for, ..Self::new(&spec.name, vec![Part::new(spec)], false) }
    }

    /// An engine without programs that exports the metrics of `reader`.
    pub fn without_programs(spec: &Spec, reader: Reader, without_exporter_metrics: bool) -> Self {
        Self::new(&spec.name, vec![Part::without_programs(spec, reader)], without_exporter_metrics)
    }

    /// The state. A scrape holds this lock from beginning to end.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no scrape is under way.
    pub fn is_idle(&self) -> bool {
        !matches!(self.state.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Reads everything and renders it as text.
    ///
    /// # Errors
    /// When the kernel refuses a read. No partial result is returned.
    pub fn scrape(&self, format: Format) -> Result<String> {
        let Scrape { mut shown, own } = self.read(None)?;
        shown.append(own);
        Ok(encode(shown, format))
    }

    /// Reads everything and renders it as protobuf. Histograms whose bounds are those of `schema` are also
    /// native.
    ///
    /// # Errors
    /// As [`Engine::scrape`].
    pub fn scrape_protobuf(&self, schema: Schema) -> Result<Vec<u8>> {
        let Scrape { mut shown, own } = self.read(Some(schema))?;
        shown.append(own);
        Ok(protobuf::encode(shown))
    }

    /// As [`Engine::scrape`], for a file that node_exporter reads with those of other exporters.
    ///
    /// # Errors
    /// As there.
    pub fn scrape_for_file(&self) -> Result<String> {
        let Scrape { mut shown, mut own } = self.read(None)?;
        own.set_apart(&self.name);
        shown.append(own);
        Ok(encode(shown, Format::Text))
    }

    /// The text of a page of [`Spec::pages`].
    ///
    /// # Errors
    /// When the kernel refuses a read.
    pub fn page(&self, path: &str) -> Result<String> {
        let mut state = self.state();
        let mut text = String::new();
        for part in &mut state.parts {
            if let Some(source) = &mut part.source {
                text.push_str(&source.page(path, &part.live)?);
            }
        }
        Ok(text)
    }

    /// Updates state between scrapes: see [`Part::tick`].
    ///
    /// # Errors
    /// When the kernel refuses a read.
    pub fn tick(&self) -> Result<()> {
        self.state().parts.iter_mut().try_for_each(Part::tick)
    }

    /// Releases the programs of all parts: see [`Part::release`].
    pub fn release(&self) {
        self.state().parts.iter_mut().for_each(Part::release);
    }

    fn read(&self, schema: Option<Schema>) -> Result<Scrape> {
        let mut state = self.state();
        let start = Instant::now();
        let read = state.parts.iter_mut().map(|part| part.scrape(schema));
        let read: Vec<Families> = read.collect::<Result<_>>()?;
        state.scrapes += 1;
        let mut own = Families::default();
        if !self.without_exporter_metrics {
            self.about_itself(&mut own, &mut state, &read, start)?;
        }
        let mut shown = Families::default();
        read.into_iter().for_each(|families| shown.append(families));
        Ok(Scrape { shown, own })
    }

    fn about_itself(
        &self,
        own: &mut Families,
        state: &mut State,
        read: &[Families],
        start: Instant,
    ) -> Result<()> {
        let mode = match &self.waiting_for {
            Some(_) => "waiting",
            None if state.parts.iter().any(Part::is_released) => "fallback",
            None => "ebpf",
        };
        self_metrics::identity(own, &self.name, mode);
        for (part, shown) in state.parts.iter_mut().zip(read) {
            self_metrics::enabled(own, &part.config);
            part.about_itself(shown, own)?;
        }
        own.counter(
            "ebpf_exporter_scrapes_total",
            "Scrapes served, this one included.",
            Labels::none(),
            Value::Integer(state.scrapes),
        );
        self_metrics::process(own);
        own.gauge(
            "ebpf_exporter_scrape_duration_seconds",
            "Time to collect the metrics of this scrape. Encoding and sending are not included.",
            Labels::none(),
            Value::Nanoseconds(start.elapsed().as_nanos() as u64),
        );
        Ok(())
    }
}
