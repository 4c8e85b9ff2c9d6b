// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only build-script logic of the workspace.
//!
//! A crate `crates/NAME` with a program `bpf/NAME.bpf.c` calls [`skeleton`] as the whole
//! of its `build.rs`, and takes the result in with `common::skeleton!()`. A crate whose tests load
//! objects from files calls [`configs`].

use std::env;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use libbpf_cargo::SkeletonBuilder;
use libbpf_rs::Linker;
use object::{Object, ObjectSection};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Limit of the compiler's address space. clang 14, the oldest supported version, needs a tenth of
/// it. On some builtins it allocates without bound: then the build fails before memory runs out.
const CLANG_MEMORY_BYTES: u64 = 4 << 30;

/// Compilers to try, in this order. The oldest supported version is preferred, so that code that it
/// cannot compile is noticed.
const CLANGS: &[&str] = &["clang-14", "clang-15", "clang-16", "clang-17", "clang-18", "clang-19", "clang"];

/// Compiles `bpf/NAME.bpf.c`, NAME being the crate's folder, to `OUT_DIR/skel.rs`.
///
/// Ends the build with a message when that fails. `CLANG` overrides the compiler.
pub fn skeleton() {
    if let Err(error) = build() {
        println!("cargo::error={error:#}");
        std::process::exit(1);
    }
}

/// Sets `RUSTC_VERSION` in the environment of the crate being built to the compiler's version.
///
/// Ends the build with a message when the compiler does not report it.
pub fn compiler_version() {
    let version =
        Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version").output();
    let text = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // rustc 1.95.0 (59807616e 2026-04-14)
    match text.split_whitespace().nth(1) {
        Some(version) => println!("cargo::rustc-env=RUSTC_VERSION={version}"),
        None => println!("cargo::error=rustc --version says {text:?}"),
    }
    println!("cargo::rerun-if-changed=build.rs");
}

/// Compiles the programs of folders `FOLDER` of the crate being built, which need no skeleton, into
/// `OUT_DIR/FOLDER/NAME.bpf.o`, and copies `NAME.yaml` beside them. Headers are those of `include`,
/// another folder of the crate.
///
/// `OUT_DIR/configs.rs` is then a table of them, for `include!`: `CONFIGS`, of pairs of `FOLDER/FILE`
/// and its bytes. Ends the build with a message when that fails.
pub fn configs(folders: &[&str], include: &str) {
    if let Err(error) = build_configs(folders, include) {
        println!("cargo::error={error:#}");
        std::process::exit(1);
    }
}

/// Compiles one file, with the flags of the exporters' own programs, and headers from the folders
/// `include`.
///
/// # Errors
/// When there is no clang, or it refuses the file.
pub fn object(source: &Path, object: &Path, include: &[&Path]) -> Result<()> {
    compile(source, object, include).map(drop)
}

fn build() -> Result<()> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let name = manifest.file_name().context("the crate has no folder name")?.to_string_lossy().into_owned();
    let bpf = manifest.join("../../bpf").canonicalize().context("no bpf/ folder")?;
    let source = bpf.join(format!("{name}.bpf.c"));
    watch(&source);
    watch_headers(&bpf)?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    // Types of the skeleton are named after the object, and Rust allows no dashes in names.
    let object = out.join(format!("{}.bpf.o", name.replace('-', "_")));
    let mut builder = compile(&source, &object, &[&bpf, &vmlinux(&bpf)?])?;
    without_lines(&object).with_context(|| format!("failed to shorten {}", object.display()))?;
    builder.generate(out.join("skel.rs")).with_context(|| format!("failed to generate {name}'s skeleton"))
}

fn build_configs(folders: &[&str], include: &str) -> Result<()> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let bpf = manifest.join("../../bpf").canonicalize().context("no bpf/ folder")?;
    let (include, vmlinux) = (manifest.join(include), vmlinux(&bpf)?);
    watch_headers(&include)?;
    let mut table = "/// Names and contents.\npub const CONFIGS: &[(&str, &[u8])] = &[\n".to_owned();
    for folder in folders {
        let (sources, results) = (manifest.join(folder), out.join(folder));
        watch(&sources);
        fs::create_dir_all(&results)?;
        for path in listed(&sources)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let result = if let Some(name) = name.strip_suffix(".bpf.c") {
                let result = results.join(format!("{name}.bpf.o"));
                object(&path, &result, &[&include, &vmlinux])?;
                result
            } else if name.ends_with(".yaml") {
                let result = results.join(&name);
                fs::copy(&path, &result)?;
                result
            } else {
                continue;
            };
            let shown = result.strip_prefix(&out)?.display().to_string();
            writeln!(table, "    ({shown:?}, include_bytes!({:?})),", result.display().to_string())?;
        }
    }
    table.push_str("];\n");
    fs::write(out.join("configs.rs"), table).context("failed to write configs.rs")
}

/// Compiles `source` to `object`.
fn compile(source: &Path, object: &Path, include: &[&Path]) -> Result<SkeletonBuilder> {
    println!("cargo::rerun-if-env-changed=CLANG");
    let limit = Rlimit { current: Some(CLANG_MEMORY_BYTES), maximum: Some(CLANG_MEMORY_BYTES) };
    setrlimit(Resource::As, limit).context("failed to cap the compiler's memory")?;
    let clang = clang()?;
    let include = include.iter().flat_map(|path| [OsString::from("-I"), path.into()]);
    // Debian keeps there what /usr/include/linux includes, which bpf/usdt.bpf.h needs.
    let arch = variable("CARGO_CFG_TARGET_ARCH")?.to_string_lossy().into_owned();
    let system = ["-idirafter".into(), format!("/usr/include/{arch}-linux-gnu").into()];
    let warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"].map(OsString::from);
    let mut builder = SkeletonBuilder::new();
    builder.source(source).obj(object).clang(&clang).clang_args(include.chain(system).chain(warnings));
    builder
        .build()
        .with_context(|| format!("failed to build {} with {}", source.display(), clang.display()))?;
    Ok(builder)
}

/// The folder of the kernel's types for the architecture that is built for.
fn vmlinux(bpf: &Path) -> Result<PathBuf> {
    let arch = variable("CARGO_CFG_TARGET_ARCH")?.to_string_lossy().into_owned();
    let vmlinux = bpf.join("vmlinux").join(&arch);
    if !vmlinux.is_dir() {
        bail!("no {}: make one with `cargo xtask vmlinux`", vmlinux.display());
    }
    watch(&vmlinux.join("vmlinux.h"));
    Ok(vmlinux)
}

/// The files of a folder, sorted.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no folder {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn watch_headers(folder: &Path) -> Result<()> {
    let headers = listed(folder)?.into_iter().filter(|path| path.to_string_lossy().ends_with(".bpf.h"));
    headers.for_each(|path| watch(&path));
    Ok(())
}

/// Removes the source lines and their numbers from an object. They are a quarter of it, and only the
/// verifier's log shows them. Every exporter contains its object, in its file and in memory.
fn without_lines(path: &Path) -> Result<()> {
    /// Offset of `line_info_len` in struct btf_ext_header (tools/lib/bpf/libbpf_internal.h).
    const LINES_BYTES: usize = 20;
    let mut bytes = fs::read(path)?;
    let range = {
        let file = object::File::parse(&*bytes).context("it is no ELF file")?;
        let section = file.section_by_name(".BTF.ext").context("it has no .BTF.ext")?;
        section.file_range().context(".BTF.ext is empty")?
    };
    let at = range.0 as usize + LINES_BYTES;
    bytes.get_mut(at..at + 4).context(".BTF.ext is too short")?.fill(0);
    // The linker leaves out strings that nothing refers to.
    let mut linker = Linker::new(path)?;
    linker.add_buf(&bytes)?;
    linker.link()?;
    Ok(())
}

fn variable(name: &str) -> Result<OsString> {
    env::var_os(name).with_context(|| format!("{name} is not set: run by cargo only"))
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn clang() -> Result<PathBuf> {
    if let Some(clang) = env::var_os("CLANG") {
        return Ok(clang.into());
    }
    CLANGS
        .iter()
        .find(|clang| Command::new(clang).arg("--version").output().is_ok_and(|o| o.status.success()))
        .map(PathBuf::from)
        .context("no clang found: `apt-get install clang-14`, or set CLANG")
}
