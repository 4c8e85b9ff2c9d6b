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
use crate::workspace::{cargo, output, root};

/// How names of files begin that hold a licence or a copyright notice.
const BEGINNINGS: &[&str] = &["copying", "copyright", "licence", "license", "notice", "unlicense"];

/// Static libraries, and the Debian packages that contain them.
pub const LIBRARIES: &[(&str, &str)] =
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
        for file in texts_of(&linked.folder, &linked.licence)? {
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
pub struct Linked {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// What its manifest says.
    pub licence: String,
    folder: PathBuf,
}

/// Those that are linked into the binaries of `packages`, by name.
///
/// # Errors
/// When cargo fails.
pub fn linked(packages: &[String]) -> Result<Vec<Linked>> {
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

/// The texts to distribute with a crate in `folder`, whose manifest names `licence`.
fn texts_of(folder: &Path, licence: &str) -> Result<Vec<PathBuf>> {
    let files = licences(folder)?;
    if !files.is_empty() {
        return Ok(files);
    }
    // Apache-2.0 asks for its own text and for notices that are there. Other licences have the name of
    // a holder in their text, so that the text of another crate does not do.
    if licence.split(" OR ").flat_map(|word| word.split('/')).any(|word| word == "Apache-2.0") {
        return Ok(vec![root().join("LICENSE-APACHE")]);
    }
    bail!("{} has no file with its licence", folder.display());
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
    use std::fs;

    use super::{of, texts_of};
    use crate::release::{SUITE, WEB};
    use crate::workspace::{exporters, root};

    #[test]
    fn only_apache_does_without_a_file_of_the_crate() {
        let folder = tempfile::tempdir().expect("a folder");
        let texts = |licence| texts_of(folder.path(), licence);
        let apache = vec![root().join("LICENSE-APACHE")];
        for licence in ["Apache-2.0", "MIT OR Apache-2.0", "MIT/Apache-2.0"] {
            assert_eq!(texts(licence).expect(licence), apache, "{licence}");
        }
        for licence in ["MIT", "BSD-3-Clause", "Apache-2.0 WITH LLVM-exception", ""] {
            assert!(texts(licence).is_err(), "{licence}");
        }
        let own = folder.path().join("LICENSE-MIT");
        fs::write(&own, "").expect("written");
        assert_eq!(texts("MIT OR Apache-2.0").expect("a file"), [own]);
    }

    #[test]
    fn everything_in_the_package_has_its_licence() {
        let binaries = exporters().expect("crates").into_iter().map(|exporter| exporter.binary);
        let notices = of(&binaries.chain([WEB, SUITE].map(ToOwned::to_owned)).collect::<Vec<_>>())
            .expect("all have a licence");
        assert!(notices.contains("Version 2.0, January 2004"), "the text of Apache-2.0");
    }

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
