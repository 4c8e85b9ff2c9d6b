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

fn main() -> ExitCode {
    exporter::run_with(&start::spec(), start::start)
}
