// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks that the maps which a config names are in its object, and can be read as the config says.

use std::collections::BTreeMap;
use std::ffi::CStr;

use anyhow::{Context, Result, bail, ensure};
use common::words::counted;
use libbpf_rs::{AsRawLibbpf, MapType, OpenObject};
use libbpf_sys::{
    BPF_MAP_TYPE_BLOOM_FILTER, BPF_MAP_TYPE_CGRP_STORAGE, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_INODE_STORAGE,
    BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_PERF_EVENT_ARRAY, BPF_MAP_TYPE_QUEUE,
    BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_STACK, BPF_MAP_TYPE_TASK_STORAGE,
    BPF_MAP_TYPE_USER_RINGBUF, bpf_map_type,
};

use crate::config::{CgroupMapKind, Config, Source};

/// Kind of a map, and the bytes of its keys and values. The kind is the kernel's number: not all have
/// a name in libbpf-rs.
struct Shape {
    kind: bpf_map_type,
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
                        kind: libbpf_sys::bpf_map__type(raw),
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
    let of_kind = |name: &str, line: u64, kinds: &[bpf_map_type], word: &str| {
        let is = find(name, line)?.kind;
        ensure!(
            kinds.contains(&is),
            "map `{name}` is no {word} but of type {}, see {}.yaml:{line}",
            type_name(is),
            config.name
        );
        Ok(())
    };
    let histograms = config.histograms.iter().map(|histogram| &histogram.metric);
    for metric in config.counters.iter().chain(&config.gauges).chain(histograms) {
        match &metric.source {
            Source::Map { map, member } => {
                let &Shape { kind, value: size, .. } = find(map, metric.line)?;
                if let Some(why) = why_unreadable(kind) {
                    bail!(
                        "map `{map}` of type {} {why}: metric {} at {}.yaml:{}",
                        type_name(kind),
                        metric.name,
                        config.name,
                        metric.line
                    );
                }
                ensure!(
                    metric.max_age.is_none()
                        || MapType::from(kind).is_hash_map()
                        || kind == BPF_MAP_TYPE_LPM_TRIE,
                    "entries of map `{map}`, which is of type {}, cannot be deleted: remove `max_age` of \
                     metric {} at {}.yaml:{}",
                    type_name(kind),
                    metric.name,
                    config.name,
                    metric.line
                );
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
                of_kind(map, metric.line, &[BPF_MAP_TYPE_PERF_EVENT_ARRAY], "perf event array")?;
            }
            Source::Ring { map } => of_kind(map, metric.line, &[BPF_MAP_TYPE_RINGBUF], "ring buffer")?,
        }
    }
    for span in &config.spans {
        of_kind(&span.ringbuf, span.line, &[BPF_MAP_TYPE_RINGBUF], "ring buffer")?;
    }
    let Some(groups) = &config.cgroup_id_map else { return Ok(()) };
    let (kinds, word, key): (&[bpf_map_type], _, _) = match groups.kind {
        CgroupMapKind::Hash => (&[BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH], "hash", 8),
        CgroupMapKind::CgrpStorage => (&[BPF_MAP_TYPE_CGRP_STORAGE], "cgroup storage", 4),
    };
    of_kind(&groups.map, groups.line, kinds, word)?;
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

/// Why no metric can be read from maps of a type; None for those that are read key by key.
fn why_unreadable(kind: bpf_map_type) -> Option<&'static str> {
    match kind {
        BPF_MAP_TYPE_RINGBUF => Some("has records and no keys: add `ring_buffer: true`"),
        BPF_MAP_TYPE_PERF_EVENT_ARRAY => Some("has records and no keys: add `perf_event_array: true`"),
        BPF_MAP_TYPE_USER_RINGBUF | BPF_MAP_TYPE_QUEUE | BPF_MAP_TYPE_STACK | BPF_MAP_TYPE_BLOOM_FILTER => {
            Some("has no keys: take a hash or an array")
        }
        BPF_MAP_TYPE_SK_STORAGE
        | BPF_MAP_TYPE_INODE_STORAGE
        | BPF_MAP_TYPE_TASK_STORAGE
        | BPF_MAP_TYPE_CGRP_STORAGE => Some("does not tell its keys: take a hash"),
        _ => None,
    }
}

/// What libbpf calls a type of map, such as `hash`; its number if libbpf does not know it.
fn type_name(kind: bpf_map_type) -> String {
    // SAFETY: libbpf returns a static string, or null.
    let name = unsafe { libbpf_sys::libbpf_bpf_map_type_str(kind) };
    if name.is_null() {
        return kind.to_string();
    }
    // SAFETY: it ends with NUL.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}
