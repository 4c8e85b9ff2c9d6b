// SPDX-License-Identifier: MIT OR Apache-2.0
//! Offsets of members in the structs of a module that may have no BTF.
//!
//! libbpf could relocate accesses itself. But for a module's types it asks the kernel for the BTF
//! of all modules, which takes CAP_SYS_ADMIN, and not every module has BTF. So a program declares
//! the members that it needs as read-only variables (`bpf/offsets.bpf.h`), and [`set_offsets`]
//! fills them in from BTF or from a table.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use libbpf_rs::OpenObject;

use crate::kernel::globals;
use crate::kernel::types::{KERNEL_BTF, Types, module_btf};

/// The value of an unknown offset.
pub const NO_OFFSET: u32 = u32::MAX;

/// A layout as text: lines `version V`, `size STRUCT BYTES` for kernel structs that are embedded in
/// the module's, and `STRUCT.MEMBER OFFSET`. `#` starts a comment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Version of the module, or of the kernel that it comes with.
    pub version: String,
    sizes: BTreeMap<String, u32>,
    offsets: BTreeMap<String, u32>,
}

/// Source of the offsets of a module's members.
#[derive(Debug)]
pub enum Layout {
    /// The BTF of the named module: read again each time, because it takes 10 MB of memory.
    Btf(&'static str),
    /// A table.
    Table(Table),
}

impl Layout {
    /// The module's BTF, if it has any.
    pub fn btf(module: &'static str) -> Option<Self> {
        module_btf(module).exists().then_some(Self::Btf(module))
    }

    /// Opens the offsets.
    ///
    /// # Errors
    /// When BTF cannot be read.
    pub fn open(&self) -> Result<Offsets<'_>> {
        Ok(match self {
            Self::Btf(module) => {
                Offsets::Types(Types::read(Path::new(KERNEL_BTF), Some(&module_btf(module)))?)
            }
            Self::Table(table) => Offsets::Table(table),
        })
    }
}

/// Offsets of members.
#[derive(Debug)]
pub enum Offsets<'t> {
    /// In BTF: 10 MB of memory while this lives.
    Types(Types),
    /// In a table.
    Table(&'t Table),
}

impl Offsets<'_> {
    /// Bytes from the start of a struct to a member.
    pub fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        match self {
            Self::Types(types) => types.offset(structure, member),
            Self::Table(table) => table.offsets.get(&format!("{structure}.{member}")).copied(),
        }
    }
}

impl Table {
    /// Parses a layout.
    ///
    /// # Errors
    /// When a line is invalid: the error names the first one. When there is no version or no member.
    pub fn parse(text: &str) -> Result<Self> {
        let mut table = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = || format!("line {}: {line:?}", number + 1);
            match *words.as_slice() {
                [] => {}
                ["version", version] => version.clone_into(&mut table.version),
                ["size", structure, bytes] => {
                    table.sizes.insert(structure.to_owned(), bytes.parse().with_context(at)?);
                }
                [member, offset] if member.contains('.') => {
                    table.offsets.insert(member.to_owned(), offset.parse().with_context(at)?);
                }
                _ => bail!("{} is neither a version, a size nor a member", at()),
            }
        }
        if table.version.is_empty() || table.offsets.is_empty() {
            bail!("it has no version or no members");
        }
        Ok(table)
    }

    /// Why the table does not fit this kernel: names a struct of another size. None if it fits.
    pub fn misfit(&self, kernel: &Types) -> Option<String> {
        self.sizes.iter().find_map(|(structure, bytes)| {
            let here = kernel.size(structure);
            let has = here.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string());
            (here != Some(*bytes)).then(|| {
                format!("is for a kernel whose struct {structure} has {bytes} bytes; here it has {has}")
            })
        })
    }
}

/// A member whose offset a program requests: `offset__STRUCT__MEMBER`.
fn wanted(variable: &str) -> Option<(&str, &str)> {
    variable.strip_prefix("offset__")?.split_once("__")
}

/// Sets each variable of `object` that requests an offset.
///
/// # Errors
/// When the object has no BTF or its variables are not 32 bits wide.
pub fn set_offsets(object: &mut OpenObject, find: impl Fn(&str, &str) -> Option<u32>) -> Result<()> {
    let variables = globals::variables(object)?.context("the object has no BTF: build it with clang -g")?;
    for variable in variables.iter().filter(|variable| variable.section == ".rodata") {
        if let Some((structure, member)) = wanted(&variable.name) {
            let offset = find(structure, member).unwrap_or(NO_OFFSET);
            globals::set_variable(object, variable, &offset.to_ne_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_name_struct_and_member() {
        assert_eq!(wanted("offset__zio__io_type"), Some(("zio", "io_type")));
        assert_eq!(wanted("offset__arc_buf_hdr__b_l1hdr"), Some(("arc_buf_hdr", "b_l1hdr")));
        assert_eq!(wanted("zfs_settings"), None);
    }

    #[test]
    fn a_table_is_for_one_shape_of_kernel() {
        let kernel = Types::read(Path::new(KERNEL_BTF), None).expect("this kernel's BTF");
        let mutex = kernel.size("mutex").expect("struct mutex");
        let table = |mutex: u32| {
            let text = format!("version 2.1.11 # upstream\nsize mutex {mutex}\nzio.io_type 112\n");
            Table::parse(&text).expect("a table")
        };
        assert_eq!(table(mutex).misfit(&kernel), None);
        assert_eq!(Offsets::Table(&table(mutex)).offset("zio", "io_type"), Some(112));
        assert_eq!(Offsets::Table(&table(mutex)).offset("zio", "io_other"), None);
        let why = table(mutex + 8).misfit(&kernel).expect("another kernel");
        assert!(why.contains("struct mutex"), "{why}");
    }

    #[test]
    fn what_is_no_layout_is_refused_with_its_line() {
        let error = Table::parse("version 2.2\nzio.io_type much\n").expect_err("no number");
        assert!(format!("{error:#}").starts_with("line 2: \"zio.io_type much\""), "{error:#}");
        assert!(Table::parse("").is_err());
        assert!(Table::parse("version 2.2\nwhat is this\n").is_err());
    }
}
