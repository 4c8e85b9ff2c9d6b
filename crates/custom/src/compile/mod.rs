// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ebpf-custom-exporter build FILE.bpf.c`: compiles a user's program with this machine's clang and the
//! types of this kernel.

mod vmlinux;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Compilers to try, in this order.
const CLANGS: &[&str] = &[
    "clang-14", "clang-15", "clang-16", "clang-17", "clang-18", "clang-19", "clang-20", "clang-21", "clang",
];

/// Where the package keeps `maps.bpf.h` and its like.
const HEADERS: &str = "/usr/share/ebpf-exporters/include";

/// Where the system keeps headers.
const SYSTEM: [&str; 2] = ["/usr/local/include", "/usr/include"];

/// The architecture as libbpf's `bpf_tracing.h` spells it.
const TARGET: &str = if cfg!(target_arch = "x86_64") { "x86" } else { "arm64" };

/// Arguments of `build`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The program: NAME.bpf.c.
    #[arg(value_name = "FILE.bpf.c")]
    pub source: PathBuf,
    /// Where to put the object; the default is NAME.bpf.o beside the program.
    #[arg(long, short, value_name = "FILE.bpf.o")]
    pub output: Option<PathBuf>,
    /// Folder of headers, searched first; may be repeated.
    #[arg(long, short = 'I', value_name = "DIR")]
    pub include: Vec<PathBuf>,
    /// BTF of the kernel to compile for; the default is the running kernel's.
    #[arg(long, value_name = "FILE")]
    pub btf: Option<PathBuf>,
}

/// Compiles the program and says where the object is.
///
/// # Errors
/// When there is no clang, or a header, or it refuses the program: with the compiler's messages, and with
/// what to install.
pub fn run(args: &Args) -> Result<()> {
    let output = match &args.output {
        Some(output) => output.clone(),
        None => object_of(&args.source)?,
    };
    if !args.source.is_file() {
        bail!("there is no file {}", args.source.display());
    }
    let clang = clang(env::var_os("CLANG"))?;
    let mut headers = args.include.clone();
    headers.push(HEADERS.into());
    needs_libbpf(&headers)?;
    let vmlinux = match headers.iter().any(|folder| folder.join("vmlinux.h").exists()) {
        true => None,
        false => Some(vmlinux::Header::of(args.btf.as_deref())?),
    };
    headers.extend(vmlinux.as_ref().map(|header| header.folder().to_owned()));
    // The compiler writes beside the result: an older object stays until the new one is whole.
    let partial = with_suffix(&output, ".new");
    let status = command(&clang, &args.source, &partial, &headers)
        .status()
        .with_context(|| format!("failed to start {}", Path::new(&clang).display()))?;
    if !status.success() {
        // Nothing may be left, and it may not be there.
        let _ = fs::remove_file(&partial);
        bail!("{} does not compile: the messages of {} are above", args.source.display(), shown(&clang));
    }
    fs::rename(&partial, &output).with_context(|| format!("failed to write {}", output.display()))?;
    println!("{}", output.display());
    Ok(())
}

/// The compiler with all its arguments.
fn command(clang: &OsStr, source: &Path, output: &Path, headers: &[PathBuf]) -> Command {
    let mut command = Command::new(clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-g", "-O2", "-Wall"]);
    // A misspelt function would be one that libbpf does not find when it opens the object.
    command.arg("-Werror=implicit-function-declaration");
    // The stack of a program has no place for a canary, and some systems' clang adds one.
    command.arg("-fno-stack-protector").arg(format!("-D__TARGET_ARCH_{TARGET}"));
    for folder in headers {
        command.arg("-I").arg(folder);
    }
    for folder in SYSTEM {
        command.args(["-idirafter", folder]);
    }
    // Debian keeps there what /usr/include/linux includes.
    command.arg("-idirafter").arg(format!("/usr/include/{}-linux-gnu", env::consts::ARCH));
    command.arg("-c").arg(source).arg("-o").arg(output);
    command
}

/// The object that belongs to a program.
fn object_of(source: &Path) -> Result<PathBuf> {
    let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.strip_suffix(".bpf.c") {
        Some(name) => Ok(source.with_file_name(format!("{name}.bpf.o"))),
        None => {
            bail!("{} is not named NAME.bpf.c: say with --output where to put the object", source.display())
        }
    }
}

/// The compiler: the one that is asked for, or the first of the list that starts.
fn clang(asked: Option<OsString>) -> Result<OsString> {
    let starts = |clang: &OsStr| {
        Command::new(clang).arg("--version").output().is_ok_and(|output| output.status.success())
    };
    if let Some(asked) = asked {
        if !starts(&asked) {
            bail!("CLANG is {}, which does not start", shown(&asked));
        }
        return Ok(asked);
    }
    let found = CLANGS.iter().map(OsStr::new).find(|clang| starts(clang));
    found.map(OsStr::to_owned).context(
        "no clang found: install it (Debian, Ubuntu: `apt-get install clang libbpf-dev`; Fedora: `dnf \
         install clang libbpf-devel`), or set CLANG to its path",
    )
}

/// Whether libbpf's headers are in one of the folders or in the system's.
fn needs_libbpf(headers: &[PathBuf]) -> Result<()> {
    let folders = headers.iter().map(PathBuf::as_path).chain(SYSTEM.iter().map(Path::new));
    if folders.into_iter().any(|folder| folder.join("bpf/bpf_helpers.h").exists()) {
        return Ok(());
    }
    bail!(
        "there is no bpf/bpf_helpers.h: install libbpf's headers (Debian, Ubuntu: `apt-get install \
         libbpf-dev`; Fedora: `dnf install libbpf-devel`), or name the folder above `bpf` with --include"
    );
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn shown(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]
mod tests;
