// SPDX-License-Identifier: MIT OR Apache-2.0
//! Offsets of members in structs of the kernel or of one of its modules.
//!
//! libbpf could relocate accesses itself. But for a module's types it asks the kernel for the BTF
//! of all modules, which takes CAP_SYS_ADMIN, and not every module has BTF. So a program declares
//! the members that it needs as read-only variables (`bpf/offsets.bpf.h`), and [`set_offsets`]
//! fills them in from any known source.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use anyhow::{Context, Result};
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{DataSec, Var};
use libbpf_rs::{AsRawLibbpf, OpenObject};

use crate::kernel::Prototype;

/// The value of an unknown offset.
pub const NO_OFFSET: u32 = u32::MAX;

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

    /// A type of the module, else of the kernel. In this order, because most requested types are
    /// the module's, and the kernel has a hundred thousand.
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
    /// Of the kernel whose BTF is at `kernel`, and of `module` at `folder/module` where
    /// that exists.
    ///
    /// # Errors
    /// When a file is no BTF.
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

    /// A module's BTF finds the kernel's types as well.
    fn newest(&self) -> &Raw {
        self.module.as_ref().unwrap_or(&self.kernel)
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
    let mut places = Vec::new();
    {
        // SAFETY: the pointer is that of a live object, borrowed for as long as `btf` lives.
        let raw = unsafe { object.as_libbpf_object().as_ref() };
        let btf = Btf::from_bpf_object(raw)
            .context("failed to read the object's BTF")?
            .context("the object has no BTF: build it with clang -g")?;
        let section: DataSec<'_> = btf.type_by_name(".rodata").context("the object has no .rodata")?;
        for place in section.iter() {
            let variable: Var<'_> = btf.type_by_id(place.ty).context("a variable is missing in BTF")?;
            let name = variable.name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some((structure, member)) = wanted(&name) {
                let offset = find(structure, member).unwrap_or(NO_OFFSET);
                places.push((place.offset as usize, offset));
            }
        }
    }
    let mut map = object
        .maps_mut()
        .find(|map| map.name().as_bytes().ends_with(b".rodata"))
        .context("the object has no map for .rodata")?;
    let bytes = map.initial_value_mut().context(".rodata has no contents")?;
    for (place, offset) in places {
        let word = bytes.get_mut(place..place + 4).context(".rodata is too short")?;
        word.copy_from_slice(&offset.to_ne_bytes());
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
    fn this_kernels_types_have_places() {
        let types = Types::read(Path::new(crate::kernel::KERNEL_BTF), None).expect("the kernel's BTF");
        assert_eq!(types.offset("list_head", "prev"), Some(8));
        assert_eq!(types.size("list_head"), Some(16));
        assert_eq!(types.offset("list_head", "no_such"), None);
        assert_eq!(types.size("no_such_struct"), None);
    }
}
