// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exporter of users' own BPF programs: which objects to load and what their maps mean is read from
//! files, in the format of ebpf_exporter.

mod cgroup_map;
mod config;
mod events;
mod flags;
mod objects;
mod parts;
mod render;
mod spans;
mod start;
mod steps;

use std::process::ExitCode;

use common::process::exporter;
use common::spec::Spec;

/// Port, and what it is for.
fn spec() -> Spec {
    Spec::new("custom", 9435, "what do your own BPF programs count?")
}

fn main() -> ExitCode {
    exporter::run_with(&spec(), |cli| start::start(cli, spec()))
}
