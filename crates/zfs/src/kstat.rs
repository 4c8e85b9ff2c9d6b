// SPDX-License-Identifier: MIT OR Apache-2.0
//! ZFS's own numbers and names, read from kstats in /proc instead of from `zpool` and `zfs`.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const ROOT: &str = "/proc/spl/kstat/zfs";

/// The values of a named kstat (`/proc/spl/kstat/zfs/NAME`), as text; None if it does not exist.
///
/// # Errors
/// When it cannot be read.
pub fn named(name: &str) -> Result<Option<BTreeMap<String, String>>> {
    let path = Path::new(ROOT).join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(parse(&text))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
}

/// Parses lines `NAME TYPE DATA` after two header lines.
fn parse(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().skip(2).filter_map(|line| {
        let (name, rest) = line.split_once(char::is_whitespace)?;
        let (_, data) = rest.trim_start().split_once(char::is_whitespace)?;
        Some((name.to_owned(), data.trim().to_owned()))
    });
    lines.collect()
}

/// Names of the imported pools.
///
/// # Errors
/// When they cannot be read.
pub fn pools() -> Result<Vec<String>> {
    let folders = list(Path::new(ROOT))?.into_iter().filter(|path| path.is_dir());
    Ok(folders.filter_map(|path| name(&path)).filter(|name| !name.starts_with('$')).collect())
}

/// Ids of the datasets of `pool` that have a kstat: mounted datasets and volumes.
///
/// # Errors
/// When they cannot be read.
pub fn datasets(pool: &str) -> Result<Vec<u64>> {
    let files = list(&Path::new(ROOT).join(pool))?;
    let id = |path: PathBuf| u64::from_str_radix(name(&path)?.strip_prefix("objset-0x")?, 16).ok();
    Ok(files.into_iter().filter_map(id).collect())
}

/// The current name of dataset `id` of `pool`; None if it is gone.
///
/// # Errors
/// When it cannot be read.
pub fn dataset_name(pool: &str, id: u64) -> Result<Option<String>> {
    let numbers = named(&format!("{pool}/objset-{id:#x}"))?;
    Ok(numbers.and_then(|mut numbers| numbers.remove("dataset_name")))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("failed to list {}", folder.display());
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .with_context(context),
        // The pool was exported meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(context),
    }
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_values_are_read() {
        let text = "31 1 0x01 7 2160 5214787391 73405258558961\n\
                    name                            type data\n\
                    dataset_name                    7    tank/with space\n\
                    writes                          4    18\n";
        let values = parse(text);
        assert_eq!(values["dataset_name"], "tank/with space");
        assert_eq!(values["writes"], "18");
        assert_eq!(values.len(), 2);
    }
}
