// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live tests on this machine's own kernel, as root, with the quick build of the exporters.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::geteuid;

use super::binaries::{self, Binary};
use super::footprint::Footprint;
use super::report::{Failure, NotRun, Outcome, Reader};
use crate::release;
use crate::workspace::exporters;

/// The reason given for tests that were not run because this is not root.
const NOT_ROOT: &str = "needs root: run this as root";

/// Runs the live tests of some crates, or of all, whose names contain `filter`. Without root no test
/// runs, and each is listed as not run.
///
/// # Errors
/// When they cannot be built or started.
pub fn run(only: &[String], filter: &str) -> Result<Outcome> {
    let mut programs = [release::WEB, release::SUITE].map(ToOwned::to_owned).to_vec();
    programs.extend(exporters()?.into_iter().map(|exporter| exporter.binary));
    let (folder, binaries) = release::quick_by(|| binaries::build(only, &programs))?;
    let mut outcome = Outcome::default();
    if !geteuid().is_root() {
        for binary in &binaries {
            let tests = binary.tests(filter, true, &[])?.into_iter();
            let tests = tests.map(|test| format!("{}: {test}", binary.name));
            outcome.not_run.extend(tests.map(|test| NotRun { test, reason: NOT_ROOT.to_owned() }));
        }
        return Ok(outcome);
    }
    let before = Footprint::now();
    for binary in &binaries {
        outcome.add(run_binary(binary, &folder, filter)?);
    }
    if let Err(error) = before.same() {
        let title = "this machine".to_owned();
        let again = "cargo xtask test-live".to_owned();
        outcome.failed.push(Failure { title, said: format!("{error:#}"), again });
    }
    Ok(outcome)
}

fn run_binary(binary: &Binary, folder: &Path, filter: &str) -> Result<Outcome> {
    let mut path = OsString::from(folder);
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let again = format!("cargo xtask test-live --only {}", binary.name);
    let mut reader = Reader::new("here", &binary.name, &again);
    // Standard output and standard error in one stream, which keeps their order.
    let (output, input) = std::io::pipe()?;
    let mut command = Command::new(&binary.path);
    command.arg("--test-threads=1").arg(filter).env("PATH", path).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let mut child = command.spawn().with_context(|| format!("failed to start {}", binary.path.display()))?;
    // It holds the other end of the pipe, so the read would not end.
    drop(command);
    for line in BufReader::new(output).split(b'\n') {
        reader.line(&String::from_utf8_lossy(&line?));
    }
    let status = child.wait()?;
    let ended = status.code().with_context(|| format!("ended by {status}"));
    Ok(reader.end(&ended, ""))
}
