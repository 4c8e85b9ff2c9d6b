// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binaries: those that users get, and the same as tests and `make run` have them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::phases;
use crate::workspace::{cargo, cargo_at, exporters, output, root, run};

/// What a binary may weigh.
const MAX_BYTES: u64 = 3 << 20;

/// What exporters start for `--web.config.file`: crate and binary.
pub const WEB: &str = "ebpf-exporters-web";

/// Builds all exporters and [`WEB`], fully static, into `dist/bin`; they say that they are of
/// `revision`, and are all linked anew for another one.
///
/// # Errors
/// When cargo fails, or a binary is larger than it may be.
pub fn build(revision: &str) -> Result<()> {
    let mut command = cargo_at("build");
    command.arg("--release").env("EBPF_EXPORTERS_REVISION", revision);
    let exporters = exporters()?.into_iter().map(|exporter| exporter.binary);
    let binaries: Vec<String> = exporters.chain([WEB.to_owned()]).collect();
    for binary in &binaries {
        command.args(["--package", binary]);
    }
    phases::named("release build", || run(&mut command))?;
    let bin = root().join("dist/bin");
    fs::create_dir_all(&bin)?;
    for binary in &binaries {
        let built = target_folder()?.join("release").join(binary);
        let bytes = fs::metadata(&built).with_context(|| format!("{} was not built", built.display()))?.len();
        if bytes > MAX_BYTES {
            bail!("{} has {bytes} bytes, more than {MAX_BYTES}", built.display());
        }
        // A running binary cannot be written to, but another can take its place.
        let new = bin.join(format!(".{binary}"));
        fs::copy(&built, &new)?;
        fs::rename(&new, bin.join(binary))?;
        println!("dist/bin/{binary} {:.1} MB", bytes as f64 / 1e6);
    }
    Ok(())
}

/// Builds all exporters as tests have them, in a quarter of the time: larger and a little slower.
/// Returns the folder in which they are.
///
/// # Errors
/// When cargo fails.
pub fn quick() -> Result<PathBuf> {
    phases::named("build", || run(cargo_at("build").args(["--workspace", "--bins"])))?;
    Ok(target_folder()?.join("debug"))
}

/// The commit, and whether there is more than it holds.
pub fn revision() -> String {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    output(&mut git).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Where cargo puts what it builds for the one target.
///
/// # Errors
/// When cargo does not say.
pub fn target_folder() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let folder = metadata["target_directory"].as_str().context("cargo names no target folder")?;
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(PathBuf::from(folder).join(host))
}
