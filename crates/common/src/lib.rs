// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine that every exporter runs on.
//!
//! An exporter is an embedded BPF object and a [`spec::Spec`]: data that names its
//! probes, its maps and what their members mean as metrics. From these the engine
//! makes the whole process: command line, probe choice, attaching, reading, HTTP.
//!
//! Dependencies point down this list only:
//! [`exporter`] > [`cli`], [`memory`], [`module`], [`site`], [`web`] > [`http`], [`textfile`] > [`ports`] > [`privileges`] > [`engine`] >
//! [`self_metrics`], [`ratio`], [`top`] > [`links`] > [`copies`], [`probes`] > [`kernel`], [`maps`], [`render`] > [`hook`],
//! [`symbols`], [`layout`], [`decode`], [`encode`], [`hist`] > [`spec`], [`metric`]. [`perf`], [`preemption`], [`types`] and
//! [`view`] stand alone.

pub mod cgroups;
pub mod cli;
pub mod copies;
pub mod decode;
pub mod encode;
pub mod engine;
pub mod exporter;
pub mod fixture;
pub mod hist;
pub mod hook;
pub mod http;
pub mod kernel;
pub mod layout;
mod lifetime;
pub mod links;
pub mod live;
pub mod logging;
pub mod maps;
pub mod memory;
pub mod metric;
pub mod module;
pub mod offsets;
pub mod perf;
pub mod permissions;
pub mod ports;
pub mod preemption;
pub mod privileges;
pub mod probes;
pub mod ratio;
pub mod refusal;
pub mod render;
pub mod roster;
pub mod self_metrics;
pub mod site;
pub mod spec;
pub mod symbols;
pub mod textfile;
pub mod top;
pub mod types;
pub mod view;
pub mod web;

pub use exporter::{Exporter, run};

/// The skeleton that `bpf_build::skeleton()` made for this crate, as module `skel`.
#[macro_export]
macro_rules! skeleton {
    () => {
        #[allow(missing_docs, unused_qualifications, clippy::all, clippy::restriction)]
        mod skel {
            include!(concat!(env!("OUT_DIR"), "/skel.rs"));
        }
    };
}
