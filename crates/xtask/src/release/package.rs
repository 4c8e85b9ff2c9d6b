// SPDX-License-Identifier: MIT OR Apache-2.0
//! Installing, and the Debian package.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::process::umask;

use crate::assemble::dashboard;
use crate::guest::image::remove;
use crate::release::notices;
use crate::release::{self, SUITE, WEB};
use crate::workspace::{exporters, files, output, root, run};

/// Stops running exporters before their files are removed. Installing starts nothing.
const PRERM: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then
	systemctl --no-reload disable --now ebpf-exporters.target || true
	systemctl stop 'ebpf-*-exporter.service' 'ebpf-textfile@*' || true
	rm -f /etc/systemd/system/timers.target.wants/ebpf-textfile@*.timer
	# Nobody writes these anew, and node_exporter would show them for ever.
	rm -f /var/lib/prometheus/node-exporter/ebpf-*.prom
fi
";

/// `@MODULES@` stands for the options from `matches`.
const POSTINST: &str = "\
#!/bin/sh
set -e
if [ \"$1\" = configure ] && [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
	udevadm control --reload || true
	udevadm trigger --subsystem-match=module @MODULES@ || true
	[ -z \"$2\" ] || systemctl try-restart 'ebpf-*-exporter.service' || true
fi
";

const POSTRM: &str = "\
#!/bin/sh
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
";

/// Options for udevadm that select the modules of a rule, and no others: each event of a module runs
/// all udev rules of the system.
fn matches(rule: &str) -> Result<String> {
    let modules = rule.split_once("KERNEL==\"").and_then(|(_, rest)| rest.split_once('"'));
    let (modules, _) = modules.context("the rule has no KERNEL")?;
    Ok(modules.split('|').map(|module| format!("--sysname-match={module}")).collect::<Vec<_>>().join(" "))
}

/// Text after our own licence, in the package's file `copyright`.
const ELSEWHERE: &str = "\
Texts of these licences: LICENSE-* beside this file; of Apache-2.0 and GPL-2 also in
/usr/share/common-licenses. Others' work that is linked into the programs, and its licences: NOTICES.gz
and COPYRIGHT-library.html.gz beside this file.
";

const MAINTAINER: &str = "the eBPF exporters developers <ebpf-exporters@localhost>";

/// Lintian tags that are intended. A package in Debian itself would link dynamically and have a
/// maintainer's address.
const OVERRIDES: &str = "\
# One file is to run on every release: all programs are linked statically.
ebpf-exporters: embedded-library zlib *
# Mail goes to whoever has this built.
ebpf-exporters: bogus-mail-host *
ebpf-exporters: bogus-mail-host-in-debian-changelog *
";

const TARGET: &str = "ebpf-exporters.target";

/// Builds all, and copies the files to their places below `destdir`/`prefix`.
///
/// # Errors
/// When building or copying fails.
pub fn install(destdir: &Path, prefix: &Path) -> Result<()> {
    release::build(&release::revision(), &[])?;
    copy_all(destdir, prefix)
}

/// Copies the binaries, units, manual pages, docs and configuration.
fn copy_all(destdir: &Path, prefix: &Path) -> Result<()> {
    let below = destdir.join(prefix.strip_prefix("/").unwrap_or(prefix));
    let base = if destdir.as_os_str().is_empty() { prefix.to_owned() } else { below };
    let share = base.join("share/ebpf-exporters");
    let units = base.join("lib/systemd/system");
    let doc = base.join("share/doc/ebpf-exporters");
    for exporter in exporters()? {
        let name = &exporter.binary;
        copy(&root().join("dist/bin").join(name), &base.join("bin").join(name), 0o755)?;
        let unit = format!("{name}.service");
        let page = root().join(format!("crates/{}/tests/golden/{name}.8", exporter.name));
        add_manual(&page, &base.join("share/man/man8"))?;
        if let Some(folder) = exporter.configs()? {
            make_folder(&if destdir.as_os_str().is_empty() {
                folder
            } else {
                destdir.join(folder.strip_prefix("/")?)
            })?;
        }
        // For users who write programs, and programs that they can begin with.
        let of_crate = format!("crates/{}", exporter.name);
        copy_if_there(&format!("{of_crate}/include"), ".bpf.h", &share.join("include"))?;
        copy_if_there(&format!("{of_crate}/examples"), "", &doc.join("examples"))?;
        // Enabling the target starts them all; `systemctl mask` excludes one.
        let wants = units.join("ebpf-exporters.target.wants");
        fs::create_dir_all(&wants)?;
        remove(&wants.join(&unit))?;
        symlink(Path::new("..").join(&unit), wants.join(&unit))?;
    }
    copy(&root().join("dist/bin").join(WEB), &base.join("lib/ebpf-exporters").join(WEB), 0o755)?;
    copy(&root().join("dist/bin").join(SUITE), &base.join("bin").join(SUITE), 0o755)?;
    for page in files("crates/top/tests/golden", ".1")? {
        add_manual(&page, &base.join("share/man/man1"))?;
    }
    for path in [files("systemd", ".service")?, files("systemd", ".timer")?].concat() {
        let text = fs::read_to_string(&path)?.replace("/usr/bin/", &format!("{}/bin/", prefix.display()));
        write(&units.join(path.file_name().context("a unit without name")?), &text, 0o644)?;
    }
    let target = fs::read_to_string(root().join("systemd").join(TARGET))?;
    write(&units.join(TARGET), &(target + &also()?), 0o644)?;
    copy_into("systemd", ".rules", &base.join("lib/udev/rules.d"))?;
    for (folder, suffix) in
        [("prometheus", ".yml"), ("prometheus", ".conf"), ("alerts", ".yml"), ("rules", ".yml")]
    {
        copy_into(folder, suffix, &share.join(folder))?;
    }
    for suffix in [".libsonnet", ".jsonnet", ".json"] {
        copy_into("mixin", suffix, &share.join("mixin"))?;
    }
    for dashboard in [dashboard::HOST, dashboard::FLEET] {
        copy(&root().join(dashboard), &share.join(dashboard), 0o644)?;
    }
    copy_into("grafana/provisioning", ".yml", &share.join("grafana/provisioning"))?;
    // Laid out as in the repository, so that links between the pages work.
    for file in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "METRICS.md"] {
        copy(&root().join(file), &doc.join(file), 0o644)?;
    }
    copy_into("docs", ".md", &doc.join("docs"))?;
    for kind in [".svg", ".webp"] {
        copy_into("docs/pictures", kind, &doc.join("docs/pictures"))?;
    }
    Ok(())
}

/// Writes a manual page, compressed, into a folder.
fn add_manual(page: &Path, folder: &Path) -> Result<()> {
    let name = page.file_name().context("a page without name")?.to_string_lossy();
    let page = Command::new("gzip").args(["-9nc"]).arg(page).output().context("failed to start gzip")?;
    write(&folder.join(format!("{name}.gz")), &page.stdout, 0o644)
}

/// Writes the licences of everything in the package to where Debian's policy wants them.
///
/// # Errors
/// When one is missing.
pub fn add_licences(usr: &Path) -> Result<()> {
    let doc = usr.join("share/doc/ebpf-exporters");
    let ours = fs::read_to_string(root().join("LICENSE"))?;
    write(&doc.join("copyright"), format!("{ours}\n{ELSEWHERE}"), 0o644)?;
    for name in ["APACHE", "BSD-2-CLAUSE", "GPL-2.0", "MIT"] {
        let name = format!("LICENSE-{name}");
        copy(&root().join(&name), &doc.join(&name), 0o644)?;
    }
    let binaries = exporters()?.into_iter().map(|exporter| exporter.binary);
    let notices = notices::of(&binaries.chain([WEB, SUITE].map(ToOwned::to_owned)).collect::<Vec<_>>())?;
    write(&doc.join("NOTICES"), notices, 0o644)?;
    copy(&notices::of_rust()?, &doc.join("COPYRIGHT-library.html"), 0o644)?;
    for name in ["NOTICES", "COPYRIGHT-library.html"] {
        run(Command::new("gzip").arg("-9nf").arg(doc.join(name)))?;
    }
    Ok(())
}

/// Lines for the target: enabling it also enables the units that are started when a module is loaded.
fn also() -> Result<String> {
    let mut lines = String::new();
    for exporter in exporters()? {
        let unit = format!("{}.service", exporter.binary);
        if fs::read_to_string(root().join("systemd").join(&unit))?.contains("sys-module-") {
            lines += &format!("Also={unit}\n");
        }
    }
    Ok(lines)
}

/// Copies the files of a folder, except tests and the parts of assembled files.
fn copy_into(folder: &str, suffix: &str, target: &Path) -> Result<()> {
    for path in files(folder, suffix)? {
        let below = path.strip_prefix(root().join(folder))?;
        if !below.starts_with("tests")
            && !["head.yml", "instance.yml"].iter().any(|part| below == Path::new(part))
        {
            copy(&path, &target.join(below), 0o644)?;
        }
    }
    Ok(())
}

/// As [`copy_into`], where the folder exists.
fn copy_if_there(folder: &str, suffix: &str, target: &Path) -> Result<()> {
    if root().join(folder).is_dir() { copy_into(folder, suffix, target) } else { Ok(()) }
}

/// Makes a folder for what users write.
///
/// # Errors
/// When it cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("failed to make {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Builds a tarball for systems without dpkg, which is unpacked in `/`. Returns its path.
///
/// # Errors
/// When building or tar fails.
pub fn tarball() -> Result<PathBuf> {
    let tree = root().join("dist/tree");
    remove(&tree)?;
    umask(Mode::from_bits_truncate(0o022));
    install(&tree, Path::new("/usr"))?;
    add_licences(&tree.join("usr"))?;
    let target = root().join(format!("dist/{}.tar.gz", file_name("-")?));
    let mut tar = Command::new("tar");
    // The same files make the same archive.
    tar.args([
        "--create",
        "--use-compress-program=gzip -9n",
        "--owner=root:0",
        "--group=root:0",
        "--sort=name",
    ]);
    tar.arg(format!("--mtime=@{}", release::epoch()?)).arg("--file");
    run(tar.arg(&target).arg("--directory").arg(&tree).args(["usr", "etc/ebpf-exporters"]))?;
    Ok(target)
}

/// Name, version and architecture, as in the file name of a package.
///
/// # Errors
/// When dpkg fails.
pub fn file_name(separator: &str) -> Result<String> {
    let parts = ["ebpf-exporters", env!("CARGO_PKG_VERSION"), &architecture()?];
    Ok(parts.join(separator))
}

/// Debian's name of this machine's architecture.
fn architecture() -> Result<String> {
    Ok(output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned())
}

/// Builds the package and returns its path.
///
/// # Errors
/// When building or dpkg-deb fails.
pub fn deb() -> Result<PathBuf> {
    pack("-Zxz", &release::revision())
}

/// As [`deb`], for guests. It is not compressed, because unpacking takes long in a guest. It has no
/// revision, so that a commit does not link everything again.
///
/// # Errors
/// Those of [`deb`].
pub fn for_tests() -> Result<PathBuf> {
    pack("-Znone", "tests")
}

/// Runs lintian on a package from [`for_tests`].
///
/// # Errors
/// When lintian finds an error.
pub fn has_no_errors(package: &Path) -> Result<()> {
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error", "--display-level", "error", "--suppress-tags"]);
    lintian.arg("uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball");
    run(lintian.arg(package))
}

fn pack(compression: &str, revision: &str) -> Result<PathBuf> {
    let tree = root().join("dist/deb");
    remove(&tree)?;
    umask(Mode::from_bits_truncate(0o022));
    release::build(revision, &[])?;
    copy_all(&tree, Path::new("/usr"))?;
    add_licences(&tree.join("usr"))?;
    let architecture = architecture()?;
    let version = env!("CARGO_PKG_VERSION");
    let control = tree.join("DEBIAN");
    write(
        &control.join("control"),
        format!(
            "Package: ebpf-exporters\nVersion: {version}\nArchitecture: {architecture}\n\
             Maintainer: {MAINTAINER}\n\
             Section: net\nPriority: optional\n\
             Description: Prometheus exporters for the Linux kernel, by eBPF\n \
             One small static program for each subsystem. Start them all with\n \
             systemctl enable --now ebpf-exporters.target\n \
             and see with ebpf-exporters top what they say.\n"
        ),
        0o644,
    )?;
    write(&tree.join("usr/share/lintian/overrides/ebpf-exporters"), OVERRIDES, 0o644)?;
    let epoch = release::epoch()?;
    let date = output(Command::new("date").args(["--utc", "-R", "-d", &format!("@{epoch}")]))?;
    let changelog = tree.join("usr/share/doc/ebpf-exporters/changelog");
    write(
        &changelog,
        format!(
            "ebpf-exporters ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n \
             -- {MAINTAINER}  {date}"
        ),
        0o644,
    )?;
    run(Command::new("gzip").arg("-9nf").arg(&changelog))?;
    let rule = fs::read_to_string(root().join("systemd/90-ebpf-exporters.rules"))?;
    let postinst = POSTINST.replace("@MODULES@", &matches(&rule)?);
    for (name, script) in [("prerm", PRERM), ("postinst", &postinst), ("postrm", POSTRM)] {
        write(&control.join(name), script, 0o755)?;
    }
    let folder = if compression == "-Zxz" { "dist" } else { "target" };
    let target = root().join(format!("{folder}/{}.deb", file_name("_")?));
    let mut dpkg = Command::new("dpkg-deb");
    // The same files make the same archive: with the time of the commit, and with one thread, as several
    // threads split the archive into parts.
    dpkg.env("SOURCE_DATE_EPOCH", epoch.to_string()).env("DPKG_DEB_THREADS_MAX", "1");
    run(dpkg.args(["--build", "--root-owner-group", compression]).arg(&tree).arg(&target))?;
    Ok(target)
}

/// Copies a file, and makes the folder that it goes to.
///
/// # Errors
/// When a file or folder cannot be written, or the file is missing.
pub fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("no parent folder")?)?;
    fs::copy(from, to).with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

/// Writes a file, and makes its folder.
///
/// # Errors
/// When a file or folder cannot be written.
pub fn write(path: &Path, text: impl AsRef<[u8]>, mode: u32) -> Result<()> {
    fs::create_dir_all(path.parent().context("no parent folder")?)?;
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn only_modules_of_the_rule_are_looked_at() {
        let rule = "SUBSYSTEM==\"module\", KERNEL==\"zfs|wireguard\", TAG+=\"systemd\"";
        assert_eq!(matches(rule).expect("a rule"), "--sysname-match=zfs --sysname-match=wireguard");
        assert!(matches("SUBSYSTEM==\"module\"").is_err());
    }
}
