// SPDX-License-Identifier: MIT OR Apache-2.0
//! A config as its file has it: fields have types, but nothing is checked against the rest.
//!
//! A key that comes twice, also through a merge (`<<`), is read into the same field again, in the order
//! of the file: a scalar or list is replaced, a mapping gains keys.

use super::types::{Decoder, Finding, Label, Span};
use super::walk::{Result, Walker};
use super::yaml::{Id, Tree, Wrong};

/// A config.
#[derive(Debug, Default)]
pub struct Raw {
    pub metrics: Metrics,
    pub tracing: Tracing,
    pub kaddrs: Vec<Line<String>>,
    pub cgroup_id_map: CgroupIdMap,
}

/// `metrics`. None is a list that is not there, which differs from an empty one.
#[derive(Debug, Default)]
pub struct Metrics {
    pub counters: Option<Vec<Metric>>,
    pub gauges: Option<Vec<Metric>>,
    pub histograms: Option<Vec<Metric>>,
}

/// `tracing`.
#[derive(Debug, Default)]
pub struct Tracing {
    pub spans: Option<Vec<Span>>,
}

/// A counter, gauge or histogram: the fields of all three.
#[derive(Debug, Default)]
pub struct Metric {
    pub line: u64,
    pub name: String,
    pub help: String,
    pub map: String,
    pub member: String,
    pub perf_event_array: bool,
    pub ring_buffer: bool,
    pub flush_interval: u64,
    pub max_age: u64,
    pub bucket_type: String,
    pub bucket_multiplier: f64,
    pub bucket_min: i64,
    pub bucket_max: i64,
    pub bucket_keys: Vec<f64>,
    pub labels: Vec<Label>,
}

/// `cgroup_id_map`.
#[derive(Debug, Default)]
pub struct CgroupIdMap {
    pub line: u64,
    pub name: String,
    pub kind: String,
    pub regexps: Vec<String>,
}

/// A value and its line.
#[derive(Debug, Default)]
pub struct Line<T> {
    pub line: u64,
    pub value: T,
}

const TOP: &[&str] = &["name", "metrics", "tracing", "kaddrs", "cgroup_id_map"];
const METRICS: &[&str] = &["counters", "gauges", "histograms"];
const TRACING: &[&str] = &["spans"];
const COUNTER: &[&str] = &[
    "name",
    "help",
    "labels",
    "perf_event_array",
    "flush_interval",
    "ring_buffer",
    "map",
    "member",
    "max_age",
];
const GAUGE: &[&str] = &["name", "help", "labels", "map", "member", "max_age"];
const HISTOGRAM: &[&str] = &[
    "name",
    "help",
    "labels",
    "bucket_type",
    "bucket_multiplier",
    "bucket_min",
    "bucket_max",
    "bucket_keys",
    "map",
    "member",
    "max_age",
];
const SPAN: &[&str] = &["ringbuf", "name", "service", "labels"];
const LABEL: &[&str] = &["name", "size", "padding", "decoders"];
const DECODER: &[&str] = &["name", "static_map", "regexps", "allow_unknown"];
const CGROUP_ID_MAP: &[&str] = &["name", "type", "regexps"];

/// Reads a document. Unknown keys are findings.
///
/// # Errors
/// When a value has the wrong type, or aliases multiply too much.
pub fn read(tree: &Tree) -> std::result::Result<(Raw, Vec<Finding>), Wrong> {
    let mut raw = Raw::default();
    let mut walker = Walker::new(tree);
    if let Some(root) = tree.root {
        top(&mut walker, root, &mut raw)?;
    }
    Ok((raw, walker.into_findings()))
}

fn top(walker: &mut Walker, id: Id, out: &mut Raw) -> Result<()> {
    walker.fields(id, TOP, out, |walker, key, id, out| {
        match key {
            "metrics" => walker.fields(id, METRICS, &mut out.metrics, metrics)?,
            "tracing" => walker.fields(id, TRACING, &mut out.tracing, |walker, _, id, out| {
                out.spans = walker.list(id, span)?;
                Ok(())
            })?,
            "kaddrs" => {
                let name = |walker: &mut Walker, id, out: &mut Line<String>| {
                    *out = Line { line: walker.line(id), value: walker.text(id)? };
                    Ok(())
                };
                out.kaddrs = walker.list(id, name)?.unwrap_or_default();
            }
            "cgroup_id_map" => {
                out.cgroup_id_map.line = walker.line(id);
                walker.fields(id, CGROUP_ID_MAP, &mut out.cgroup_id_map, cgroup_id_map)?;
            }
            // The name of a config is that of its file.
            _ => drop(walker.text(id)?),
        }
        Ok(())
    })
}

fn metrics(walker: &mut Walker, key: &'static str, id: Id, out: &mut Metrics) -> Result<()> {
    match key {
        "counters" => out.counters = walker.list(id, |walker, id, out| metric(walker, id, COUNTER, out))?,
        "gauges" => out.gauges = walker.list(id, |walker, id, out| metric(walker, id, GAUGE, out))?,
        _ => out.histograms = walker.list(id, |walker, id, out| metric(walker, id, HISTOGRAM, out))?,
    }
    Ok(())
}

fn metric(walker: &mut Walker, id: Id, known: &'static [&'static str], out: &mut Metric) -> Result<()> {
    walker.fields(id, known, out, |walker, key, id, out| {
        match key {
            "name" => out.name = walker.text(id)?,
            "help" => out.help = walker.text(id)?,
            "map" => out.map = walker.text(id)?,
            "member" => out.member = walker.text(id)?,
            "labels" => out.labels = walker.list(id, label)?.unwrap_or_default(),
            "perf_event_array" => out.perf_event_array = walker.boolean(id)?,
            "ring_buffer" => out.ring_buffer = walker.boolean(id)?,
            "flush_interval" => out.flush_interval = walker.duration(id)?,
            "max_age" => out.max_age = walker.duration(id)?,
            "bucket_type" => out.bucket_type = walker.text(id)?,
            "bucket_multiplier" => out.bucket_multiplier = walker.number(id)?,
            "bucket_min" => out.bucket_min = walker.signed(id)?,
            "bucket_max" => out.bucket_max = walker.signed(id)?,
            _ => {
                let number = |walker: &mut Walker, id, out: &mut f64| {
                    *out = walker.number(id)?;
                    Ok(())
                };
                out.bucket_keys = walker.list(id, number)?.unwrap_or_default();
            }
        }
        Ok(())
    })?;
    out.line = walker.line(id);
    Ok(())
}

fn span(walker: &mut Walker, id: Id, out: &mut Span) -> Result<()> {
    walker.fields(id, SPAN, out, |walker, key, id, out| {
        match key {
            "ringbuf" => out.ringbuf = walker.text(id)?,
            "name" => out.name = walker.text(id)?,
            "service" => out.service = walker.text(id)?,
            _ => out.labels = walker.list(id, label)?.unwrap_or_default(),
        }
        Ok(())
    })?;
    out.line = walker.line(id);
    Ok(())
}

fn label(walker: &mut Walker, id: Id, out: &mut Label) -> Result<()> {
    walker.fields(id, LABEL, out, |walker, key, id, out| {
        match key {
            "name" => out.name = walker.text(id)?,
            "size" => out.size = walker.unsigned(id)?,
            "padding" => out.padding = walker.unsigned(id)?,
            _ => out.decoders = walker.list(id, decoder)?.unwrap_or_default(),
        }
        Ok(())
    })?;
    out.line = walker.line(id);
    Ok(())
}

fn decoder(walker: &mut Walker, id: Id, out: &mut Decoder) -> Result<()> {
    walker.fields(id, DECODER, out, |walker, key, id, out| {
        match key {
            "name" => out.name = walker.text(id)?,
            "static_map" => walker.words(id, &mut out.static_map)?,
            "regexps" => out.regexps = walker.list(id, text)?,
            _ => out.allow_unknown = walker.boolean(id)?,
        }
        Ok(())
    })?;
    out.line = walker.line(id);
    Ok(())
}

fn cgroup_id_map(walker: &mut Walker, key: &'static str, id: Id, out: &mut CgroupIdMap) -> Result<()> {
    match key {
        "name" => out.name = walker.text(id)?,
        "type" => out.kind = walker.text(id)?,
        _ => out.regexps = walker.list(id, text)?.unwrap_or_default(),
    }
    Ok(())
}

fn text(walker: &mut Walker, id: Id, out: &mut String) -> Result<()> {
    *out = walker.text(id)?;
    Ok(())
}
