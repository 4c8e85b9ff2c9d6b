// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this kernel is like, asked of its BTF: shape, never version.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use libbpf_rs::ReferencesType;
use libbpf_rs::btf::types::{Enum, Enum64, Func, FuncProto, Ptr, Typedef};
use libbpf_rs::btf::{Btf, BtfKind, BtfType, TypeId};

use rustix::time::{ClockId, clock_gettime};

use crate::probes::Hook;
use crate::spec::{Shape, View};
use crate::types::Types;
use crate::view;

/// The kernel's own BTF; without it the kernel takes neither tp_btf nor fentry programs.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Plain facts, so that tests can make them up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether the kernel has BTF of its own, not only a file given by the user.
    pub own_btf: bool,
    /// The tracepoints asked for; those that do not exist are not here.
    pub tracepoints: BTreeMap<String, Prototype>,
    /// The functions asked for; those that do not exist are not here.
    pub functions: BTreeMap<String, Prototype>,
    /// Whether the kernel can place breakpoints for probes (CONFIG_KPROBE_EVENTS).
    pub kprobes: bool,
    /// Values of the enumerators asked for; those that do not exist are not here.
    pub enumerators: BTreeMap<String, i64>,
    /// What is hidden from this process, and why.
    pub hidden: BTreeMap<View, String>,
}

/// What a function or tracepoint takes and returns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prototype {
    /// For each argument the struct that it points to; empty for anything else.
    pub arguments: Vec<String>,
    /// Whether it returns something.
    pub returns: bool,
}

impl Prototype {
    /// One of so many arguments, of which nothing else is known.
    pub fn of(arguments: usize) -> Self {
        Self { arguments: vec![String::new(); arguments], returns: true }
    }

    /// Why it does not have that shape.
    pub fn misses(&self, shape: &Shape) -> Option<String> {
        match shape {
            Shape::Arguments(n) if self.arguments.len() != *n => {
                Some(format!("has {} arguments, not {n}", self.arguments.len()))
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

/// Where the BTF of a module is, if it has any (36e68442d1af "bpf: Load and verify kernel
/// module BTFs", 5.11).
pub fn module_btf(module: &str) -> PathBuf {
    Path::new("/sys/kernel/btf").join(module)
}

impl Facts {
    /// Collects facts about `hooks` and `enumerators` from the kernel's BTF, or from `external`,
    /// and about functions of `module` from that of the module.
    ///
    /// # Errors
    /// When there is no BTF, or it cannot be read; says what to do.
    pub fn collect<'h>(
        hooks: impl IntoIterator<Item = &'h Hook>,
        enumerators: &[impl AsRef<str>],
        external: Option<&Path>,
        module: Option<&str>,
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
        let kprobes = Path::new(KPROBES).exists();
        let mut facts = Self { own_btf, kprobes, hidden: view::hidden(), ..Self::default() };
        let hooks: Vec<&Hook> = hooks.into_iter().collect();
        let tracepoints: BTreeSet<&str> = hooks.iter().filter_map(|hook| hook.tracepoint()).collect();
        let functions: BTreeSet<&str> = hooks.iter().filter_map(|hook| hook.function()).collect();
        // libbpf looks for a name by going through all types: once for all is enough.
        for id in (1..btf.len() as u32).map(TypeId::from) {
            if let Some(handler) = btf.type_by_id::<Typedef<'_>>(id) {
                if let Some(name) = handler.name().and_then(OsStr::to_str)
                    && let Some(name) =
                        name.strip_prefix("btf_trace_").filter(|name| tracepoints.contains(name))
                    && let Some(prototype) = tracepoint(&btf, &handler)
                {
                    facts.tracepoints.entry(name.to_owned()).or_insert(prototype);
                }
            } else if let Some(function) = btf.type_by_id::<Func<'_>>(id)
                && let Some(name) =
                    function.name().and_then(OsStr::to_str).filter(|name| functions.contains(name))
                && let Ok(proto) = FuncProto::try_from(function.referenced_type())
            {
                facts.functions.entry(name.to_owned()).or_insert_with(|| prototype(&btf, proto));
            }
        }
        facts.enumerators = values_of(&btf, enumerators);
        let elsewhere = |hook: &&&Hook| matches!(hook, Hook::Fentry(name) | Hook::Fexit(name) if !facts.functions.contains_key(name));
        let elsewhere: Vec<&str> =
            hooks.iter().filter(elsewhere).filter_map(|hook| hook.function()).collect();
        if let Some(module) = module.map(module_btf).filter(|path| path.exists())
            && own_btf
            && !elsewhere.is_empty()
        {
            let types = Types::read(Path::new(KERNEL_BTF), Some(&module))?;
            for name in elsewhere {
                if let Some(prototype) = types.prototype(name) {
                    facts.functions.insert(name.to_owned(), prototype);
                }
            }
        }
        Ok(facts)
    }
}

/// The performance monitoring unit that makes kprobes (e12f03d7031a "perf/core: Implement
/// the 'perf_kprobe' PMU", 4.17).
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe/type";

/// A tracepoint's handler is `typedef void (*btf_trace_NAME)(void *data, ARGUMENTS...)`.
fn tracepoint(btf: &Btf<'_>, handler: &Typedef<'_>) -> Option<Prototype> {
    let pointer = Ptr::try_from(handler.referenced_type()).ok()?;
    let mut prototype = prototype(btf, FuncProto::try_from(pointer.referenced_type()).ok()?);
    prototype.arguments.remove(0);
    Some(prototype)
}

fn prototype(btf: &Btf<'_>, proto: FuncProto<'_>) -> Prototype {
    let pointee = |ty: TypeId| -> Option<String> {
        let ty: BtfType<'_> = btf.type_by_id(ty)?;
        let target =
            Ptr::try_from(ty.skip_mods_and_typedefs()).ok()?.referenced_type().skip_mods_and_typedefs();
        let is_struct = matches!(target.kind(), BtfKind::Struct | BtfKind::Fwd);
        is_struct.then(|| target.name().unwrap_or_default().to_string_lossy().into_owned())
    };
    let returns = proto.referenced_type().kind() != BtfKind::Void;
    Prototype { arguments: proto.iter().map(|p| pointee(p.ty).unwrap_or_default()).collect(), returns }
}

fn values_of(btf: &Btf<'_>, names: &[impl AsRef<str>]) -> BTreeMap<String, i64> {
    let mut values = BTreeMap::new();
    if names.is_empty() {
        return values;
    }
    let mut note = |name: Option<&OsStr>, value: i64| {
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

/// Nanoseconds of CLOCK_MONOTONIC, by which tasks' start times are.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Bytes of a page.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}
