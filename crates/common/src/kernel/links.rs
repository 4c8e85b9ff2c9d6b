// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaches programs, and reads what the kernel reports about the links.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use libbpf_rs::{ErrorKind, Link, Object, ProgramMut};
use libbpf_sys::{BPF_LINK_TYPE_PERF_EVENT, BPF_PERF_EVENT_KPROBE, BPF_PERF_EVENT_KRETPROBE, bpf_link_info};
use rustix::io::Errno;

use crate::kernel::copies::{Copies, First};
use crate::kernel::facts::{Facts, KPROBES};
use crate::kernel::hook::{Hook, Hooks};
use crate::kernel::probes::Plan;
use crate::kernel::refusal;
use crate::kernel::symbols::{Symbols, likely_symbols};

/// The links of an attached program.
#[derive(Debug)]
pub enum Attached {
    /// One link, or several if compilers made several symbols of a function.
    Links(Vec<Arc<Link>>),
    /// Attached as copies, while these descriptors are open.
    Copies(Vec<OwnedFd>, Arc<Copies>),
}

impl Default for Attached {
    /// Not attached.
    fn default() -> Self {
        Self::Links(Vec::new())
    }
}

impl Attached {
    /// The copies of a program that is attached as several.
    pub fn copies(&self) -> Option<&Arc<Copies>> {
        match self {
            Self::Links(_) => None,
            Self::Copies(_, copies) => Some(copies),
        }
    }

    /// The links of a program that is not attached as copies.
    pub fn links(&self) -> &[Arc<Link>] {
        match self {
            Self::Links(links) => links,
            Self::Copies(..) => &[],
        }
    }
}

/// What it means that programs that the kernel preempts have no copies.
pub const ONCE: &str = "attached only once: events are lost while a task is preempted inside a program, and \
                        counted with reason \"recursion\"";

/// Links by program.
pub type Links = BTreeMap<String, Attached>;

/// Attaches the programs of a plan: those in `firsts` as several copies.
///
/// # Errors
/// When the kernel refuses a program: returns the program's name and the reason. The links of
/// programs attached before are closed.
pub fn attach(
    object: &Object,
    mut firsts: BTreeMap<String, First>,
    plan: &Plan,
    hooks: &Hooks,
    facts: &Facts,
) -> Result<Links, (String, String)> {
    let wanted = plan.programs();
    let mut links = Links::new();
    for program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if wanted.contains(name.as_str()) {
            let hook = hooks.get(&name);
            let first = firsts.remove(&name);
            if let Some(copies) =
                first.zip(hook).and_then(|(first, hook)| several(first, &program, hook, object))
            {
                links.insert(name, copies);
                continue;
            }
            let made = match hook {
                Some(hook) if hook.is_breakpoint() => by_breakpoint(&program, hook, facts),
                _ => program.attach().map(|link| vec![link]).map_err(|error| refusal::with_details(&error)),
            };
            match made {
                Ok(made) => links.insert(name, Attached::Links(made.into_iter().map(Arc::new).collect())),
                Err(why) => return Err((name, why)),
            };
        }
    }
    Ok(links)
}

/// Attaches a program as several copies. Without the others, the first one acts as the program alone:
/// then this returns None, and the log says why.
pub fn several(first: First, program: &ProgramMut<'_>, hook: &Hook, object: &Object) -> Option<Attached> {
    match Copies::attach(first, program, hook, object) {
        Ok((copies, links)) => Some(Attached::Copies(links, Arc::new(copies))),
        Err(error) => {
            log::warn!("program {}: {ONCE}: {error:#}", program.name().display());
            None
        }
    }
}

fn by_breakpoint(program: &ProgramMut<'_>, hook: &Hook, facts: &Facts) -> Result<Vec<Link>, String> {
    if facts.symbols.is_some() {
        let links = facts.places(hook)?.into_iter().map(|symbol| {
            let link = at_symbol(program, hook, symbol)?;
            link.ok_or_else(|| format!("no function {symbol} in the kernel or a module"))
        });
        return links.collect();
    }
    at_likely_symbols(program, hook)
}

/// Attaches to the symbols that compilers make of a function, where the kernel's symbols are hidden.
fn at_likely_symbols(program: &ProgramMut<'_>, hook: &Hook) -> Result<Vec<Link>, String> {
    let function = hook.function().unwrap_or_default();
    let (mut symbols, mut links) = (Vec::new(), Vec::new());
    for symbol in likely_symbols(function) {
        if let Some(link) = at_symbol(program, hook, &symbol)? {
            symbols.push(symbol);
            links.push(link);
        }
    }
    // The program may have read wrong arguments meanwhile. If it is refused here, its maps are
    // discarded.
    Symbols::of_one(function, symbols).places(hook)?;
    Ok(links)
}

/// None: the kernel has no such symbol.
fn at_symbol(program: &ProgramMut<'_>, hook: &Hook, symbol: &str) -> Result<Option<Link>, String> {
    match program.attach_kprobe(matches!(hook, Hook::Kretprobe(_)), symbol) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refusal::with_details(&error)),
    }
}

/// Attaches a program as its section says to libbpf. If that is a function that the kernel does not
/// have, tries the symbols that compilers make of it, unless the program reads arguments: these
/// symbols may have others.
///
/// # Errors
/// When the program is not attached. The error says why.
pub fn attach_by_section(program: &ProgramMut<'_>, hook: &Hook) -> Result<Vec<Link>, String> {
    refusal::forget_details();
    let error = match program.attach() {
        Ok(link) => return Ok(vec![link]),
        Err(error) => error,
    };
    let (plain, why) = (format!("{error:#}"), refusal::with_details(&error));
    let Some(function) = hook.function().filter(|_| hook.is_breakpoint()) else {
        if error.kind() == ErrorKind::NotFound
            && let Some(why) = no_tracepoint(&program.section().to_string_lossy())
        {
            return Err(why);
        }
        // libbpf explains all other errors.
        let unknown = error.kind() == ErrorKind::Unsupported && why == plain;
        let section = program.section().display();
        return Err(if unknown {
            format!("libbpf does not attach programs of section {section}")
        } else {
            why
        });
    };
    if !Path::new(KPROBES).exists() {
        return Err(format!("no kprobes: {KPROBES} does not exist here"));
    }
    // With an offset libbpf's reason is the better one.
    if error.kind() != ErrorKind::NotFound || function.contains('+') {
        return Err(why);
    }
    match hook {
        Hook::Kprobe { reads_arguments: true, .. } => {
            Err(format!("no function {function} in the kernel or a module"))
        }
        _ => at_likely_symbols(program, hook),
    }
}

/// Where the kernel lists its tracepoints, if tracefs is mounted.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Why there is nothing for a program whose section is that of a tracepoint, such as
/// `tp/sched/sched_switch`; None for other sections.
fn no_tracepoint(section: &str) -> Option<String> {
    let name = section.strip_prefix("tp/").or_else(|| section.strip_prefix("tracepoint/"))?;
    let is_mounted = TRACEFS.iter().any(|folder| Path::new(folder).join("events").exists());
    Some(match is_mounted {
        true => format!("no tracepoint {name} in the kernel or a module that is loaded"),
        false => format!("no tracefs to look up tracepoint {name}: mount -t tracefs none {}", TRACEFS[0]),
    })
}

/// The initial value of the member. A kernel that does not have the member leaves it unchanged.
const UNTOLD: u64 = u64::MAX;

/// Number of function calls that a kprobe or kretprobe missed. None for other links, and if the
/// kernel does not report it (before 3acf8ace6823 "bpf: Add missed value to kprobe perf link info",
/// 6.7, and back-ported to 6.6).
///
/// A kretprobe sees only as many concurrent calls as it has instances. These are twice the number of
/// CPUs and at least 10. If the kernel is not preemptible, they were the number of CPUs before
/// 3b7ddab8a19a ("kprobes: kretprobe events missing on 2-core KVM guest", 6.2). Calls that sleep,
/// such as reads of a pipe, hold an instance for long. perf_event_open(2) cannot request more
/// instances. Only `maxactive` of tracefs' kprobe_events can, which libbpf does not use.
///
/// # Errors
/// When the kernel returns no information about the link.
pub fn missed(link: &Link) -> Result<Option<u64>> {
    let mut info = bpf_link_info::default();
    info.__bindgen_anon_1.perf_event.__bindgen_anon_1.kprobe.missed = UNTOLD;
    let mut size = size_of_val(&info) as u32;
    // SAFETY: the kernel reads and writes at most `size` bytes of `info`, which has no pointers set.
    let result = unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(link.as_fd().as_raw_fd(), (&raw mut info).cast(), &raw mut size)
    };
    match result {
        0 => {}
        // E2BIG: the kernel's struct is smaller. EINVAL: before 5.15 the descriptor is not of a link.
        error if [Errno::TOOBIG, Errno::INVAL].contains(&Errno::from_raw_os_error(-error)) => {
            return Ok(None);
        }
        error => return Err(Errno::from_raw_os_error(-error).into()),
    }
    // SAFETY: for a link of this type the kernel filled this member, and any bytes are valid numbers.
    let (kind, missed) = unsafe {
        let event = info.__bindgen_anon_1.perf_event;
        (event.type_, event.__bindgen_anon_1.kprobe.missed)
    };
    let told = info.type_ == BPF_LINK_TYPE_PERF_EVENT
        && [BPF_PERF_EVENT_KPROBE, BPF_PERF_EVENT_KRETPROBE].contains(&kind)
        && missed != UNTOLD;
    Ok(told.then_some(missed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracepoint_that_is_not_there_is_named() {
        for section in ["tp/sched/none", "tracepoint/sched/none"] {
            let why = no_tracepoint(section).expect("a tracepoint");
            assert!(why.contains("tracepoint sched/none"), "{why}");
        }
        assert_eq!(no_tracepoint("tp_btf/none"), None);
    }
}
