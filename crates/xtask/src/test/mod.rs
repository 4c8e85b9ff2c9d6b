// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs tests: those that need no kernel, live tests on this machine's own kernel (`host`), and live
//! tests in guests (`vm`).

mod binaries;
mod footprint;
mod host;
mod report;
mod vm;

use anyhow::Result;

use crate::workspace::{cargo, cargo_at, run};
use crate::{lint, phases};

pub use vm::Selection;

/// Lint, tests that need no kernel, and live tests on this machine's own kernel.
///
/// # Errors
/// When anything fails.
pub fn here() -> Result<()> {
    phases::named("lint", lint::run)?;
    phases::named("unit tests", unit)?;
    let outcome = phases::named("live tests", || host::run(&[], ""))?;
    phases::print();
    outcome.print("live")
}

/// All test targets except those named `live`.
///
/// # Errors
/// When a test fails.
pub fn unit() -> Result<()> {
    // Build first, so that the second command prints only tests.
    run(cargo_at("test").args(["--workspace", "--no-run"]))?;
    run(cargo().args(["test", "--workspace", "--quiet"]))
}

/// Tests with generated inputs, for so many seconds each. They run at the same time.
///
/// # Errors
/// When one finds something, or they cannot be built.
pub fn fuzz(seconds: u64) -> Result<()> {
    let package = ["--package", "ebpf-custom-exporter", "--bins"];
    run(cargo_at("test").args(package).arg("--no-run"))?;
    let mut tests = cargo();
    tests.arg("test").args(package).args(["--", "--nocapture", "fuzz_"]);
    // Errors are many there, and each would take its stack trace.
    run(tests.env("EBPF_FUZZ_SECONDS", seconds.to_string()).env("RUST_BACKTRACE", "0"))
}

/// Live tests of some crates, or of all, on this machine's own kernel.
///
/// # Errors
/// When a test fails, or none is selected.
pub fn live(only: &[String], filter: &str) -> Result<()> {
    host::run(only, filter)?.print("live")
}

/// Live tests in guests.
///
/// # Errors
/// When a test fails, or none is selected.
pub fn vm(selection: &Selection) -> Result<()> {
    let outcome = vm::run(selection)?;
    phases::print();
    outcome.print("guests")
}
