// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exporter of users' own BPF programs: which objects to load and what their maps mean is read from
//! files, in the format of ebpf_exporter.
#![allow(dead_code)]

mod config;
mod spans;
mod steps;

use common::spec::Spec;

/// Port, and what it is for.
fn spec() -> Spec {
    Spec::new("custom", 9435, "what do your own BPF programs count?")
}

fn main() {}
