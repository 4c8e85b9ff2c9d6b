// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a config says: the types that the parts of the exporter share.

use std::collections::BTreeMap;
use std::time::Duration;

/// A config: NAME.yaml, which describes the maps of the object NAME.bpf.o.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// NAME: the file's name without `.yaml`. It may contain `/`.
    pub name: String,
    /// Counters of maps.
    pub counters: Vec<Metric>,
    /// Gauges of maps.
    pub gauges: Vec<Metric>,
    /// Histograms of maps.
    pub histograms: Vec<Histogram>,
    /// Spans from ring buffers.
    pub spans: Vec<Span>,
    /// Kernel symbols: variable `kaddr_SYMBOL` of the object is set to the address.
    pub kaddrs: Vec<String>,
    /// A map of the cgroups whose path matches.
    pub cgroup_id_map: Option<CgroupIdMap>,
}

impl Config {
    /// All metrics, those of records too.
    pub fn metrics(&self) -> impl Iterator<Item = &Metric> {
        let histograms = self.histograms.iter().map(|histogram| &histogram.metric);
        self.counters.iter().chain(&self.gauges).chain(histograms)
    }
}

/// A counter or gauge.
#[derive(Clone, Debug, Default)]
pub struct Metric {
    /// Name without the prefix `ebpf_exporter_`.
    pub name: String,
    /// Help text.
    pub help: String,
    /// Where the values are.
    pub source: Source,
    /// Labels, in the order of the key's bytes.
    pub labels: Vec<Label>,
    /// Series whose value did not change for so long are deleted from the map.
    pub max_age: Option<Duration>,
    /// Line of the file that declares it, from 1.
    pub line: u64,
}

impl Metric {
    /// Name of the map that it is read from.
    pub fn map(&self) -> &str {
        match &self.source {
            Source::Map { map, .. } | Source::Perf { map, .. } | Source::Ring { map } => map,
        }
    }
}

/// Where the values of a counter are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Values of a map: all 8 bytes, or a member of a struct.
    Map {
        /// Name of the map.
        map: String,
        /// Name of the member.
        member: Option<String>,
    },
    /// Records of a perf event array, each adds 1. All series are forgotten once in the interval.
    Perf {
        /// Name of the map.
        map: String,
        /// How often series are forgotten.
        flush: Duration,
    },
    /// Records of a ring buffer, each adds 1.
    Ring {
        /// Name of the map.
        map: String,
    },
}

impl Default for Source {
    fn default() -> Self {
        Self::Map { map: String::new(), member: None }
    }
}

/// A histogram.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Name, labels and source. The last label is the number of the bucket; `cpu` may follow it.
    pub metric: Metric,
    /// What the numbers of buckets mean.
    pub buckets: Buckets,
    /// Factor of bounds and sum.
    pub multiplier: f64,
}

/// What the numbers of buckets mean: see the exporter's documentation for the bounds.
#[derive(Clone, Debug, PartialEq)]
pub enum Buckets {
    /// Bucket `i` has the bound 2^i.
    Exp2 {
        /// First number.
        min: i64,
        /// Last number, inclusive.
        max: i64,
    },
    /// Bucket 0 has the bound 0, bucket `i` 2^(i-1).
    Exp2Zero {
        /// First number.
        min: i64,
        /// Last number, inclusive.
        max: i64,
    },
    /// Bucket `i` has the bound `i`.
    Linear {
        /// First number.
        min: i64,
        /// Last number, inclusive.
        max: i64,
    },
    /// The bounds themselves are the numbers, in the order of the file.
    Fixed(Vec<f64>),
}

impl Default for Buckets {
    fn default() -> Self {
        Self::Exp2 { min: 0, max: 0 }
    }
}

/// Spans from a ring buffer.
#[derive(Clone, Debug, Default)]
pub struct Span {
    /// Name of the map.
    pub ringbuf: String,
    /// Name of the spans; empty: the ring buffer's.
    pub name: String,
    /// `service.name`; empty: from the environment.
    pub service: String,
    /// Labels, in the order of the record's bytes.
    pub labels: Vec<Label>,
    /// Line of the file that declares it, from 1.
    pub line: u64,
}

/// Bytes of a key or record, and how to make text of them.
#[derive(Clone, Debug, Default)]
pub struct Label {
    /// Name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes to skip after these.
    pub padding: u64,
    /// Decoders, applied in this order.
    pub decoders: Vec<Decoder>,
    /// Line of the file that declares it, from 1.
    pub line: u64,
}

/// A decoder and its settings.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// Name, such as `uint`.
    pub name: String,
    /// Words of `static_map`.
    pub static_map: Option<BTreeMap<String, String>>,
    /// Patterns of `regexp`.
    pub regexps: Option<Vec<String>>,
    /// Whether `static_map` keeps what it does not have.
    pub allow_unknown: bool,
    /// Line of the file that declares it, from 1.
    pub line: u64,
}

/// A map that holds the cgroups whose path matches.
#[derive(Clone, Debug, Default)]
pub struct CgroupIdMap {
    /// Name of the map.
    pub map: String,
    /// Kind of map.
    pub kind: CgroupMapKind,
    /// Patterns of absolute paths; any may match, anywhere in the path.
    pub regexps: Vec<String>,
    /// Line of the file that declares it, from 1.
    pub line: u64,
}

/// Kind of the map of a [`CgroupIdMap`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupMapKind {
    /// `BPF_MAP_TYPE_HASH`: key is the cgroup's id, value 1.
    #[default]
    Hash,
    /// `BPF_MAP_TYPE_CGRP_STORAGE`.
    CgrpStorage,
}

/// Something in a config that does not end the process: it becomes a warning in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Line of the file, from 1.
    pub line: u64,
    /// What is wrong there, and what to do; without file and line.
    pub message: String,
    /// Whether `--check` and `--config.strict` fail. What it is about is then left out of the config.
    pub fatal_when_strict: bool,
}
