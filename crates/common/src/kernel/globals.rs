// SPDX-License-Identifier: MIT OR Apache-2.0
//! Global variables of an object that is opened and not yet loaded.

use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, bail};
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{DataSec, Var};
use libbpf_rs::{AsRawLibbpf, OpenObject};

use crate::words::counted;

/// Sections of variables: read-only, initialised, and zero at first. A user may add sections such as
/// `.data.name`.
const SECTIONS: [&str; 3] = [".rodata", ".data", ".bss"];

/// Place of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its section, such as `.rodata`.
    pub section: String,
    /// Bytes from the start of the section.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
}

/// Whether a section has global variables that libbpf makes a map of.
pub fn is_of_variables(section: &str) -> bool {
    SECTIONS
        .iter()
        .any(|start| section.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// The variables that the object's BTF describes. None if the object has no BTF.
///
/// # Errors
/// When the BTF is invalid.
pub fn variables(object: &OpenObject) -> Result<Option<Vec<Variable>>> {
    // SAFETY: the pointer is that of a live object, borrowed for as long as `btf` lives.
    let raw = unsafe { object.as_libbpf_object().as_ref() };
    let Some(btf) = Btf::from_bpf_object(raw).context("failed to read the object's BTF")? else {
        return Ok(None);
    };
    let mut found = Vec::new();
    // Type 0 is void.
    for id in 1..btf.len() {
        let Some(section) = btf.type_by_id::<DataSec<'_>>((id as u32).into()) else { continue };
        let name = section.name().unwrap_or_default().to_string_lossy().into_owned();
        if !is_of_variables(&name) {
            continue;
        }
        for place in section.iter() {
            let variable: Var<'_> = btf.type_by_id(place.ty).context("a variable is missing in BTF")?;
            found.push(Variable {
                name: variable.name().unwrap_or_default().to_string_lossy().into_owned(),
                section: name.clone(),
                offset: place.offset as usize,
                size: place.size,
            });
        }
    }
    Ok(Some(found))
}

/// Writes the initial value of a variable. It may be longer than `bytes`.
///
/// # Errors
/// When the variable is shorter, or the section has no contents.
pub fn set_variable(object: &mut OpenObject, variable: &Variable, bytes: &[u8]) -> Result<()> {
    let Variable { name, section, offset, size } = variable;
    if *size < bytes.len() {
        bail!("variable `{name}` has {}, not {}", counted(*size, "byte"), bytes.len());
    }
    // libbpf puts the object's name before `.rodata`, `.data` and `.bss`.
    let mut map = object
        .maps_mut()
        .find(|map| map.name().as_bytes().ends_with(section.as_bytes()))
        .with_context(|| format!("the object has no map for {section}"))?;
    let contents = map.initial_value_mut().with_context(|| format!("{section} has no contents"))?;
    let end = offset.checked_add(bytes.len());
    let word = end.and_then(|end| contents.get_mut(*offset..end));
    word.with_context(|| format!("variable `{name}` is outside of {section}"))?.copy_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_variables_are_told_from_others() {
        for section in [".rodata", ".data", ".bss", ".data.mine", ".rodata.str1.1"] {
            assert!(is_of_variables(section), "{section}");
        }
        for section in [".maps", ".datax", ".kconfig", ".ksyms", "data", ""] {
            assert!(!is_of_variables(section), "{section}");
        }
    }
}
