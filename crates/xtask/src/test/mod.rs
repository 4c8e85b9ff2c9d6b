// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running tests: those that need no kernel, live ones on this machine's own kernel (`host`), and
//! the same in guests (`vm`).

mod binaries;
mod footprint;
mod host;
mod report;
mod vm;

use anyhow::Result;

use crate::workspace::{cargo, cargo_at, run};
use crate::{lint, phases};

pub use vm::Selection;

/// Lint, tests that need no kernel, and live tests on this machine's own.
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

/// Everything but the test targets named `live`.
///
/// # Errors
/// When a test fails.
pub fn unit() -> Result<()> {
    // Built apart, so that what is then printed are tests.
    run(cargo_at("test").args(["--workspace", "--no-run"]))?;
    run(cargo().args(["test", "--workspace", "--quiet"]))
}

/// Live tests of some crates, or of all, on this machine's own kernel.
///
/// # Errors
/// When one fails, or there is none.
pub fn live(only: &[String], filter: &str) -> Result<()> {
    host::run(only, filter)?.print("live")
}

/// Live tests in guests.
///
/// # Errors
/// When one fails, or there is none.
pub fn vm(selection: &Selection) -> Result<()> {
    let outcome = vm::run(selection)?;
    phases::print();
    outcome.print("guests")
}
