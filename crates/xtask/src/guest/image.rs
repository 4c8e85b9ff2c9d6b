// SPDX-License-Identifier: MIT OR Apache-2.0
//! Root file systems of guests: built once, kept outside the checkout under keys of all that they
//! are built from.
//!
//! In two layers. The lower one is a tar file of a system that boots, with ZFS, which is compiled
//! for its kernel: most of the time. The upper one adds packages, units and scripts, and is a disk.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::mirror;
use super::suites::{PACKAGES, ROOT_SIZE, SCRIPT, SERVICE, Suite};
use crate::phases;
use crate::workspace::{cache, run};

/// Lines of what mmdebstrap said that are shown when it fails.
const SAID_LINES: usize = 40;

/// How often a layer is built when files cannot be fetched in the middle of it.
const BUILDS: u32 = 3;

/// Words by which apt says that a file did not come: it may the next time.
const PASSING: [&str; 4] = ["Failed to fetch", "Unable to fetch", "Temporary failure", "Hash Sum mismatch"];

/// ZFS's fault injector is in a package of tests, with a shell and Python that nobody needs here.
const ZINJECT: &str = "cd /tmp && apt-get download zfs-test && dpkg-deb --fsys-tarfile zfs-test_*.deb | \
                       tar -C / -x --wildcards '*sbin/zinject' && rm zfs-test_*.deb";

/// A guest that can be booted.
#[derive(Clone, Debug)]
pub struct Image {
    /// ext4, never written to.
    pub root: PathBuf,
    /// Kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
    /// Where the three are.
    pub folder: PathBuf,
}

/// The image of `suite`, built when it is not in the cache; two that need the same one wait for
/// each other.
///
/// # Errors
/// When the archive cannot be reached, or mmdebstrap or mke2fs fails; nothing half-built stays
/// behind under the key.
pub fn ensure(suite: &Suite) -> Result<Image> {
    let base = suite.base_packages();
    let base_key = key(&(suite.release, suite.archive, &base));
    let key = key(&(base_key, PACKAGES, ROOT_SIZE, SERVICE, SCRIPT, ZINJECT, include_str!("image.rs")));
    let name = format!("{}-{}", suite.release, suite.flavour);
    let name = suite.archive.map_or(name.clone(), |archive| format!("{name}-{archive}"));
    let guests = cache().join("guests");
    let folder = guests.join(format!("{name}-{key:016x}"));
    once(&folder, |unfinished| {
        let tar = guests.join(format!("{name}-{base_key:016x}.tar"));
        once(&tar, |unfinished| {
            let what = if suite.zfs { "a system with ZFS compiled" } else { "a system" };
            phases::named(&format!("{name}: {what}"), || build_base(suite, &base, unfinished))
        })?;
        fs::create_dir_all(unfinished)?;
        phases::named(&format!("{name}: image"), || build_image(suite, &tar, unfinished))
    })?;
    Ok(Image {
        root: folder.join("root.img"),
        kernel: folder.join("vmlinuz"),
        initrd: folder.join("initrd.img"),
        folder,
    })
}

/// Makes what is to be at `path`, if it is not there, by `make`, which is told another path; by one
/// process and thread at a time.
///
/// # Errors
/// As `make`; then nothing is at `path`.
pub fn once(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let with = |end: &str| PathBuf::from(format!("{}.{end}", path.display()));
    fs::create_dir_all(path.parent().context("no parent folder")?)?;
    let lock = with("lock");
    let file = File::create(&lock).with_context(|| format!("failed to make {}", lock.display()))?;
    if file.try_lock().is_err() {
        println!("waiting for {}, which another run makes", path.display());
        file.lock()?;
    }
    if path.exists() {
        return Ok(());
    }
    let unfinished = with("unfinished");
    remove(&unfinished)?;
    make(&unfinished)?;
    fs::rename(&unfinished, path).with_context(|| format!("failed to make {}", path.display()))
}

/// A key of all that something is built from.
pub fn key(parts: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

fn build_base(suite: &Suite, packages: &[String], tar: &Path) -> Result<()> {
    let mirror = mirror::find()?;
    mirror::reach(&mirror, suite.release)?;
    let sources = suite
        .archive
        .map(|archive| format!("deb {mirror} {release}-{archive} main contrib", release = suite.release));
    let build = || {
        let mut mmdebstrap = mmdebstrap();
        mmdebstrap
            .args(["--format=tar", "--variant=minbase", "--components=main,contrib"])
            .arg(format!("--include={}", packages.join(",")));
        if let Some(archive) = suite.archive {
            // The further archive's packages of these names, and of what they depend on.
            mmdebstrap.arg(format!("--aptopt=APT::Default-Release \"{}-{archive}\"", suite.release));
        }
        mmdebstrap.arg(suite.release).arg(tar).arg(&mirror).args(&sources);
        said(&mut mmdebstrap)
    };
    patiently(build)
}

fn build_image(suite: &Suite, tar: &Path, folder: &Path) -> Result<()> {
    let root = folder.join("root");
    let install_packages = format!("apt-get install --yes {}", PACKAGES.join(" "));
    let mut lines = vec!["apt-get update", &install_packages];
    lines.extend(suite.zfs.then_some(ZINJECT));
    patiently(|| {
        remove(&root)?;
        let mut mmdebstrap = mmdebstrap();
        mmdebstrap
            .args(["--format=directory", "--variant=custom", "--skip=update"])
            .arg(format!(
                "--setup-hook=mmtarfilter '--path-exclude=/dev/*' < '{}' | tar -C \"$1\" -x",
                tar.display()
            ))
            .args(lines.iter().map(|line| format!("--customize-hook=chroot \"$1\" sh -ec \"{line}\"")))
            // The sources of the first layer stand.
            .arg("")
            .arg(&root)
            .arg("-")
            .stdin(Stdio::null());
        said(&mut mmdebstrap)
    })?;
    for name in ["vmlinuz", "initrd.img"] {
        fs::copy(boot_file(&root, name)?, folder.join(name))
            .with_context(|| format!("failed to copy {name}"))?;
    }
    install(&root.join("usr/local/sbin/guest-run"), SCRIPT, 0o755)?;
    let units = root.join("etc/systemd/system");
    install(&units.join("guest-run.service"), SERVICE, 0o644)?;
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    symlink("../guest-run.service", wants.join("guest-run.service"))?;
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
        symlink("/dev/null", link)?;
    }
    // mmdebstrap takes these two from this machine; a guest has nothing but itself.
    for (path, text) in [("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"), ("etc/resolv.conf", "")] {
        let path = root.join(path);
        remove(&path)?;
        install(&path, text, 0o644)?;
    }
    let image = folder.join("root.img");
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&image).arg(ROOT_SIZE))?;
    remove(&root)
}

/// mmdebstrap, in a mount namespace of its own: it mounts this machine's /proc, /sys and /dev
/// below the new root, and were it killed they would stay there, to be found by whoever removes
/// what is left.
fn mmdebstrap() -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "mmdebstrap"])
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        // Old releases, and testing on some days, have an index past its date.
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        .args(["--aptopt=Acquire::Retries \"2\"", "--aptopt=Acquire::http::Timeout \"30\""])
        // Where a module could not be compiled, the compiler's words are in a file that goes with all.
        .arg("--aptopt=DPkg::Post-Invoke {\"tail -n 20 /var/lib/dkms/*/*/build/make.log 2> /dev/null || :\"}")
        // What is half written when the machine stops is built anew.
        .arg("--dpkgopt=force-unsafe-io");
    // In the environment of a make, the makes inside say which directory they enter, and ZFS 2.0
    // takes that for the compiler's name.
    for variable in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS"] {
        command.env_remove(variable);
    }
    command
}

/// Runs a command; fails with the end of what it said.
fn said(command: &mut Command) -> Result<()> {
    let output = command.output().context("failed to start unshare")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        let end = &lines[lines.len().saturating_sub(SAID_LINES)..];
        bail!("mmdebstrap: {}, after:\n{}", output.status, end.join("\n"));
    }
    Ok(())
}

/// Tries again where files could not be fetched, and only then.
fn patiently(mut build: impl FnMut() -> Result<()>) -> Result<()> {
    for attempt in 1.. {
        match build() {
            Err(error) if attempt < BUILDS && PASSING.iter().any(|word| error.to_string().contains(word)) => {
                println!("{error:#}\n(attempt {attempt} of {BUILDS})");
            }
            result => return result,
        }
    }
    Ok(())
}

/// The kernel's file: guests have one kernel only.
fn boot_file(root: &Path, prefix: &str) -> Result<PathBuf> {
    let boot = root.join("boot");
    let mut found = fs::read_dir(&boot)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    found.next().with_context(|| format!("no {prefix} in {}", boot.display()))
}

fn install(path: &Path, text: &str, mode: u32) -> Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Removes a file or a folder, if there is one.
///
/// # Errors
/// When it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Err(_) => return Ok(()),
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.with_context(|| format!("failed to remove {}", path.display()))
}
