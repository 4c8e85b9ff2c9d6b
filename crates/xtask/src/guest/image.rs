// SPDX-License-Identifier: MIT OR Apache-2.0
//! Root file systems of guests: built once, kept outside the checkout under a key of
//! all that they are built from.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use super::suites::{MIRROR, PACKAGES, ROOT_SIZE, SCRIPT, SERVICE, Suite};
use crate::workspace::{cache, run};

/// A guest that can be booted.
#[derive(Debug)]
pub struct Image {
    /// ext4, never written to.
    pub root: PathBuf,
    /// Kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
}

/// The image of `suite`, built when it is not in the cache: some five minutes and 2 GB.
///
/// # Errors
/// When mmdebstrap or mke2fs fails; nothing half-built stays behind under the key.
pub fn ensure(suite: &Suite) -> Result<Image> {
    let arguments = arguments(suite);
    let folder = cache().join("guests").join(format!("{}-{:016x}", suite.name, key(&arguments)));
    if !folder.exists() {
        let start = Instant::now();
        println!("building the {} guest in {} ...", suite.name, folder.display());
        let unfinished = folder.with_extension("unfinished");
        remove(&unfinished)?;
        fs::create_dir_all(&unfinished)
            .with_context(|| format!("failed to make {}", unfinished.display()))?;
        build(&arguments, suite, &unfinished)?;
        fs::rename(&unfinished, &folder).context("failed to put the finished guest in its place")?;
        println!("built in {} s", start.elapsed().as_secs());
    }
    Ok(Image {
        root: folder.join("root.img"),
        kernel: folder.join("vmlinuz"),
        initrd: folder.join("initrd.img"),
    })
}

fn arguments(suite: &Suite) -> Vec<String> {
    let mut arguments = vec![
        "--quiet".to_owned(),
        "--format=directory".to_owned(),
        "--variant=minbase".to_owned(),
        "--components=main,contrib".to_owned(),
        "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
        format!("--include={}", PACKAGES.join(",")),
    ];
    arguments.extend(suite.mmdebstrap.iter().map(ToString::to_string));
    arguments
}

fn key(arguments: &[String]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (arguments, MIRROR, ROOT_SIZE, SERVICE, SCRIPT, include_str!("image.rs")).hash(&mut hasher);
    hasher.finish()
}

fn build(arguments: &[String], suite: &Suite, folder: &Path) -> Result<()> {
    let root = folder.join("root");
    // In a mount namespace of its own: mmdebstrap mounts this machine's /proc, /sys and
    // /dev below the new root, and were it killed they would stay there, to be found by
    // whoever removes what is left.
    let mut mmdebstrap = Command::new("unshare");
    mmdebstrap.args(["--mount", "mmdebstrap"]).args(arguments).arg(suite.name);
    // In the environment of a make, the makes inside say which directory they enter, and ZFS 2.0
    // takes that for the compiler's name.
    for variable in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"] {
        mmdebstrap.env_remove(variable);
    }
    run(mmdebstrap.arg(&root).arg(MIRROR))?;
    for (name, target) in [("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")] {
        fs::copy(boot_file(&root, name)?, folder.join(target))
            .with_context(|| format!("failed to copy {name}"))?;
    }
    install(&root.join("usr/local/sbin/guest-run"), SCRIPT, 0o755)?;
    let units = root.join("etc/systemd/system");
    install(&units.join("guest-run.service"), SERVICE, 0o644)?;
    std::os::unix::fs::symlink("../guest-run.service", {
        let wants = units.join("multi-user.target.wants");
        fs::create_dir_all(&wants)?;
        wants.join("guest-run.service")
    })?;
    // A getty resets the line and swallows what others print there; Prometheus is
    // started by the test that needs it.
    for mask in [
        "serial-getty@ttyS0.service",
        "prometheus.service",
        "prometheus-node-exporter.service",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
    ] {
        let link = units.join(mask);
        remove(&link)?;
        std::os::unix::fs::symlink("/dev/null", link)?;
    }
    // mmdebstrap takes these two from this machine; a guest has nothing but itself.
    for (path, text) in [("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"), ("etc/resolv.conf", "")] {
        let path = root.join(path);
        remove(&path)?;
        install(&path, text, 0o644)?;
    }
    remove(&root.join("var/cache/apt/archives"))?;
    remove(&root.join("var/lib/apt/lists"))?;
    let image = folder.join("root.img");
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&image).arg(ROOT_SIZE))?;
    remove(&root)
}

/// The newest kernel's file: guests have one only.
fn boot_file(root: &Path, prefix: &str) -> Result<PathBuf> {
    let boot = root.join("boot");
    fs::read_dir(&boot)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .with_context(|| format!("no {prefix} in {}", boot.display()))
}

fn install(path: &Path, text: &str, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Removes a file or a folder, if there is one.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.with_context(|| format!("failed to remove {}", path.display()))
}
