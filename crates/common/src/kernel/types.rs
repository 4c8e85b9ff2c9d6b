// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types of the kernel and of one of its modules, from BTF: structs, their members, and the
//! arguments and results of functions.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use anyhow::{Context, Result};

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
pub struct Types {
    /// The module's BTF must be freed first.
    module: Option<Raw>,
    kernel: Raw,
}

#[derive(Debug)]
struct Raw(NonNull<libbpf_sys::btf>);

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: it came from btf__parse, and nobody else frees it.
        unsafe { libbpf_sys::btf__free(self.0.as_ptr()) }
    }
}

impl Raw {
    fn parse(path: &Path, base: Option<&Self>) -> Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes()).context("the path contains a NUL byte")?;
        let base = base.map_or(std::ptr::null_mut(), |base| base.0.as_ptr());
        // SAFETY: both pointers are valid for the call; the base outlives what is made of it.
        let raw = unsafe { libbpf_sys::btf__parse_split(name.as_ptr(), base) };
        let raw = NonNull::new(raw).ok_or_else(std::io::Error::last_os_error);
        Ok(Self(raw.with_context(|| format!("failed to read BTF from {}", path.display()))?))
    }

    /// A type of the module, else of the kernel. The module is searched first, because most requested
    /// types are in it, and the kernel has a hundred thousand types.
    fn find(&self, name: &str, kind: u32) -> Option<NonNull<libbpf_sys::btf_type>> {
        // SAFETY: the BTF lives as long as `self`, and so do its names; the kernel's types are
        // never changed.
        unsafe {
            let raw = self.0.as_ptr();
            let base = libbpf_sys::btf__base_btf(raw);
            let own = if base.is_null() { 1 } else { libbpf_sys::btf__type_cnt(base) };
            (own..libbpf_sys::btf__type_cnt(raw)).chain(1..own).find_map(|id| {
                let found = NonNull::new(libbpf_sys::btf__type_by_id(raw, id).cast_mut())?;
                let text = libbpf_sys::btf__name_by_offset(raw, found.as_ref().name_off);
                let is_it = found.as_ref().info >> 24 & 0x1f == kind
                    && !text.is_null()
                    && CStr::from_ptr(text).to_bytes() == name.as_bytes();
                is_it.then_some(found)
            })
        }
    }

    /// Bytes from the start of struct `name` to `member`.
    fn offset(&self, name: &str, member: &str) -> Option<u32> {
        let found = self.find(name, libbpf_sys::BTF_KIND_STRUCT)?;
        // SAFETY: the members of a struct follow its type, as many as `info` says in its
        // lower half; names are strings of the same BTF.
        unsafe {
            let info = found.as_ref().info;
            let (count, has_bit_fields) = (info & 0xffff, info >> 31 == 1);
            let first = found.as_ptr().add(1).cast::<libbpf_sys::btf_member>();
            for index in 0..count as usize {
                let candidate = first.add(index).read_unaligned();
                let text = libbpf_sys::btf__name_by_offset(self.0.as_ptr(), candidate.name_off);
                if !text.is_null() && CStr::from_ptr(text).to_bytes() == member.as_bytes() {
                    let bits = if has_bit_fields { candidate.offset & 0xff_ffff } else { candidate.offset };
                    return Some(bits / 8);
                }
            }
        }
        None
    }

    fn size(&self, name: &str) -> Option<u32> {
        let found = self.find(name, libbpf_sys::BTF_KIND_STRUCT)?;
        // SAFETY: a struct's type has its size there.
        Some(unsafe { found.as_ref().__bindgen_anon_1.size })
    }
}

impl Types {
    /// Reads the kernel's types from the BTF file `kernel`, and a module's types from the BTF file
    /// `module` if it is given.
    ///
    /// # Errors
    /// When a file cannot be read as BTF.
    pub fn read(kernel: &Path, module: Option<&Path>) -> Result<Self> {
        let kernel = Raw::parse(kernel, None)?;
        let module = module.map(|path| Raw::parse(path, Some(&kernel))).transpose()?;
        Ok(Self { module, kernel })
    }

    /// Bytes from the start of struct `name` to its `member`.
    pub fn offset(&self, name: &str, member: &str) -> Option<u32> {
        self.newest().offset(name, member)
    }

    /// Bytes of struct `name`.
    pub fn size(&self, name: &str) -> Option<u32> {
        self.newest().size(name)
    }

    /// Whether there is a function of that name.
    pub fn has_function(&self, name: &str) -> bool {
        self.newest().find(name, libbpf_sys::BTF_KIND_FUNC).is_some()
    }

    /// Arguments and result of function `name`, without type names.
    pub fn prototype(&self, name: &str) -> Option<Prototype> {
        let raw = self.newest();
        let function = raw.find(name, libbpf_sys::BTF_KIND_FUNC)?;
        // SAFETY: a function's type is its prototype, whose `info` says in its lower half how
        // many arguments it has; type 0 is void.
        unsafe {
            let id = function.as_ref().__bindgen_anon_1.type_;
            let proto = NonNull::new(libbpf_sys::btf__type_by_id(raw.0.as_ptr(), id).cast_mut())?;
            let arguments = proto.as_ref().info & 0xffff;
            let returns = proto.as_ref().__bindgen_anon_1.type_ != 0;
            Some(Prototype { arguments: vec![String::new(); arguments as usize], returns })
        }
    }

    /// The BTF to search. That of a module includes the kernel's types.
    fn newest(&self) -> &Raw {
        self.module.as_ref().unwrap_or(&self.kernel)
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
