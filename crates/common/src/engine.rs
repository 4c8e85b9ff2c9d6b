// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a scrape is made of.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;

use crate::encode::{Format, encode};
use crate::layout::Layouts;
use crate::maps::LiveMaps;
use crate::metric::{Families, Labels, Value};
use crate::render::Renderer;
use crate::self_metrics::{self, Program};

/// Everything that is read at a scrape. One scrape at a time: the maps' buffers are
/// the largest thing in the process.
#[derive(Debug)]
pub struct Engine {
    /// NAME.
    pub config: String,
    /// The object's maps.
    pub maps: LiveMaps,
    /// Their layouts.
    pub layouts: Layouts,
    /// The bound spec.
    pub renderer: Renderer,
    /// The loaded programs.
    pub programs: Vec<Program>,
    /// What the exporter adds by itself.
    pub extra: fn(&mut Families) -> Result<()>,
    /// Whether metrics about the exporter itself are left out.
    pub without_exporter_metrics: bool,
    /// Counts of earlier scrapes.
    pub history: Mutex<History>,
}

/// What is remembered from one scrape to the next.
#[derive(Debug, Default)]
pub struct History {
    scrapes: u64,
    decoder_errors: u64,
}

impl Default for Engine {
    /// An engine that reads nothing and tells of itself only.
    fn default() -> Self {
        Self {
            config: String::new(),
            maps: LiveMaps::default(),
            layouts: Layouts::default(),
            renderer: Renderer::default(),
            programs: Vec::new(),
            extra: |_| Ok(()),
            without_exporter_metrics: false,
            history: Mutex::default(),
        }
    }
}

impl Engine {
    /// Reads everything and renders it.
    ///
    /// # Errors
    /// When the kernel does not let something be read: no partial answer is given.
    pub fn scrape(&self, format: Format) -> Result<String> {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let mut families = Families::default();
        history.decoder_errors += self.renderer.render(&self.maps, &mut families)?;
        (self.extra)(&mut families)?;
        history.scrapes += 1;
        if !self.without_exporter_metrics {
            self.about_itself(&mut families, &history, start)?;
        }
        Ok(encode(families, format))
    }

    fn about_itself(&self, families: &mut Families, history: &History, start: Instant) -> Result<()> {
        let config = || Labels::of(&[("config", &self.config)]);
        self_metrics::identity(families, &self.config, "ebpf");
        let misses = self_metrics::programs(families, &self.config, &self.programs)?;
        self_metrics::events(families, &self.config, &self.layouts, &self.maps, misses)?;
        self_metrics::map_fill(families, &self.maps)?;
        families.counter(
            "ebpf_exporter_decoder_errors_total",
            "Keys and values that had no meaning; their label is unknown:N.",
            config(),
            Value::Integer(history.decoder_errors),
        );
        families.counter(
            "ebpf_exporter_scrapes_total",
            "Scrapes, this one included.",
            Labels::none(),
            Value::Integer(history.scrapes),
        );
        self_metrics::process(families);
        families.gauge(
            "ebpf_exporter_scrape_duration_seconds",
            "Time it took to read everything of this scrape; writing and sending come after.",
            Labels::none(),
            Value::Nanoseconds(start.elapsed().as_nanos() as u64),
        );
        Ok(())
    }
}
