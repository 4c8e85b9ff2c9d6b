// SPDX-License-Identifier: MIT OR Apache-2.0
//! The licences of everything linked into the binaries: whoever distributes the binaries must
//! distribute these too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::release::host;
use crate::workspace::{cargo, output};

/// How names of files begin that hold a licence or a copyright notice.
const BEGINNINGS: &[&str] = &["copying", "copyright", "licence", "license", "notice", "unlicense"];

/// Static libraries, and the Debian packages that contain them.
const LIBRARIES: &[(&str, &str)] =
    &[("glibc", "libc6-dev"), ("libelf", "libelf-dev"), ("libgcc", "gcc"), ("zlib", "zlib1g-dev")];

/// Texts of licences with the names of those who use them: many use the same text.
#[derive(Default)]
struct Texts(BTreeMap<String, (String, BTreeSet<String>)>);

impl Texts {
    fn add(&mut self, owner: &str, file: &Path) -> Result<()> {
        let text = fs::read(file).with_context(|| format!("failed to read {}", file.display()))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        // Texts that differ only in white space are the same licence.
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.0.entry(words).or_insert_with(|| (text, BTreeSet::new())).1.insert(owner.to_owned());
        Ok(())
    }
}

/// Names, licences and copyright notices of all crates and libraries in the binaries of `packages`,
/// except those of Rust's standard library: see [`of_rust`].
///
/// # Errors
/// When cargo fails, or one of them has no file with its licence.
pub fn of(packages: &[String]) -> Result<String> {
    let mut texts = Texts::default();
    let mut names = String::new();
    for linked in linked(packages)? {
        names += &format!("{} {}: {}\n", linked.name, linked.version, linked.licence);
        let owner = format!("{} {}", linked.name, linked.version);
        let files = licences(&linked.folder)?;
        if files.is_empty() {
            bail!("{} has no file with its licence", linked.folder.display());
        }
        for file in files {
            texts.add(&owner, &file)?;
        }
        // The crate libbpf-sys contains libbpf, and links it.
        let library = linked.folder.join("libbpf");
        if library.is_dir() {
            names += "libbpf: LGPL-2.1-only OR BSD-2-Clause\n";
            for file in licences(&library)? {
                texts.add("libbpf", &file)?;
            }
        }
    }
    for (library, package) in LIBRARIES {
        names += &format!("{library}: see below\n");
        texts.add(library, &Path::new("/usr/share/doc").join(package).join("copyright"))?;
    }
    let mut all = format!(
        "The programs of this package have these in them, each under its own licence. Rust's standard\n\
         library is described in COPYRIGHT-library.html.\n\n{names}"
    );
    for (text, owners) in texts.0.into_values() {
        let owners = owners.into_iter().collect::<Vec<_>>().join(", ");
        all += &format!("\n{}\n{owners}\n\n{}\n", "=".repeat(100), text.trim_end());
    }
    Ok(all)
}

/// The file with the licences of Rust's standard library, from the toolchain.
///
/// # Errors
/// When rustc does not name its folder, or the toolchain has no such file.
pub fn of_rust() -> Result<PathBuf> {
    let folder = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let file = Path::new(folder.trim()).join("share/doc/rust/COPYRIGHT-library.html");
    if !file.exists() {
        bail!("{} is missing: this Rust toolchain came without the licences of its library", file.display());
    }
    Ok(file)
}

/// A crate from outside this workspace.
struct Linked {
    name: String,
    version: String,
    licence: String,
    folder: PathBuf,
}

/// Those that are linked into the binaries of `packages`, by name.
fn linked(packages: &[String]) -> Result<Vec<Linked>> {
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--filter-platform", &host()?]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let by_id: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let needs: BTreeMap<String, Vec<Value>> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .map(|node| (text(&node["id"]), list(&node["deps"])))
        .collect();
    let is_ours = |package: &Value| package["source"].is_null();
    let mut open: Vec<String> = by_id
        .iter()
        .filter(|(_, package)| is_ours(package) && packages.contains(&text(&package["name"])))
        .map(|(id, _)| id.clone())
        .collect();
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        let package = by_id.get(&id).context("cargo metadata names a package that it does not describe")?;
        let is_macro =
            list(&package["targets"]).iter().any(|t| list(&t["kind"]).contains(&"proc-macro".into()));
        if is_macro || !found.insert(id.clone()) {
            continue;
        }
        // Neither build dependencies nor those of tests.
        let links = |need: &&Value| list(&need["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
        open.extend(needs.get(&id).into_iter().flatten().filter(links).map(|need| text(&need["pkg"])));
    }
    let mut linked: Vec<_> = found
        .iter()
        .filter_map(|id| by_id.get(id))
        .filter(|package| !is_ours(package))
        .map(|package| Linked {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
            folder: Path::new(&text(&package["manifest_path"]))
                .parent()
                .map(Path::to_owned)
                .unwrap_or_default(),
        })
        .collect();
    linked.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(linked)
}

/// Files with a licence or a copyright notice in a folder.
fn licences(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_file() && BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::release::WEB;

    #[test]
    fn what_is_linked_has_its_licence() {
        let notices = of(&["ebpf-syscall-exporter".to_owned(), WEB.to_owned()]).expect("all have a licence");
        for name in ["libbpf-rs ", "tiny_http ", "ring ", "libbpf: ", "glibc: ", "libelf: ", "zlib: "] {
            assert!(notices.lines().any(|line| line.starts_with(name)), "{name}");
        }
        // Texts of two of these licences.
        assert!(notices.contains("Copyright (c) 2014-2019 The tiny-http contributors"));
        assert!(notices.contains("GNU LESSER GENERAL PUBLIC LICENSE"));
        // The first is used only in tests, the second is a macro and only used when building.
        assert!(!notices.contains("tempfile ") && !notices.contains("serde_derive "));
    }
}
