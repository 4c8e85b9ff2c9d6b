// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configs: NAME.yaml beside each object NAME.bpf.o, in the grammar of ebpf_exporter. `yaml` makes a tree
//! of the text, `raw` takes the fields out of it, `check` finds what cannot work.

mod check;
mod names;
mod raw;
mod scalar;
#[cfg(test)]
mod tests;
mod together;
mod types;
mod walk;
mod yaml;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::slice;

use anyhow::{Context, Result, anyhow, bail};

use yaml::{Tree, Wrong};

pub use check::DECODERS;
pub use names::names;
pub use together::{PREFIX, check_together};
#[cfg(test)]
pub use types::Histogram;
pub use types::{Buckets, CgroupIdMap, CgroupMapKind, Config, Decoder, Finding, Label, Metric, Source, Span};

/// Largest file. Those of ebpf_exporter's examples have 3 kB.
const BYTES: u64 = 4 << 20;

/// Reads the config NAME from the file NAME.yaml in a folder, with what is wrong in it without ending the
/// process.
///
/// # Errors
/// When the file cannot be read, is not valid, or lacks something: with file and line.
pub fn load(dir: &Path, name: &str) -> Result<(Config, Vec<Finding>)> {
    let path = dir.join(format!("{name}.yaml"));
    let mut text = Vec::new();
    read(&path, &mut text).with_context(|| format!("config {name:?}: failed to read {}", path.display()))?;
    parse(name, &path, &text)
}

fn read(path: &Path, text: &mut Vec<u8>) -> Result<()> {
    // A pipe would wait for its writer, and a device may never end.
    if !path.metadata()?.is_file() {
        bail!("it is not a regular file");
    }
    File::open(path)?.take(BYTES + 1).read_to_end(text)?;
    Ok(())
}

/// Reads a config from text. `path` is for messages.
///
/// # Errors
/// As [`load`].
pub fn parse(name: &str, path: &Path, text: &[u8]) -> Result<(Config, Vec<Finding>)> {
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > BYTES {
        bail!("{}: larger than {} MiB: this is not a config", path.display(), BYTES >> 20);
    }
    let parsed = Tree::parse(text).and_then(|tree| raw::read(&tree));
    let checked = parsed.and_then(|(raw, findings)| check::check(name, raw, findings));
    let place = |Wrong { line, message }: Wrong| anyhow!("{}:{line}: {message}", path.display());
    let (config, findings) = checked.map_err(place)?;
    together::check(slice::from_ref(&config), |_, line| format!("{}:{line}", path.display()))?;
    Ok((config, findings))
}
