// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configs: NAME.yaml beside each object NAME.bpf.o, in the grammar of ebpf_exporter.

mod scalar;
mod types;
mod walk;
mod yaml;

pub use types::{
    Buckets, CgroupIdMap, CgroupMapKind, Config, Decoder, Finding, Histogram, Label, Metric, Source, Span,
};
