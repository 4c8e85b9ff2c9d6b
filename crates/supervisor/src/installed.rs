// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which exporters there are: programs whose names say so.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Name and path of each exporter to run. With `names` only those.
///
/// # Errors
/// When the folder cannot be read, has none, or lacks one that is named.
pub fn exporters(folder: Option<&Path>, names: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let folder = match folder {
        Some(folder) => folder.to_owned(),
        None => {
            let program = env::current_exe().context("failed to find the path of this program")?;
            program.parent().unwrap_or(Path::new("/")).to_owned()
        }
    };
    let shown = folder.display();
    let entries = fs::read_dir(&folder).with_context(|| format!("failed to read the folder {shown}"))?;
    let mut found: BTreeMap<String, PathBuf> = entries
        .flatten()
        .filter_map(|entry| Some((name(entry.file_name().to_str()?)?.to_owned(), entry.path())))
        .filter(|(_, path)| is_program(path))
        .collect();
    let known = found.keys().cloned().collect::<Vec<_>>().join(", ");
    if found.is_empty() {
        bail!("there is no exporter in {shown}: set --folder");
    }
    if let Some(missing) = names.iter().find(|name| !found.contains_key(*name)) {
        bail!("there is no exporter {missing} in {shown}; there are: {known}");
    }
    found.retain(|name, _| names.is_empty() || names.contains(name));
    Ok(found)
}

/// NAME of `ebpf-NAME-exporter`. A name is part of paths and a value of labels, so only letters, digits and `-`
/// may be in it.
fn name(file: &str) -> Option<&str> {
    let name = file.strip_prefix("ebpf-")?.strip_suffix("-exporter")?;
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (!name.is_empty() && name.chars().all(is_good)).then_some(name)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        assert!(exporters(Some(path), &[]).expect_err("none").to_string().contains("--folder"));
        for (name, mode) in [
            ("ebpf-diskio-exporter", 0o755),
            ("ebpf-zfs-arc-exporter", 0o755),
            ("ebpf-tcp-exporter", 0o644),
            ("ebpf-diskio-exporter.d", 0o755),
            ("ebpf-a\"b-exporter", 0o755),
            ("ebpf-exporters-web", 0o755),
            ("ebpf--exporter", 0o755),
        ] {
            fs::write(path.join(name), "").expect("written");
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).expect("set");
        }
        let names = |wanted: &[String]| -> Result<Vec<String>> {
            Ok(exporters(Some(path), wanted)?.into_keys().collect())
        };
        assert_eq!(names(&[]).expect("two"), ["diskio", "zfs-arc"]);
        assert_eq!(names(&["zfs-arc".to_owned()]).expect("one"), ["zfs-arc"]);
        let error = names(&["tcp".to_owned()]).expect_err("no program").to_string();
        assert!(error.contains("no exporter tcp") && error.contains("diskio, zfs-arc"), "{error}");
    }
}
