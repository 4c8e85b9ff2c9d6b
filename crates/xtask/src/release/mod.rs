// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the binaries, those for users and the quick ones for tests and `make run`, and packages.

pub mod image;
mod notices;
pub mod package;
mod sbom;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::phases;
use crate::workspace::{cargo, cargo_at, exporters, output, root, run};

/// Maximum size of a binary.
const MAX_BYTES: u64 = 3 << 20;

/// Maximum size of one that runs users' objects. It also has a YAML parser, regular expressions with
/// Unicode's tables and an HTTP client for spans.
const MAX_BYTES_OF_USERS: u64 = 4 << 20;

/// Maximum size of [`SUITE`]. It has a terminal's screen, a TLS client, a YAML parser and an HTTP server.
const MAX_BYTES_OF_SUITE: u64 = 4 << 20;

/// The program that exporters start for `--web.config.file`: name of its crate and binary.
pub const WEB: &str = "ebpf-exporters-web";

/// The program that runs and shows several exporters at once: name of its crate and binary.
pub const SUITE: &str = "ebpf-exporters";

/// Builds the exporters in `only`, or all, [`WEB`] and [`SUITE`] if it is empty, into `dist/bin`, fully static. They
/// report `revision` as theirs; another revision links all of them again.
///
/// # Errors
/// When cargo fails, or a binary is larger than [`MAX_BYTES`], [`MAX_BYTES_OF_USERS`] or [`MAX_BYTES_OF_SUITE`].
pub fn build(revision: &str, only: &[String]) -> Result<()> {
    let mut command = cargo_at("build");
    command.arg("--release").env("EBPF_EXPORTERS_REVISION", revision);
    let paths = Paths::of_this_build()?;
    command.args(["--config", &paths.hidden()?]);
    let most = |built_in| if built_in { MAX_BYTES } else { MAX_BYTES_OF_USERS };
    let chosen = exporters()?.into_iter().filter(|exporter| only.is_empty() || only.contains(&exporter.name));
    let exporters = chosen.map(|exporter| (exporter.binary, most(exporter.built_in)));
    let others = [(WEB, MAX_BYTES), (SUITE, MAX_BYTES_OF_SUITE)].into_iter().filter(|_| only.is_empty());
    let others = others.map(|(name, most)| (name.to_owned(), most));
    let binaries: Vec<(String, u64)> = exporters.chain(others).collect();
    for (binary, _) in &binaries {
        command.args(["--package", binary]);
    }
    phases::named("release build", || run(&mut command))?;
    let bin = root().join("dist/bin");
    fs::create_dir_all(&bin)?;
    for (binary, most) in &binaries {
        let built = target_folder()?.join("release").join(binary);
        let bytes = fs::metadata(&built).with_context(|| format!("{} was not built", built.display()))?.len();
        if bytes > *most {
            bail!("{} has {bytes} bytes, more than {most}", built.display());
        }
        paths.are_not_in(&built)?;
        // A running binary cannot be overwritten, but it can be replaced.
        let new = bin.join(format!(".{binary}"));
        fs::copy(&built, &new)?;
        fs::rename(&new, bin.join(binary))?;
        println!("dist/bin/{binary} {:.1} MB", bytes as f64 / 1e6);
    }
    Ok(())
}

/// Builds all exporters as tests use them: in a quarter of the time, larger and a little slower.
/// Returns the folder with the binaries.
///
/// # Errors
/// When cargo fails.
pub fn quick() -> Result<PathBuf> {
    quick_by(|| run(cargo_at("build").args(["--workspace", "--bins"]))).map(|(folder, ())| folder)
}

/// As [`quick`], by a build that does more. Also returns what `build` returns.
///
/// # Errors
/// Those of `build`, or that the disk is full.
pub fn quick_by<T>(build: impl FnOnce() -> Result<T>) -> Result<(PathBuf, T)> {
    let target = target_folder()?;
    let built = phases::named("build", build);
    if let (Err(_), Some(why)) = (&built, lacks_room(&target)) {
        bail!(why);
    }
    Ok((target.join("debug"), built?))
}

/// Whether a full disk ended a build: of which a linker dies with a bus error, and says nothing else.
fn lacks_room(folder: &Path) -> Option<String> {
    const LITTLE: u64 = 100 << 20;
    let disk = rustix::fs::statvfs(folder).ok()?;
    let left = disk.f_bavail * disk.f_frsize;
    (left < LITTLE).then(|| {
        format!(
            "{} has {} MB left, a build takes 3000: make room, or set CARGO_TARGET_DIR to another folder",
            folder.display(),
            left >> 20
        )
    })
}

/// The time of the packaged files, in seconds since 1970: `SOURCE_DATE_EPOCH` if it is set, as by
/// distributions, else the time of the commit.
///
/// # Errors
/// When it is not a number, or git fails.
pub fn epoch() -> Result<u64> {
    let told = std::env::var("SOURCE_DATE_EPOCH").ok();
    let text = match told {
        Some(text) => text,
        None => output(Command::new("git").current_dir(root()).args(["log", "-1", "--format=%ct"]))
            .context("set SOURCE_DATE_EPOCH where there is no git repository")?,
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is no number of seconds: {text:?}"))
}

/// Folders of this machine, and what replaces them in the binaries' panic messages: builds in two
/// places are identical.
struct Paths(BTreeMap<String, &'static str>);

impl Paths {
    fn of_this_build() -> Result<Self> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut paths = BTreeMap::from([(text(&root()), "ebpf-exporters")]);
        let metadata = output(cargo().args(["metadata", "--format-version=1"]))?;
        let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
        for package in metadata["packages"].as_array().context("cargo names no packages")? {
            if !package["source"].is_null()
                && let Some(manifest) = package["manifest_path"].as_str()
                && let Some(registry) = Path::new(manifest).ancestors().nth(2)
            {
                paths.insert(text(registry), "crates");
            }
        }
        if let Some(target) = metadata["target_directory"].as_str() {
            paths.insert(target.to_owned(), "target");
        }
        Ok(Self(paths))
    }

    /// The setting for cargo. Where several prefixes match a path, rustc takes the last, so the longest
    /// comes last.
    fn hidden(&self) -> Result<String> {
        let flags =
            self.0.iter().map(|(path, name)| Value::from(format!("--remap-path-prefix={path}={name}")));
        Ok(format!("target.{}.rustflags={}", host()?, Value::Array(flags.collect())))
    }

    fn are_not_in(&self, binary: &Path) -> Result<()> {
        let bytes = fs::read(binary)?;
        for path in self.0.keys() {
            if bytes.windows(path.len()).any(|window| window == path.as_bytes()) {
                bail!("{} names {path}, so that a build in another place would differ", binary.display());
            }
        }
        Ok(())
    }
}

/// The commit, marked if the tree has changes that are not committed.
pub fn revision() -> String {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    output(&mut git).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The folder in which cargo puts what it builds for our target.
///
/// # Errors
/// When cargo fails.
pub fn target_folder() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let folder = metadata["target_directory"].as_str().context("cargo names no target folder")?;
    Ok(PathBuf::from(folder).join(host()?))
}

/// rustc's name of this machine's kind.
///
/// # Errors
/// When rustc fails.
pub fn host() -> Result<String> {
    Ok(output(Command::new("rustc").args(["--print", "host-tuple"]))?.trim().to_owned())
}
