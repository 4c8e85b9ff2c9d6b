// SPDX-License-Identifier: MIT OR Apache-2.0
//! Offsets of members in the keys and values of an object's maps, from the object's BTF.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use libbpf_rs::btf::types::{Array, Enum, Int, IntEncoding, MemberAttr, Struct};
use libbpf_rs::btf::{Btf, BtfKind, BtfType, TypeId};
use libbpf_rs::{AsRawLibbpf, HasSize, MapCore, Object, OpenObject};

/// Layouts of an object's maps, by map name.
pub type Layouts = BTreeMap<String, MapLayout>;

/// Layout of one map.
#[derive(Clone, Debug)]
pub struct MapLayout {
    /// Its key.
    pub key: Layout,
    /// Its value.
    pub value: Layout,
}

/// A C type, flattened into numbers and arrays of numbers.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Size in bytes.
    pub size: usize,
    /// Fields by path: `errors`, or `latency.slots` for a nested struct. A type that is not a
    /// struct has one field, named "".
    pub fields: BTreeMap<String, Field>,
    /// Why members that are no numbers have no field, by path: pointers and bit fields.
    pub unreadable: BTreeMap<String, String>,
}

/// A number or an array of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the type.
    pub offset: usize,
    /// Bytes of one number.
    pub width: usize,
    /// Number of elements.
    pub length: usize,
    /// Whether the numbers may be negative.
    pub is_signed: bool,
}

/// A member's contents.
#[derive(Clone, Copy, Debug)]
pub enum Contents<'c> {
    /// A number.
    Number(u64),
    /// Element `.0` of an array is number `.1`.
    Element(usize, u64),
    /// Bytes, padded with zeros.
    Text(&'c str),
}

impl<'c> From<&'c str> for Contents<'c> {
    fn from(text: &'c str) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Contents<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl Field {
    /// The field's bytes in `value`; empty when `value` is too short.
    pub fn bytes<'v>(&self, value: &'v [u8]) -> &'v [u8] {
        value.get(self.offset..self.offset + self.width * self.length).unwrap_or_default()
    }

    fn write(&self, value: &mut [u8], contents: Contents<'_>) -> Result<()> {
        let whole = value.get_mut(self.offset..self.offset + self.width * self.length);
        let whole = whole.context("the value is too short")?;
        let (index, number) = match contents {
            Contents::Number(number) => (0, number),
            Contents::Element(index, number) => (index, number),
            Contents::Text(text) => {
                let start = whole.get_mut(..text.len()).with_context(|| format!("{text:?} is too long"))?;
                start.copy_from_slice(text.as_bytes());
                return Ok(());
            }
        };
        let number = number.to_ne_bytes();
        let from = if cfg!(target_endian = "little") { 0 } else { 8 - self.width };
        let element = whole.chunks_exact_mut(self.width).nth(index);
        let element = element.with_context(|| format!("no element {index} of {}", self.length))?;
        element.copy_from_slice(&number[from..from + self.width]);
        Ok(())
    }
}

impl Layout {
    /// The field at `path`.
    ///
    /// # Errors
    /// When there is no such field. The error names the fields that exist.
    pub fn field(&self, path: &str) -> Result<Field> {
        self.fields.get(path).copied().with_context(|| {
            if let Some(why) = self.unreadable.get(path) {
                return why.clone();
            }
            let known: Vec<&str> = self.fields.keys().map(String::as_str).collect();
            if known == [""] {
                return format!("no member `{path}`: this type is no struct");
            }
            format!("no member `{path}`; there are: {}", known.join(", "))
        })
    }

    /// A value of this type with the given members; all others are zero.
    ///
    /// # Errors
    /// When there is no such member, or contents do not fit.
    pub fn bytes(&self, members: &[(&str, Contents<'_>)]) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.size];
        self.write(&mut bytes, members)?;
        Ok(bytes)
    }

    /// Sets members of the value in `bytes`.
    ///
    /// # Errors
    /// When there is no such member, or contents do not fit.
    pub fn write(&self, bytes: &mut [u8], members: &[(&str, Contents<'_>)]) -> Result<()> {
        for (member, contents) in members {
            self.field(member)?.write(bytes, *contents).with_context(|| format!("member `{member}`"))?;
        }
        Ok(())
    }

    /// Whether it consists only of 64-bit numbers, so that the CPUs' copies can be added up.
    pub fn is_words(&self) -> bool {
        let words: usize = self.fields.values().map(|field| field.length).sum();
        self.fields.values().all(|field| field.width == 8) && words * 8 == self.size
    }
}

/// An unsigned number of up to eight bytes in the machine's byte order.
pub fn number(bytes: &[u8]) -> u64 {
    let mut word = [0u8; 8];
    let width = bytes.len().min(8);
    if cfg!(target_endian = "little") {
        word[..width].copy_from_slice(&bytes[..width]);
    } else {
        word[8 - width..].copy_from_slice(&bytes[..width]);
    }
    u64::from_ne_bytes(word)
}

/// The layouts of all maps of `object` that have BTF. Does not ask the kernel.
///
/// # Errors
/// When the object has no BTF, or a key or value is neither a struct, a number nor an array of numbers.
pub fn of(object: &OpenObject) -> Result<Layouts> {
    // SAFETY: the pointer is that of a live object, borrowed for as long as `btf` lives.
    let raw = unsafe { object.as_libbpf_object().as_ref() };
    let btf = Btf::from_bpf_object(raw)
        .context("failed to read the object's BTF")?
        .context("the object has no BTF: build it with clang -g")?;
    let mut layouts = Layouts::new();
    for map in object.maps() {
        let pointer = map.as_libbpf_object().as_ptr();
        // SAFETY: the pointer is that of a live map of `object`.
        let (key, value) = unsafe {
            (libbpf_sys::bpf_map__btf_key_type_id(pointer), libbpf_sys::bpf_map__btf_value_type_id(pointer))
        };
        let name = map.name().to_string_lossy().into_owned();
        // The sections .rodata and .bss are maps without a key.
        if key == 0 || value == 0 {
            continue;
        }
        let layout = |id: u32| layout(&btf, id.into()).with_context(|| format!("map `{name}`"));
        let layout = MapLayout { key: layout(key)?, value: layout(value)? };
        layouts.insert(name, layout);
    }
    Ok(layouts)
}

/// The layout of the values of one map of a loaded object. Does not ask the kernel.
///
/// # Errors
/// When the object has no BTF or no such map, or the value is neither a struct, a number nor an array of
/// numbers.
pub fn value_of(object: &Object, map: &str) -> Result<Layout> {
    // SAFETY: the pointer is that of a live object, borrowed for as long as `btf` lives.
    let raw = unsafe { object.as_libbpf_object().as_ref() };
    let btf = Btf::from_bpf_object(raw)
        .context("failed to read the object's BTF")?
        .context("the object has no BTF: build it with clang -g")?;
    let found = object.maps().find(|found| found.name() == map).context("the object has no such map")?;
    // SAFETY: the pointer is that of a live map of `object`.
    let id = unsafe { libbpf_sys::bpf_map__btf_value_type_id(found.as_libbpf_object().as_ptr()) };
    if id == 0 {
        bail!("the map does not tell the type of its values: declare it with __type(value, ...)");
    }
    layout(&btf, id.into())
}

fn layout(btf: &Btf<'_>, id: TypeId) -> Result<Layout> {
    let mut layout = Layout::default();
    layout.size = take_apart(btf, id, "", 0, &mut layout)?;
    Ok(layout)
}

/// Adds the fields of type `id`, which is at `path` and `offset`; returns its size in bytes.
fn take_apart(btf: &Btf<'_>, id: TypeId, path: &str, offset: usize, layout: &mut Layout) -> Result<usize> {
    let ty: BtfType<'_> = btf.type_by_id(id).context("a type is missing in BTF")?;
    let ty = ty.skip_mods_and_typedefs();
    if let Ok(structure) = Struct::try_from(ty) {
        for member in structure.iter() {
            let name = member.name.unwrap_or_default().to_string_lossy();
            let inner = match (path, &*name) {
                ("", name) => name.to_owned(),
                (path, "") => path.to_owned(),
                (path, name) => format!("{path}.{name}"),
            };
            let MemberAttr::Normal { offset: bits } = member.attr else {
                layout.unreadable.insert(inner.clone(), format!("`{inner}` is a bit field"));
                continue;
            };
            if let Err(error) = take_apart(btf, member.ty, &inner, offset + bits as usize / 8, layout) {
                layout.unreadable.insert(inner, format!("{error:#}"));
            }
        }
        return Ok(structure.size());
    }
    let ((width, is_signed), length) = match ty.kind() {
        BtfKind::Array => {
            let array = Array::try_from(ty).map_err(|_| anyhow::anyhow!("`{path}`: not an array"))?;
            (scalar(array.contained_type(), path)?, array.capacity())
        }
        _ => (scalar(ty, path)?, 1),
    };
    layout.fields.insert(path.to_owned(), Field { offset, width, length, is_signed });
    Ok(width * length)
}

/// Bytes of a number, and whether it may be negative.
fn scalar(ty: BtfType<'_>, path: &str) -> Result<(usize, bool)> {
    let ty = ty.skip_mods_and_typedefs();
    if let Ok(int) = Int::try_from(ty) {
        return Ok((int.bits.div_ceil(8).into(), matches!(int.encoding, IntEncoding::Signed)));
    }
    if let Ok(kind) = Enum::try_from(ty) {
        return Ok((kind.size(), kind.is_signed()));
    }
    bail!("`{path}` is of BTF kind {:?}, neither a number nor an array of numbers", ty.kind())
}
