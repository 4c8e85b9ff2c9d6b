// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this kernel is like, asked of its BTF: shape, never version.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use libbpf_rs::ReferencesType;
use libbpf_rs::btf::types::{Enum, Enum64, FuncProto, Ptr, Typedef};
use libbpf_rs::btf::{Btf, TypeId};

use crate::probes::Hook;

/// The kernel's own BTF; without it the kernel takes neither tp_btf nor fentry programs.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Plain facts, so that tests can make them up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether the kernel has BTF of its own, not only a file given by the user.
    pub own_btf: bool,
    /// Arguments of the tracepoints asked for; those that do not exist are not here.
    pub tracepoints: BTreeMap<String, usize>,
    /// Values of the enumerators asked for; those that do not exist are not here.
    pub enumerators: BTreeMap<String, i64>,
}

impl Facts {
    /// Collects facts about `hooks` and `enumerators` from the kernel's BTF, or from `external`.
    ///
    /// # Errors
    /// When there is no BTF, or it cannot be read; says what to do.
    pub fn collect<'h>(
        hooks: impl IntoIterator<Item = &'h Hook>,
        enumerators: &[impl AsRef<str>],
        external: Option<&Path>,
    ) -> Result<Self> {
        let own_btf = Path::new(KERNEL_BTF).exists();
        let path = match external {
            Some(path) => path,
            None if own_btf => Path::new(KERNEL_BTF),
            None => bail!(
                "{KERNEL_BTF} does not exist: this kernel was built without CONFIG_DEBUG_INFO_BTF; \
                 give a BTF file made for it with --btf.path"
            ),
        };
        // libbpf's own message does not name the file's trouble.
        fs::File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
        let btf = Btf::from_path(path).with_context(|| format!("{} is no BTF file", path.display()))?;
        let mut facts = Self { own_btf, ..Self::default() };
        for hook in hooks {
            if let Some(name) = hook.tracepoint()
                && let Some(arguments) = tracepoint_arguments(&btf, name)
            {
                facts.tracepoints.insert(name.to_owned(), arguments);
            }
        }
        facts.enumerators = values_of(&btf, enumerators);
        Ok(facts)
    }
}

/// A tracepoint's handler is `typedef void (*btf_trace_NAME)(void *data, ARGUMENTS...)`.
fn tracepoint_arguments(btf: &Btf<'_>, name: &str) -> Option<usize> {
    let handler: Typedef<'_> = btf.type_by_name(&format!("btf_trace_{name}"))?;
    let pointer = Ptr::try_from(handler.referenced_type()).ok()?;
    let prototype = FuncProto::try_from(pointer.referenced_type()).ok()?;
    prototype.len().checked_sub(1)
}

fn values_of(btf: &Btf<'_>, names: &[impl AsRef<str>]) -> BTreeMap<String, i64> {
    let mut values = BTreeMap::new();
    if names.is_empty() {
        return values;
    }
    let mut note = |name: Option<&std::ffi::OsStr>, value: i64| {
        if let Some(name) = name.and_then(|name| name.to_str())
            && names.iter().any(|wanted| wanted.as_ref() == name)
        {
            values.insert(name.to_owned(), value);
        }
    };
    for id in 1..btf.len() as u32 {
        let id = TypeId::from(id);
        if let Some(kind) = btf.type_by_id::<Enum<'_>>(id) {
            kind.iter().for_each(|value| note(value.name, value.value));
        } else if let Some(kind) = btf.type_by_id::<Enum64<'_>>(id) {
            kind.iter().for_each(|value| note(value.name, value.value as i64));
        }
    }
    values
}

/// Whether lockdown forbids eBPF to read the kernel's memory.
pub fn locked_down() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown").is_ok_and(|mode| mode.contains("[confidentiality]"))
}
