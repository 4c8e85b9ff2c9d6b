// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths of this checkout, and running other programs.

use std::collections::BTreeSet;
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

/// An exporter of this tree: a folder `crates/NAME` whose package is `ebpf-NAME-exporter`.
#[derive(Clone, Debug)]
pub struct Exporter {
    /// NAME.
    pub name: String,
    /// `ebpf-NAME-exporter`: crate, binary and unit.
    pub binary: String,
    /// Whether it contains a BPF object, `bpf/NAME.bpf.c`. One that does not runs the objects of users,
    /// which are in the folder [`Exporter::configs`]: it has no metrics of its own and no process
    /// while that is empty.
    pub built_in: bool,
}

impl Exporter {
    /// The folder with users' objects: the one that its unit is skipped without. `None` if the exporter
    /// contains its object.
    ///
    /// # Errors
    /// When the unit is missing or names no folder.
    pub fn configs(&self) -> Result<Option<PathBuf>> {
        if self.built_in {
            return Ok(None);
        }
        let path = format!("systemd/{}.service", self.binary);
        let unit = fs::read_to_string(root().join(&path)).with_context(|| path.clone())?;
        let folder = unit.lines().find_map(|line| line.strip_prefix("ConditionDirectoryNotEmpty="));
        let folder = folder.with_context(|| format!("{path} has no ConditionDirectoryNotEmpty"))?;
        Ok(Some(PathBuf::from(folder)))
    }
}

/// Capabilities that a unit may have.
pub fn capabilities(unit: &str) -> BTreeSet<&str> {
    let sets = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    sets.flat_map(str::split_whitespace).collect()
}

/// All exporters, sorted by name.
///
/// # Errors
/// When `crates/` cannot be read.
pub fn exporters() -> Result<Vec<Exporter>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("crates"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let binary = format!("ebpf-{name}-exporter");
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap_or_default();
        if manifest.lines().any(|line| line == format!("name = \"{binary}\"")) {
            let main = fs::read_to_string(entry.path().join("src/main.rs")).unwrap_or_default();
            let built_in = main.contains("common::skeleton!(");
            found.push(Exporter { name, binary, built_in });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The cargo that runs this program. What it told this program about its package is not handed on: build
/// scripts that ask for it (that of ring) would run again, and what needs them would be built again, whenever cargo
/// is called from here after it was called from a shell, and the other way round.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exporters_contain_the_program_of_their_name_or_read_a_folder() {
        let all = exporters().expect("crates");
        assert!(all.iter().filter(|exporter| exporter.built_in).count() >= 15, "{all:?}");
        for exporter in all {
            let program = root().join(format!("bpf/{}.bpf.c", exporter.name));
            let configs = exporter.configs().expect("a unit");
            assert_eq!(exporter.built_in, program.exists(), "{exporter:?}");
            assert_eq!(exporter.built_in, configs.is_none(), "{exporter:?} {configs:?}");
        }
    }
}
