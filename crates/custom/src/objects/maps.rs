// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks that the maps which a config names are in its object, and can be read as the config says.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use common::words::counted;
use libbpf_rs::{AsRawLibbpf, MapType, OpenObject};

use crate::config::{CgroupMapKind, Config, Source};

/// Kind of a map, and the bytes of its keys and values.
struct Shape {
    kind: MapType,
    /// The kernel's number of the kind: libbpf-rs takes storage of cgroups for unknown.
    number: u32,
    key: u32,
    value: u32,
}

/// Checks each map that `config` names.
///
/// # Errors
/// When a map is missing or has another kind or size. The error names the map and the line of the
/// config.
pub fn check(object: &OpenObject, config: &Config) -> Result<()> {
    let shapes: BTreeMap<String, Shape> = object
        .maps()
        .map(|map| {
            (map.name().to_string_lossy().into_owned(), {
                let raw = map.as_libbpf_object().as_ptr();
                // SAFETY: the map lives as long as the object.
                unsafe {
                    Shape {
                        kind: map.map_type(),
                        number: libbpf_sys::bpf_map__type(raw),
                        key: libbpf_sys::bpf_map__key_size(raw),
                        value: libbpf_sys::bpf_map__value_size(raw),
                    }
                }
            })
        })
        .collect();
    let find = |name: &str, line: u64| {
        shapes.get(name).with_context(|| {
            // The maps of global variables are libbpf's.
            let names: Vec<&str> =
                shapes.keys().map(String::as_str).filter(|name| !name.contains('.')).collect();
            let there = if names.is_empty() {
                "it has none".to_owned()
            } else {
                format!("its maps are {}", names.join(", "))
            };
            format!("no map `{name}`, which {}.yaml:{line} names; {there}", config.name)
        })
    };
    let of_kind = |name: &str, line: u64, kind: MapType, word: &str| {
        let Shape { kind: is, number, .. } = find(name, line)?;
        ensure!(
            *number == kind as u32,
            "map `{name}` is no {word} but {is:?}, see {}.yaml:{line}",
            config.name
        );
        Ok(())
    };
    let histograms = config.histograms.iter().map(|histogram| &histogram.metric);
    for metric in config.counters.iter().chain(&config.gauges).chain(histograms) {
        match &metric.source {
            Source::Map { map, member } => {
                let size = find(map, metric.line)?.value;
                ensure!(
                    size == 8 || member.is_some(),
                    "values of map `{map}` have {}, not 8: metric {} at {}.yaml:{} needs a u64, \
                     or a struct and `member:`",
                    counted(size as usize, "byte"),
                    metric.name,
                    config.name,
                    metric.line
                );
            }
            Source::Perf { map, .. } => {
                of_kind(map, metric.line, MapType::PerfEventArray, "perf event array")?;
            }
            Source::Ring { map } => of_kind(map, metric.line, MapType::RingBuf, "ring buffer")?,
        }
    }
    for span in &config.spans {
        of_kind(&span.ringbuf, span.line, MapType::RingBuf, "ring buffer")?;
    }
    let Some(groups) = &config.cgroup_id_map else { return Ok(()) };
    let (kind, word, key) = match groups.kind {
        CgroupMapKind::Hash => (None, "hash", 8),
        CgroupMapKind::CgrpStorage => (Some(MapType::CGrpStorage), "cgroup storage", 4),
    };
    match kind {
        Some(kind) => of_kind(&groups.map, groups.line, kind, word)?,
        None => {
            let is = find(&groups.map, groups.line)?.kind;
            ensure!(
                matches!(is, MapType::Hash | MapType::LruHash),
                "map `{}` is no {word} but {is:?}, see {}.yaml:{}",
                groups.map,
                config.name,
                groups.line
            );
        }
    }
    let shape = find(&groups.map, groups.line)?;
    ensure!(
        (shape.key, shape.value) == (key, 8),
        "map `{}` has keys of {} and values of {}, not {key} and 8: cgroup_id_map at {}.yaml:{} of type \
         {word} needs these",
        groups.map,
        counted(shape.key as usize, "byte"),
        shape.value,
        config.name,
        groups.line
    );
    Ok(())
}
