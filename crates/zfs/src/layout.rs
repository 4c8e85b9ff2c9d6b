// SPDX-License-Identifier: MIT OR Apache-2.0
//! Struct layout of this machine's ZFS module: from the module's BTF, from a file of the user, or
//! from a table for known versions of ZFS and the kernel.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use common::kernel::offsets::{Layout, Offsets, Table};
use common::kernel::types::{KERNEL_BTF, Types};

/// The kernel module's name.
pub const MODULE: &str = "zfs";

const VERSION: &str = "/sys/module/zfs/version";

/// Layouts of Debian's modules, which have no BTF.
const TABLES: &[&str] = &[include_str!("../layouts/2.0.3.txt"), include_str!("../layouts/2.1.11.txt")];

/// The best layout available.
///
/// # Errors
/// When no layout fits this module and kernel, or `file` is not a layout. Says what to do.
pub fn of_this_machine(file: Option<&Path>) -> Result<Layout> {
    if let (None, Some(btf)) = (file, Layout::btf(MODULE)) {
        return Ok(btf);
    }
    let version = fs::read_to_string(VERSION).with_context(|| format!("failed to read {VERSION}"))?;
    let kernel = Types::read(Path::new(KERNEL_BTF), None)?;
    let table = match file {
        Some(path) => {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("--zfs.layout: failed to read {}", path.display()))?;
            let table = Table::parse(&text).with_context(|| format!("--zfs.layout {}", path.display()))?;
            choose([table], &version, &kernel)
        }
        None => {
            let tables: Vec<Table> = TABLES.iter().map(|text| Table::parse(text)).collect::<Result<_>>()?;
            choose(tables, &version, &kernel)
        }
    };
    Ok(Layout::Table(table?))
}

/// Whether this ZFS has direct I/O, which came in 2.3.
pub fn has_direct_io(offsets: &Offsets<'_>) -> bool {
    match offsets {
        Offsets::Types(types) => types.has_function("dmu_write_direct"),
        Offsets::Table(table) => {
            let mut numbers = table.version.split('.').map_while(|number| number.parse().ok());
            (numbers.next(), numbers.next()) >= (Some(2), Some(3))
        }
    }
}

/// The upstream part of a ZFS version, without the distribution's suffix.
fn upstream(version: &str) -> &str {
    version.trim().split('-').next().unwrap_or_default()
}

/// The table for this version, if it fits this kernel.
fn choose(tables: impl IntoIterator<Item = Table>, version: &str, kernel: &Types) -> Result<Table> {
    let version = upstream(version);
    let mut known = Vec::new();
    for table in tables {
        if table.version == version {
            if let Some(why) = table.misfit(kernel) {
                bail!(
                    "the layout of ZFS {version} {why}: print one for this module with `cargo xtask \
                     zfs-layout` and pass it with --zfs.layout"
                );
            }
            return Ok(table);
        }
        known.push(table.version);
    }
    bail!(
        "ZFS {version} has no BTF and its layout is not known (known: {}): print one for this module with \
         `cargo xtask zfs-layout` and pass it with --zfs.layout",
        known.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_tables_are_whole() {
        for text in TABLES {
            let table = Table::parse(text).expect("a table");
            assert!(!has_direct_io(&Offsets::Table(&table)));
            assert!(text.contains("\nsize mutex ") && text.contains("\nsize rw_semaphore "));
            assert!(Offsets::Table(&table).offset("zio", "io_type").is_some(), "{}", table.version);
        }
    }

    #[test]
    fn a_table_is_for_one_version() {
        let kernel = Types::read(Path::new(KERNEL_BTF), None).expect("this kernel's BTF");
        let table = || Table::parse("version 2.1.11\nzio.io_type 112\n").expect("a table");
        choose([table()], "2.1.11-1+deb12u1\n", &kernel).expect("it fits");
        let other = choose([table()], "2.1.12", &kernel).expect_err("another ZFS");
        assert!(other.to_string().contains("--zfs.layout"), "{other}");
        let small = Table::parse("version 2.1.11\nsize mutex 1\nzio.io_type 112\n").expect("a table");
        let other = choose([small], "2.1.11", &kernel).expect_err("another kernel");
        assert!(other.to_string().contains("struct mutex"), "{other}");
    }
}
