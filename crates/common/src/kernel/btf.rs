// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types in BTF files, read in place. libbpf copies a file and checks each of its types, of which a kernel
//! has a hundred thousand: most of the time that an exporter takes to start.

use std::ffi::{CStr, CString};
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use anyhow::{Context, Result, bail};

/// The first two bytes of raw BTF, as a number of this machine.
const MAGIC: u16 = 0xeb9f;

/// Bytes before what depends on the kind of a type.
const TYPE: usize = 12;

/// Kinds of types (include/uapi/linux/btf.h).
pub mod kind {
    #![expect(missing_docs, reason = "the kernel's names")]
    pub const PTR: u32 = 2;
    pub const STRUCT: u32 = 4;
    pub const ENUM: u32 = 6;
    pub const FWD: u32 = 7;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const RESTRICT: u32 = 11;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const TYPE_TAG: u32 = 18;
    pub const ENUM64: u32 = 19;
}

/// How many modifiers and typedefs are followed, as in libbpf: a damaged file may have a circle.
const DEEPEST: u32 = 32;

/// The types of a file, which may continue those of another one.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    /// Where the strings are.
    strings: Range<usize>,
    /// Where each type is.
    types: Vec<u32>,
    /// Id of the first of them.
    first: u32,
    /// Offset of the first string.
    first_string: u32,
}

/// A type.
#[derive(Clone, Copy, Debug)]
pub struct Type<'b> {
    /// One of [`kind`].
    pub kind: u32,
    /// Whether offsets of members have sizes of bit fields in their upper byte, or values have signs.
    pub flag: bool,
    /// Offset of its name.
    pub name: u32,
    /// Its size, or the type that it refers to.
    pub of: u32,
    /// Members, parameters or values.
    rest: &'b [u8],
}

/// A member of a struct, a parameter or a value.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Offset of its name.
    pub name: u32,
    /// What comes after the name: the type of a member or parameter, the lower half of a value.
    pub second: u32,
    /// Offset of a member, the upper half of a 64-bit value.
    pub third: u32,
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Bytes of each part of a type, and whether there are as many as the type says. Otherwise there is one,
/// which may be empty.
fn parts(kind: u32) -> Option<(usize, bool)> {
    Some(match kind {
        kind::PTR | kind::FWD..=kind::FUNC | 16 | kind::TYPE_TAG => (0, false),
        // INT, VAR, DECL_TAG.
        1 | 14 | 17 => (4, false),
        // ARRAY.
        3 => (12, false),
        kind::ENUM | kind::FUNC_PROTO => (8, true),
        // UNION and DATASEC beside these.
        kind::STRUCT | 5 | 15 | kind::ENUM64 => (12, true),
        _ => return None,
    })
}

impl Btf {
    /// Reads a file, raw BTF or ELF. `base` is what it continues: the kernel's for that of a module.
    ///
    /// # Errors
    /// When it cannot be read, or is no BTF.
    pub fn read(path: &Path, base: Option<&Self>) -> Result<Self> {
        let bytes = fs::read(path)?;
        let is_raw = bytes.first_chunk().is_some_and(|magic| u16::from_ne_bytes(*magic) == MAGIC);
        Self::parse(if is_raw { bytes } else { raw_of(path)? }, base)
    }

    fn parse(bytes: Vec<u8>, base: Option<&Self>) -> Result<Self> {
        let header = |at| number(&bytes, at).map(|number| number as usize).context("it is too short");
        let start = header(4)?;
        let section = |offset: usize, length: usize| -> Result<Range<usize>> {
            let begin = start + header(offset)?;
            let range = begin..begin + header(length)?;
            bytes.get(range.clone()).context("it is too short").map(|_| range)
        };
        let (types, strings) = (section(8, 12)?, section(16, 20)?);
        // Most types are of 12 to 36 bytes.
        let mut places = Vec::with_capacity(types.len() / 24);
        let mut at = types.start;
        while at < types.end {
            let info = number(&bytes, at + 4).context("it is too short")?;
            let (kind, count) = (info >> 24 & 0x1f, info as usize & 0xffff);
            let (size, many) = parts(kind).with_context(|| format!("types of kind {kind} are not known"))?;
            places.push(u32::try_from(at)?);
            at += TYPE + size * if many { count } else { 1 };
        }
        if at != types.end {
            bail!("its last type is too long");
        }
        let (first, first_string) = base.map_or((1, 0), |base| {
            (base.first + base.types.len() as u32, base.first_string + base.strings.len() as u32)
        });
        Ok(Self { bytes, strings, types: places, first, first_string })
    }

    /// All types of this file.
    pub fn all(&self) -> impl Iterator<Item = Type<'_>> {
        self.types.iter().filter_map(|at| self.at(*at as usize))
    }

    fn at(&self, at: usize) -> Option<Type<'_>> {
        let info = number(&self.bytes, at + 4)?;
        let (kind, count) = (info >> 24 & 0x1f, info as usize & 0xffff);
        let (size, many) = parts(kind)?;
        let rest = at + TYPE..at + TYPE + size * if many { count } else { 1 };
        Some(Type {
            kind,
            flag: info >> 31 == 1,
            name: number(&self.bytes, at)?,
            of: number(&self.bytes, at + 8)?,
            rest: self.bytes.get(rest)?,
        })
    }

    /// The type with an id, if it is in this file.
    fn get(&self, id: u32) -> Option<Type<'_>> {
        self.at(*self.types.get(id.checked_sub(self.first)? as usize)? as usize)
    }

    /// The string at an offset and what follows it, if it is in this file.
    fn text(&self, offset: u32) -> Option<&[u8]> {
        self.bytes[self.strings.clone()].get(offset.checked_sub(self.first_string)? as usize..)
    }
}

impl Type<'_> {
    /// Members, parameters or values.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let size = parts(self.kind).map_or(0, |(size, _)| size).max(8);
        self.rest.chunks_exact(size).filter_map(|part| {
            Some(Part {
                name: number(part, 0)?,
                second: number(part, 4)?,
                third: number(part, 8).unwrap_or_default(),
            })
        })
    }
}

/// The raw BTF in a file of another format.
fn raw_of(path: &Path) -> Result<Vec<u8>> {
    let name = CString::new(path.as_os_str().as_bytes()).context("the path contains a NUL byte")?;
    // SAFETY: the name outlives the call.
    let parsed = unsafe { libbpf_sys::btf__parse(name.as_ptr(), std::ptr::null_mut()) };
    let parsed = NonNull::new(parsed).ok_or_else(std::io::Error::last_os_error)?;
    let mut length = 0;
    // SAFETY: what is returned has that length and lives until it is freed here.
    unsafe {
        let raw = libbpf_sys::btf__raw_data(parsed.as_ptr(), &raw mut length).cast::<u8>();
        let bytes = NonNull::new(raw.cast_mut())
            .map(|raw| std::slice::from_raw_parts(raw.as_ptr(), length as usize).to_vec());
        libbpf_sys::btf__free(parsed.as_ptr());
        bytes.context("it has no BTF of this machine's kind")
    }
}

/// The types of a kernel, and of one of its modules.
#[derive(Debug)]
pub struct Files {
    /// The kernel's.
    pub kernel: Btf,
    /// A module's, which continue them.
    pub module: Option<Btf>,
}

impl Files {
    /// That of a module is searched first: most requested types are in it, and the kernel has a hundred
    /// thousand.
    fn newest_first(&self) -> impl Iterator<Item = &Btf> {
        self.module.iter().chain([&self.kernel])
    }

    /// The type with an id. None for that of `void`, which is 0.
    pub fn get(&self, id: u32) -> Option<Type<'_>> {
        self.newest_first().find_map(|file| file.get(id))
    }

    /// A name.
    pub fn name(&self, offset: u32) -> &[u8] {
        CStr::from_bytes_until_nul(self.text(offset)).unwrap_or_default().to_bytes()
    }

    /// Whether the name at an offset begins with `start`.
    pub fn begins(&self, offset: u32, start: &str) -> bool {
        self.text(offset).starts_with(start.as_bytes())
    }

    /// Whether the name at an offset is `name`.
    pub fn is(&self, offset: u32, name: &str) -> bool {
        self.text(offset).strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn text(&self, offset: u32) -> &[u8] {
        self.newest_first().find_map(|file| file.text(offset)).unwrap_or_default()
    }

    /// The first type of a kind and name.
    pub fn find(&self, wanted: u32, name: &str) -> Option<Type<'_>> {
        let is_it = |ty: &Type<'_>| ty.kind == wanted && self.is(ty.name, name);
        self.newest_first().find_map(|file| file.all().find(is_it))
    }

    /// What is behind modifiers and typedefs; None for `void`.
    pub fn resolved(&self, id: u32) -> Option<Type<'_>> {
        let mut found = self.get(id)?;
        for _ in 0..DEEPEST {
            match found.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    found = self.get(found.of)?;
                }
                _ => return Some(found),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

    #[test]
    fn types_and_names_are_those_that_libbpf_finds() {
        let kernel = Btf::read(Path::new(KERNEL_BTF), None).expect("this kernel's BTF");
        let files = Files { kernel, module: None };
        let path = CString::new(KERNEL_BTF).expect("no NUL");
        // SAFETY: the path outlives the call; what comes back is freed below.
        let theirs = unsafe { libbpf_sys::btf__parse(path.as_ptr(), std::ptr::null_mut()) };
        assert!(!theirs.is_null());
        // SAFETY: `theirs` lives until the end of the test, and so do its types and names.
        unsafe {
            let count = libbpf_sys::btf__type_cnt(theirs);
            assert_eq!(files.kernel.all().count() as u32, count - 1);
            for id in 1..count {
                let (ours, their) =
                    (files.get(id).expect("a type"), &*libbpf_sys::btf__type_by_id(theirs, id));
                let name = CStr::from_ptr(libbpf_sys::btf__name_by_offset(theirs, their.name_off));
                assert_eq!((ours.kind, ours.flag), (their.info >> 24 & 0x1f, their.info >> 31 == 1), "{id}");
                assert_eq!(
                    (ours.of, files.name(ours.name)),
                    (their.__bindgen_anon_1.size, name.to_bytes()),
                    "{id}"
                );
                if matches!(ours.kind, kind::STRUCT | kind::ENUM | kind::FUNC_PROTO | kind::ENUM64) {
                    assert_eq!(ours.parts().count() as u32, their.info & 0xffff, "{id}");
                }
            }
            assert!(files.get(0).is_none() && files.get(count).is_none());
            libbpf_sys::btf__free(theirs);
        }
    }

    /// Raw BTF of these types, each with its name, and the offset of the first name.
    fn raw(types: &[(&str, &[u32])], first_name: u32) -> Vec<u8> {
        let (mut strings, mut words) = (vec![0], Vec::new());
        for (name, rest) in types {
            words.push(first_name + strings.len() as u32);
            words.extend(*rest);
            strings.extend(name.bytes().chain([0]));
        }
        let length = words.len() as u32 * 4;
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, length, length, strings.len() as u32];
        let words = header.into_iter().chain(words).flat_map(u32::to_ne_bytes);
        words.chain(strings).collect()
    }

    #[test]
    fn a_module_continues_types_and_names_of_the_kernel() {
        let kernel = raw(&[("int", &[1 << 24, 4, 32])], 0);
        let kernel = Btf::parse(kernel, None).expect("the kernel's");
        // struct pair { int int; } and a typedef of it; a member's name is one of the kernel's.
        let types: [(&str, &[u32]); 2] =
            [("pair", &[kind::STRUCT << 24 | 1, 4, 1, 1, 64]), ("alias", &[kind::TYPEDEF << 24, 2])];
        let module = Btf::parse(raw(&types, kernel.strings.len() as u32), Some(&kernel)).expect("a module's");
        let files = Files { kernel, module: Some(module) };
        let pair = files.find(kind::STRUCT, "pair").expect("it is there");
        let member = pair.parts().next().expect("one");
        assert_eq!((files.name(member.name), member.third), (&b"int"[..], 64));
        assert_eq!(files.get(member.second).map(|ty| ty.kind), Some(1));
        assert_eq!(files.resolved(3).map(|ty| ty.kind), Some(kind::STRUCT));
        assert!(files.find(kind::STRUCT, "pai").is_none() && files.find(kind::STRUCT, "pairs").is_none());
    }

    #[test]
    fn what_is_damaged_is_refused_or_harmless() {
        let types: [(&str, &[u32]); 2] =
            [("pair", &[kind::STRUCT << 24 | 1, 4, 1, 9, 64]), ("circle", &[kind::TYPEDEF << 24, 2])];
        let whole = raw(&types, 0);
        let files = Files { kernel: Btf::parse(whole.clone(), None).expect("whole"), module: None };
        assert!(files.resolved(2).is_none() && files.resolved(9).is_none());
        for length in 0..whole.len() {
            assert!(Btf::parse(whole[..length].to_vec(), None).is_err(), "{length} bytes");
        }
        let unknown = raw(&[("new", &[31 << 24, 0])], 0);
        let error = Btf::parse(unknown, None).expect_err("of no known kind");
        assert!(error.to_string().contains("kind 31"), "{error}");
    }
}
