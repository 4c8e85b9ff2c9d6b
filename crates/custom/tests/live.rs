// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live tests.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

#[path = "../src/compile/mod.rs"]
#[allow(dead_code, unused_imports, reason = "its own tests run with the exporter's")]
mod compile;
mod objects;
#[path = "objects/programs.rs"]
mod programs;

live::main!();
