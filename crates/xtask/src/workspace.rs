// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths of this checkout, and running other programs.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The top folder of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}

/// Runs `command` with this process's standard streams.
///
/// # Errors
/// When it fails. The error has the command, and its exit code or why it did not start.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command.status().with_context(|| format!("failed to start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs `command` and returns what it printed.
///
/// # Errors
/// As [`run`], with the command's standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("failed to start {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Folder for things that take long to make and that several checkouts share.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    base.unwrap_or_else(home).join("ebpf-exporters")
}

/// An exporter of this tree: a folder `crates/NAME` with a program `bpf/NAME.bpf.c`.
#[derive(Clone, Debug)]
pub struct Exporter {
    /// NAME.
    pub name: String,
    /// `ebpf-NAME-exporter`: crate, binary and unit.
    pub binary: String,
}

/// All exporters, sorted by name.
///
/// # Errors
/// When `crates/` cannot be read.
pub fn exporters() -> Result<Vec<Exporter>> {
    let mut names: Vec<String> = fs::read_dir(root().join("crates"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.retain(|name| root().join(format!("bpf/{name}.bpf.c")).exists());
    names.sort();
    Ok(names.into_iter().map(|name| Exporter { binary: format!("ebpf-{name}-exporter"), name }).collect())
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// cargo for long builds: it shows its progress on a terminal and nothing in a log, where
/// [`crate::phases`] prints the steps.
pub fn cargo_at(task: &str) -> Command {
    let mut command = cargo();
    command.arg(task);
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    command
}

/// A tool, from `PATH` or from the cache in which `scripts/packages` installs some.
pub fn tool(name: &str) -> Command {
    let cached = cache().join("tools").join(name);
    if cached.exists() { Command::new(cached) } else { Command::new(name) }
}

/// Files below `folder` of the checkout whose name ends in `suffix`, sorted.
///
/// # Errors
/// When a folder cannot be read.
pub fn files(folder: &str, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("failed to read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
