// SPDX-License-Identifier: MIT OR Apache-2.0
//! The test targets named `live`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::{cargo, cargo_at, output};

/// A test binary.
#[derive(Clone, Debug)]
pub struct Binary {
    /// Folder of its crate in `crates/`.
    pub name: String,
    /// Path of the binary.
    pub path: PathBuf,
}

impl Binary {
    /// Names of its tests that contain `filter`, in the order in which they run. With `once`, tests
    /// marked `once` are included. `kind` are variables that select tests of a kind, such as
    /// `LIVE_WAITS=1` (crates/live/src/harness.rs).
    ///
    /// # Errors
    /// When the binary does not list its tests.
    pub fn tests(&self, filter: &str, once: bool, kind: &[(&str, &str)]) -> Result<Vec<String>> {
        let mut command = Command::new(&self.path);
        let once = if once { "1" } else { "0" };
        command.arg("--list").arg(filter).env("LIVE_ONCE", once).envs(kind.iter().copied());
        let list = output(&mut command)?;
        Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(ToOwned::to_owned).collect())
    }
}

/// Builds the test targets named `live` of some crates, or of all; sorted by name. Also builds `programs`.
///
/// # Errors
/// When cargo fails, or one of the crates has no such target.
pub fn build(only: &[String], programs: &[String]) -> Result<Vec<Binary>> {
    let packages = with_live_tests()?;
    for name in only {
        if !packages.contains_key(name) {
            bail!(
                "crate {name} has no live tests; there are those of: {}",
                packages.keys().cloned().collect::<Vec<_>>().join(", ")
            );
        }
    }
    let chosen = packages.iter().filter(|(folder, _)| only.is_empty() || only.contains(folder)).count();
    let mut command = cargo_at("build");
    // The whole workspace, whichever crates are selected, and programs together with tests: features of
    // dependencies are then the same as for the unit tests, and are not built again.
    command.args(["--workspace", "--test=live"]).args(programs.iter().flat_map(|name| ["--bin", name]));
    command.args(["--message-format=json-render-diagnostics"]).stderr(Stdio::inherit());
    let mut binaries = Vec::new();
    for line in output(&mut command)?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message is not JSON")?;
        // cargo reports the exporter's own binary as well.
        if message["profile"]["test"] != true {
            continue;
        }
        let (Some(path), Some(manifest)) =
            (message["executable"].as_str(), message["manifest_path"].as_str())
        else {
            continue;
        };
        let name = folder_of(manifest)?;
        if only.is_empty() || only.contains(&name) {
            binaries.push(Binary { name, path: PathBuf::from(path) });
        }
    }
    if binaries.len() != chosen {
        bail!("{chosen} crates have {} live tests", binaries.len());
    }
    // cargo lists them in the order in which their builds ended.
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(binaries)
}

/// Crate folders and package names of all crates that have a test target named `live`.
fn with_live_tests() -> Result<BTreeMap<String, String>> {
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let is_live = |target: &Value| target["name"] == "live" && target["kind"][0] == "test";
        let (Some(name), Some(manifest)) = (package["name"].as_str(), package["manifest_path"].as_str())
        else {
            continue;
        };
        if package["targets"].as_array().into_iter().flatten().any(is_live) {
            found.insert(folder_of(manifest)?, name.to_owned());
        }
    }
    Ok(found)
}

fn folder_of(manifest: &str) -> Result<String> {
    let folder = Path::new(manifest).parent().and_then(Path::file_name).context("a crate without folder")?;
    Ok(folder.to_string_lossy().into_owned())
}
