// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask zfs-layout MODULE`: prints the offsets in a ZFS module of the members that our
//! programs read, for `--zfs.layout` or for a new file in `crates/zfs/layouts`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use common::kernel::types::Types;

use crate::workspace::{files, output, root, run};

/// Kernel structs that ZFS's structs embed. Their sizes tell kernel configurations apart.
const EMBEDDED: &[&str] = &["mutex", "rw_semaphore"];

/// Prints the layout of `module`, which must have debug information (DWARF or BTF).
///
/// # Errors
/// When pahole (package dwarves) or modinfo fails, or no member is found.
pub fn print(module: &Path) -> Result<()> {
    let folder = root().join("target/zfs-layout");
    fs::create_dir_all(&folder)?;
    let btf = folder.join("btf");
    let mut pahole = Command::new("pahole");
    run(pahole.arg(format!("--btf_encode_detached={}", btf.display())).arg(module))
        .context("pahole makes BTF of debug information; it is in Debian's package dwarves")?;
    let version = output(Command::new("modinfo").args(["-F", "version"]).arg(module))?;
    let types = Types::read(&btf, None)?;
    println!("version {}", version.trim().split('-').next().unwrap_or_default());
    for name in EMBEDDED {
        let size = types.size(name).with_context(|| format!("no struct {name} in the module"))?;
        println!("size {name} {size}");
    }
    let mut found = 0;
    for (structure, member) in members()? {
        if let Some(offset) = types.offset(&structure, &member) {
            println!("{structure}.{member} {offset}");
            found += 1;
        }
    }
    if found == 0 {
        bail!("{}: none of the members; is this zfs.ko, with debug information?", module.display());
    }
    Ok(())
}

/// The members that our programs name: `MEMBER(struct, member);`.
fn members() -> Result<BTreeSet<(String, String)>> {
    let mut members = BTreeSet::new();
    for path in files("bpf", ".bpf.c")? {
        for line in fs::read_to_string(&path)?.lines() {
            let inner = line.strip_prefix("MEMBER(").and_then(|rest| rest.strip_suffix(");"));
            if let Some((structure, member)) = inner.and_then(|inner| inner.split_once(", ")) {
                members.insert((structure.to_owned(), member.to_owned()));
            }
        }
    }
    Ok(members)
}
