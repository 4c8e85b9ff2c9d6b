// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running tests, here and in guests.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::guest;
use crate::guest::image::remove;
use crate::guest::suites::SUITES;
use crate::package;
use crate::workspace::{cargo, output, root, run};

/// For all tests of one guest; diskio's take three minutes.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// Everything but the test targets named `guest`.
///
/// # Errors
/// When a test fails.
pub fn unit() -> Result<()> {
    run(cargo().args(["test", "--workspace", "--quiet"]))
}

/// The test targets named `guest`, inside guests, with the package that we ship.
///
/// # Errors
/// When a guest or a test fails, or there is nothing to run.
pub fn vm(only: &[String], guest: Option<&str>, filter: &str) -> Result<()> {
    let package = package::deb()?;
    let tests = build_tests(only)?;
    let work = root().join("target/guest-runs");
    let payload = work.join("payload");
    remove(&payload)?;
    fs::create_dir_all(payload.join("tests"))?;
    fs::copy(&package, payload.join("ebpf-exporters.deb"))?;
    for (name, path) in &tests {
        fs::copy(path, payload.join("tests").join(name)).with_context(|| format!("{}", path.display()))?;
    }
    // Tests named last_* leave a guest that is of no use to others.
    let script = format!(
        "#!/bin/sh\nstatus=0\nexport RUST_BACKTRACE=0\n\
         each() {{\n\techo \"=== $(uname -r): ${{test##*/}}\"\n\t\"$test\" --test-threads=1 \"$@\" || status=1\n}}\n\
         for test in /payload/tests/*; do each --skip last_ {filter}; done\n\
         for test in /payload/tests/*; do\n\t! \"$test\" --list {filter} | grep -q ^last_ || each last_\ndone\n\
         exit $status\n"
    );
    fs::write(payload.join("run"), script)?;
    fs::set_permissions(payload.join("run"), fs::Permissions::from_mode(0o755))?;
    let suites: Vec<_> = SUITES.iter().filter(|suite| guest.is_none_or(|name| suite.name == name)).collect();
    if suites.is_empty() {
        bail!(
            "no guest of that name; there are: {}",
            SUITES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
        );
    }
    // The others tell whether it is the kernel.
    let mut failed = Vec::new();
    for suite in suites {
        if let Err(error) = guest::run(suite, &payload, &work.join(suite.name), LIMIT) {
            println!("{error:#}");
            failed.push(suite.name);
        }
    }
    if !failed.is_empty() {
        bail!("tests failed in: {}", failed.join(", "));
    }
    Ok(())
}

/// Builds the test targets named `guest`; returns crate folder and binary of each.
fn build_tests(only: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let packages = with_guest_tests()?;
    let chosen: Vec<_> =
        packages.iter().filter(|(folder, _)| only.is_empty() || only.contains(folder)).collect();
    if chosen.is_empty() {
        bail!(
            "no such crate with guest tests; there are: {}",
            packages.keys().cloned().collect::<Vec<_>>().join(", ")
        );
    }
    let mut command = cargo();
    command.args(["test", "--no-run", "--profile=guest", "--test=guest", "--message-format=json", "--quiet"]);
    for (_, package) in &chosen {
        command.args(["--package", package]);
    }
    let mut tests = Vec::new();
    for line in output(&mut command)?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message is not JSON")?;
        // cargo builds the exporter itself as well.
        if message["profile"]["test"] != true {
            continue;
        }
        let (Some(path), Some(manifest)) =
            (message["executable"].as_str(), message["manifest_path"].as_str())
        else {
            continue;
        };
        tests.push((folder_of(manifest)?, PathBuf::from(path)));
    }
    if tests.len() != chosen.len() {
        bail!("{} crates have {} guest tests", chosen.len(), tests.len());
    }
    Ok(tests)
}

/// Crate folders and package names of all that have a test target named `guest`.
fn with_guest_tests() -> Result<BTreeMap<String, String>> {
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let is_guest = |target: &Value| target["name"] == "guest" && target["kind"][0] == "test";
        let (Some(name), Some(manifest)) = (package["name"].as_str(), package["manifest_path"].as_str())
        else {
            continue;
        };
        if package["targets"].as_array().into_iter().flatten().any(is_guest) {
            found.insert(folder_of(manifest)?, name.to_owned());
        }
    }
    Ok(found)
}

fn folder_of(manifest: &str) -> Result<String> {
    let folder = Path::new(manifest).parent().and_then(Path::file_name).context("a crate without folder")?;
    Ok(folder.to_string_lossy().into_owned())
}
