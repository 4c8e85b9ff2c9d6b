// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make image`: a container image with the binaries and nothing else, as an OCI archive. buildah packs it, without
//! a daemon.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;

use crate::guest::image::remove;
use crate::release::{self, SUITE, WEB, package, sbom};
use crate::workspace::{exporters, output, root, run};

/// Where the supervisor of the image listens.
const PORT: &str = "9434/tcp";

/// Labels that do not depend on the build.
const LABELS: [(&str, &str); 3] = [
    ("title", "ebpf-exporters"),
    ("description", "Prometheus exporters for the Linux kernel with eBPF, and what runs them"),
    ("licenses", "(MIT OR Apache-2.0) AND (BSD-2-Clause OR GPL-2.0-only)"),
];

/// Builds the binaries and packs them. Returns the path of the archive.
///
/// # Errors
/// When building fails, buildah is refused, or packing twice gives two archives.
pub fn build() -> Result<PathBuf> {
    if !geteuid().is_root() {
        bail!("an image contains files of root: run this as root");
    }
    let revision = release::revision();
    release::build(&revision, &[])?;
    let target = root().join(format!("dist/{}.oci.tar", package::file_name("-")?));
    of_built(&revision, &target)?;
    let again = target.with_extension("again");
    of_built(&revision, &again)?;
    let is_same = fs::read(&target)? == fs::read(&again)?;
    fs::remove_file(&again)?;
    if !is_same {
        bail!("packed twice, {} is not the same", target.display());
    }
    Ok(target)
}

/// Packs the binaries that were built last, for tests, at this path.
///
/// # Errors
/// When buildah is refused.
pub fn for_tests(target: &Path) -> Result<()> {
    of_built("tests", target)
}

/// Packs the binaries that were built last.
fn of_built(revision: &str, target: &Path) -> Result<()> {
    let tree = root().join("dist/image");
    fill(&tree, revision)?;
    pack(&tree, revision, release::epoch()?, target)?;
    remove(&tree)
}

/// Puts into a folder what the image's root folder has.
fn fill(tree: &Path, revision: &str) -> Result<()> {
    remove(tree)?;
    let bin = root().join("dist/bin");
    let mut binaries: Vec<String> = exporters()?.into_iter().map(|exporter| exporter.binary).collect();
    binaries.push(SUITE.to_owned());
    for name in &binaries {
        package::copy(&bin.join(name), &tree.join("usr/bin").join(name), 0o755)?;
    }
    package::copy(&bin.join(WEB), &tree.join("usr/lib/ebpf-exporters").join(WEB), 0o755)?;
    package::add_licences(&tree.join("usr"))?;
    binaries.push(WEB.to_owned());
    let list = sbom::of(&binaries, revision)?;
    package::write(&tree.join("usr/share/doc/ebpf-exporters/sbom.cdx.json"), list, 0o644)?;
    // For programs of users.
    package::make_folder(&tree.join("etc/ebpf-exporters/custom"))?;
    // Folders have the rights that the umask left.
    for folder in folders(tree)? {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A folder and all below it.
fn folders(top: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![top.to_owned()];
    for entry in fs::read_dir(top)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(folders(&path)?);
        }
    }
    Ok(found)
}

/// Packs a folder into an archive. Images and containers of this machine are left alone: buildah gets a store of its
/// own.
fn pack(tree: &Path, revision: &str, epoch: u64, target: &Path) -> Result<()> {
    let store = root().join("dist/image-store");
    remove(&store)?;
    let buildah = |arguments: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
        command.args(["--storage-driver=vfs"]).args(arguments);
        command
    };
    let container = output(&mut buildah(&["from", "scratch"]))?;
    let container = container.trim();
    let tree = tree.to_str().context("the path of the checkout is not UTF-8")?;
    output(&mut buildah(&["copy", "--quiet", "--chown=0:0", container, tree, "/"]))?;
    let mut config = buildah(&["config", "--entrypoint=[\"/usr/bin/ebpf-exporters\",\"run\"]"]);
    config.args(["--port", PORT, "--workingdir=/", "--env=PATH=/usr/bin", "--stop-signal=SIGTERM"]);
    let own = [("version", env!("CARGO_PKG_VERSION")), ("revision", revision)];
    for (name, value) in LABELS.into_iter().chain(own) {
        config.arg(format!("--label=org.opencontainers.image.{name}={value}"));
    }
    output(config.arg(container))?;
    let folder = store.join("oci");
    let name = format!("oci:{}:ebpf-exporters:{}", folder.display(), env!("CARGO_PKG_VERSION"));
    // Files and the image have that time.
    let time = format!("--timestamp={epoch}");
    output(&mut buildah(&[
        "commit",
        "--quiet",
        "--format=oci",
        "--disable-compression=false",
        "--rm",
        &time,
        container,
        &name,
    ]))?;
    let mut tar = Command::new("tar");
    tar.args(["--create", "--owner=root:0", "--group=root:0", "--mode=u=rwX,go=rX", "--sort=name"]);
    tar.arg(format!("--mtime=@{epoch}")).arg("--file").arg(target).arg("--directory").arg(&folder);
    run(tar.args(["blobs", "index.json", "oci-layout"]))?;
    remove(&store)
}
