// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types of the kernel and of one of its modules, from BTF: structs, their members, and the
//! arguments and results of functions.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::kernel::btf::{Btf, Files, kind};
use crate::spec::Shape;
use crate::words::counted;

/// The kernel's own BTF. Without it the kernel accepts neither tp_btf nor fentry programs.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Path of a module's BTF, if it has any (36e68442d1af "bpf: Load and verify kernel module BTFs",
/// 5.11).
pub fn module_btf(module: &str) -> PathBuf {
    Path::new("/sys/kernel/btf").join(module)
}

/// Arguments and result of a function or tracepoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prototype {
    /// For each argument the struct that it points to; empty for anything else.
    pub arguments: Vec<String>,
    /// Whether it returns a value.
    pub returns: bool,
}

impl Prototype {
    /// A shape with this number of arguments and nothing else known.
    pub fn of(arguments: usize) -> Self {
        Self { arguments: vec![String::new(); arguments], returns: true }
    }

    /// Why the prototype does not have that shape. None if it has.
    pub fn misses(&self, shape: &Shape) -> Option<String> {
        match shape {
            Shape::Arguments(n) if self.arguments.len() != *n => {
                Some(format!("has {}, not {n}", counted(self.arguments.len(), "argument")))
            }
            Shape::Returns(true) if !self.returns => Some("returns nothing".to_owned()),
            Shape::Returns(false) if self.returns => Some("returns something".to_owned()),
            Shape::First(wanted) if self.arguments.first().is_none_or(|first| first != wanted) => {
                let first = self.arguments.first().map_or("", String::as_str);
                Some(format!("takes a struct {first}, not a struct {wanted}"))
            }
            _ => None,
        }
    }
}

/// The types of the kernel, or of the kernel and one module.
#[derive(Debug)]
pub struct Types(Files);

impl Types {
    /// Reads the kernel's types from the BTF file `kernel`, and a module's types from the BTF file
    /// `module` if it is given.
    ///
    /// # Errors
    /// When a file cannot be read as BTF.
    pub fn read(kernel: &Path, module: Option<&Path>) -> Result<Self> {
        let read = |path: &Path, base| {
            Btf::read(path, base).with_context(|| format!("failed to read BTF from {}", path.display()))
        };
        let kernel = read(kernel, None)?;
        let module = module.map(|path| read(path, Some(&kernel))).transpose()?;
        Ok(Self(Files { kernel, module }))
    }

    /// Bytes from the start of struct `name` to its `member`.
    pub fn offset(&self, name: &str, member: &str) -> Option<u32> {
        let found = self.0.find(kind::STRUCT, name)?;
        let member = found.parts().find(|part| self.0.is(part.name, member))?;
        let bits = if found.flag { member.third & 0xff_ffff } else { member.third };
        Some(bits / 8)
    }

    /// Bytes of struct `name`.
    pub fn size(&self, name: &str) -> Option<u32> {
        Some(self.0.find(kind::STRUCT, name)?.of)
    }

    /// Whether there is a function of that name.
    pub fn has_function(&self, name: &str) -> bool {
        self.0.find(kind::FUNC, name).is_some()
    }

    /// Arguments and result of function `name`, without type names.
    pub fn prototype(&self, name: &str) -> Option<Prototype> {
        let function = self.0.find(kind::FUNC, name)?;
        let proto = self.0.get(function.of)?;
        let arguments = vec![String::new(); proto.parts().count()];
        // Type 0 is void.
        Some(Prototype { arguments, returns: proto.of != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernels_types_have_places() {
        let types = Types::read(Path::new(KERNEL_BTF), None).expect("the kernel's BTF");
        assert_eq!(types.offset("list_head", "prev"), Some(8));
        assert_eq!(types.size("list_head"), Some(16));
        assert_eq!(types.offset("list_head", "no_such"), None);
        assert_eq!(types.size("no_such_struct"), None);
    }
}
