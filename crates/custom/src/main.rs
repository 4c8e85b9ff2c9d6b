// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exporter of users' own BPF programs: which objects to load and what their maps mean is read from
//! files, in the format of ebpf_exporter.
#![allow(dead_code)]

mod compile;
mod config;
mod spans;
mod steps;

fn main() {}
