// SPDX-License-Identifier: MIT OR Apache-2.0
//! Facts about this kernel, mostly from its BTF. They never depend on the kernel's version number.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use libbpf_rs::ReferencesType;
use libbpf_rs::btf::types::{Enum, Enum64, Func, FuncProto, Ptr, Typedef};
use libbpf_rs::btf::{Btf, BtfKind, BtfType, TypeId};
use rustix::system::uname;
use rustix::time::{ClockId, clock_gettime};

use crate::kernel::ftrace;
use crate::kernel::hook::Hook;
use crate::kernel::preemption::{self, Preemption};
use crate::kernel::symbols::{self, KALLSYMS, Symbols};
use crate::kernel::types::{KERNEL_BTF, Prototype, Types, module_btf};
use crate::kernel::view;
use crate::spec::View;

/// Facts about this kernel and this process. Plain data, so that tests can construct it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether the kernel has BTF of its own, not only a file given by the user.
    pub own_btf: bool,
    /// The requested tracepoints that exist.
    pub tracepoints: BTreeMap<String, Prototype>,
    /// The requested functions that exist.
    pub functions: BTreeMap<String, Prototype>,
    /// Whether the kernel has kprobes (CONFIG_KPROBE_EVENTS).
    pub kprobes: bool,
    /// Values of the requested enumerators that exist.
    pub enumerators: BTreeMap<String, i64>,
    /// Where the kernel preempts programs.
    pub preemption: Preemption,
    /// What is hidden from this process, and why.
    pub hidden: BTreeMap<View, String>,
    /// Why programs must not be attached through ftrace: [`ftrace::danger`].
    pub danger: Option<String>,
    /// Symbols of the requested functions; None if symbols are hidden.
    pub symbols: Option<Symbols>,
}

impl Facts {
    /// Collects facts about `hooks` and `enumerators` from the kernel's BTF, or from `external`,
    /// and about functions of `module` from that of the module.
    ///
    /// # Errors
    /// When there is no BTF, or it cannot be read. The error says what the user can do.
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
            None => bail!("{KERNEL_BTF} does not exist: {}", why_no_btf(has_btf())),
        };
        // libbpf's own error does not say why the file cannot be opened.
        fs::File::open(path).with_context(|| format!("failed to open {}", path.display()))?;
        // libbpf maps the kernel's own file into memory instead of copying it, where the kernel lets it.
        let btf = if external.is_some() { Btf::from_path(path) } else { Btf::from_vmlinux() };
        let btf = btf.with_context(|| format!("{} is not a BTF file", path.display()))?;
        let kprobes = Path::new(KPROBES).join("type").exists();
        let preempts = preemption::of_tasks();
        let mut facts = Self {
            own_btf,
            kprobes,
            preemption: Preemption {
                at_functions: preempts,
                at_tracepoints: false,
                by_interrupts: preemption::has_recursion_guard(&btf),
            },
            hidden: view::hidden(),
            danger: ftrace::danger(&btf),
            ..Self::default()
        };
        let hooks: Vec<&Hook> = hooks.into_iter().collect();
        let tracepoints: BTreeSet<&str> = hooks.iter().filter_map(|hook| hook.tracepoint()).collect();
        let functions: BTreeSet<&str> = hooks.iter().filter_map(|hook| hook.function()).collect();
        // libbpf searches all types for each name. One pass for all names is enough.
        for id in (1..btf.len() as u32).map(TypeId::from) {
            let Some(ty) = btf.type_by_id::<BtfType<'_>>(id) else { continue };
            let kind = ty.kind();
            let name = || ty.name().and_then(OsStr::to_str).unwrap_or_default();
            match kind {
                BtfKind::Typedef => {
                    let tracepoint_name = name().strip_prefix("btf_trace_");
                    if let Some(name) = tracepoint_name.filter(|name| tracepoints.contains(name))
                        && let Some(prototype) = tracepoint(&btf, ty)
                    {
                        facts.tracepoints.entry(name.to_owned()).or_insert(prototype);
                    } else if name() == preemption::TRACEPOINT_GUARD {
                        facts.preemption.at_tracepoints = preempts;
                    }
                }
                BtfKind::Func if functions.contains(name()) => {
                    if let Ok(proto) = Func::try_from(ty).and_then(|func| func.referenced_type().try_into()) {
                        facts.functions.entry(name().to_owned()).or_insert_with(|| prototype(&btf, proto));
                    }
                }
                BtfKind::Enum | BtfKind::Enum64 if !enumerators.is_empty() => {
                    facts.enumerators.extend(values_of(ty, enumerators));
                }
                _ => {}
            }
        }
        if !functions.is_empty() {
            facts.symbols = Symbols::read(&functions);
        }
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

impl Facts {
    /// The symbols at which a program at `hook` sees all calls of its function. If symbols are
    /// hidden, the function's own name: the kernel reports whether it exists.
    ///
    /// # Errors
    /// When the program would miss calls or read wrong arguments. The error says why.
    pub fn places<'s>(&'s self, hook: &'s Hook) -> Result<Vec<&'s str>, String> {
        match &self.symbols {
            Some(symbols) => symbols.places(hook),
            None => Ok(hook.function().into_iter().collect()),
        }
    }

    /// What may go uncounted at `hooks` because symbols are hidden: fentry and fexit programs do not
    /// see calls of copies, and nothing else tells whether there are any.
    pub fn doubt<'h>(&self, mut hooks: impl Iterator<Item = &'h Hook>) -> Option<String> {
        let at_function = |hook: &Hook| matches!(hook, Hook::Fentry(_) | Hook::Fexit(_));
        (self.symbols.is_none() && hooks.any(at_function)).then(|| {
            format!(
                "cannot tell whether the compiler copied a hooked function, whose copies' calls would not be \
                 counted: {KALLSYMS} is hidden from this process"
            )
        })
    }
}

/// The performance monitoring unit that makes kprobes (e12f03d7031a "perf/core: Implement
/// the 'perf_kprobe' PMU", 4.17).
pub const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";

/// A tracepoint's handler is `typedef void (*btf_trace_NAME)(void *data, ARGUMENTS...)`.
fn tracepoint(btf: &Btf<'_>, handler: BtfType<'_>) -> Option<Prototype> {
    let pointer = Ptr::try_from(Typedef::try_from(handler).ok()?.referenced_type()).ok()?;
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

/// The values of those enumerators of an enum that are in `names`.
fn values_of(ty: BtfType<'_>, names: &[impl AsRef<str>]) -> Vec<(String, i64)> {
    let wanted = |name: Option<&OsStr>| {
        let name = name.and_then(OsStr::to_str)?;
        names.iter().any(|wanted| wanted.as_ref() == name).then(|| name.to_owned())
    };
    if let Ok(ty) = Enum::try_from(ty) {
        return ty.iter().filter_map(|value| Some((wanted(value.name)?, value.value))).collect();
    }
    let Ok(ty) = Enum64::try_from(ty) else { return Vec::new() };
    ty.iter().filter_map(|value| Some((wanted(value.name)?, value.value as i64))).collect()
}

/// Why the kernel's BTF is missing, as far as known, and what to do.
fn why_no_btf(has_btf: Option<bool>) -> &'static str {
    match has_btf {
        Some(true) => {
            "this kernel has BTF, but it is hidden from this process: make /sys/kernel/btf visible, or \
             pass a copy of that file with --btf.path"
        }
        Some(false) => {
            "this kernel was built without CONFIG_DEBUG_INFO_BTF; pass a BTF file for it with --btf.path"
        }
        None => {
            "either this kernel was built without CONFIG_DEBUG_INFO_BTF, or /sys is hidden from this \
             process; pass a BTF file for this kernel with --btf.path"
        }
    }
}

/// Whether the kernel was built with BTF, from its symbols or configuration; None if unknown.
fn has_btf() -> Option<bool> {
    if symbols::has("__start_BTF") {
        return Some(true);
    }
    let path = format!("/boot/config-{}", uname().release().to_string_lossy());
    built_with_btf(&fs::read_to_string(path).unwrap_or_default())
}

/// The BTF setting in a kernel configuration.
fn built_with_btf(config: &str) -> Option<bool> {
    let said = config.contains("CONFIG_");
    said.then(|| config.lines().any(|line| line == "CONFIG_DEBUG_INFO_BTF=y"))
}

/// Nanoseconds of CLOCK_MONOTONIC, the clock of task start times.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Bytes of a page.
pub fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Number of possible CPUs, including absent ones.
///
/// # Errors
/// When the kernel does not report it.
pub fn possible_cpus() -> Result<u32> {
    let cpus = libbpf_rs::num_possible_cpus().context("failed to count possible CPUs")?;
    Ok(cpus as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_symbols_are_hidden_the_kernel_is_asked_for_the_function_itself() {
        for section in ["fentry/vfs_read", "kprobe/vfs_read", "kretprobe/vfs_read"] {
            assert_eq!(Facts::default().places(&Hook::parse(section)), Ok(vec!["vfs_read"]), "{section}");
        }
    }

    #[test]
    fn hidden_symbols_are_told_where_programs_miss_calls_of_copies() {
        let doubt = |facts: &Facts, section: &str| facts.doubt([&Hook::parse(section)].into_iter());
        let hidden = Facts::default();
        assert!(doubt(&hidden, "fexit/vfs_read").is_some_and(|why| why.contains(KALLSYMS)));
        assert_eq!(doubt(&hidden, "kprobe/vfs_read"), None, "the kernel is asked for the copies");
        assert_eq!(doubt(&hidden, "tp_btf/sys_enter"), None);
        let seen = Facts { symbols: Some(Symbols::default()), ..Facts::default() };
        assert_eq!(doubt(&seen, "fexit/vfs_read"), None);
    }

    #[test]
    fn a_kernel_without_btf_is_told_from_one_that_hides_it() {
        let built = |config| why_no_btf(built_with_btf(config));
        assert!(built("CONFIG_BPF=y\nCONFIG_DEBUG_INFO_BTF=y\n").contains("is hidden from"));
        assert!(built("CONFIG_BPF=y\n# CONFIG_DEBUG_INFO_BTF is not set\n").contains("was built without"));
        assert!(built("").contains("either"));
    }
}
