// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a test states about itself: what it needs of a machine, and when it runs.
//!
//! These are the arguments of `#[live::test(...)]`. A test is ignored if one of its needs is not
//! met; the first such need is printed. Every test needs root.
#![allow(non_upper_case_globals, reason = "words of an attribute")]

use std::ffi::{CString, c_char};
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use crate::machine::has_module;

/// An argument of the attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// The machine has this, or the test is ignored.
    Need(Need),
    /// It leaves the machine unusable for other tests, and runs after them.
    Last,
    /// It runs after those that are `last`.
    LastOfAll,
    /// Its result is the same on all kernels: one of several guests is enough.
    Once,
    /// It waits most of the time: it runs on a machine of its own, beside others.
    Waits,
}

/// What a test may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// See the attribute's word `fentry`.
    Fentry,
    /// See the attribute's word `reattach`.
    Reattach,
    /// See the attribute's word `kprobes`.
    Kprobes,
    /// See the attribute's word `uprobes`.
    Uprobes,
    /// See the attribute's word `fprobes`.
    Fprobes,
    /// See the attribute's word `functions`.
    Functions,
    /// See the attribute's word `copies`.
    Copies,
    /// See the attribute's word `own_machine`.
    OwnMachine,
    /// See the attribute's word `spare_disks`.
    SpareDisks,
    /// See the attribute's word `cgroup2`.
    Cgroup2,
    /// See the attribute's word `storage`.
    Storage,
    /// See the attribute's word `module`.
    Module(&'static str),
    /// See the attribute's word `tool`.
    Tool(&'static str),
    /// See the attribute's word `file`.
    File(&'static str),
    /// See the attribute's word `kernel_with`.
    KernelWith(&'static str),
    /// See the attribute's word `disk`.
    Disk(&'static str),
    /// See the attribute's word `browser`.
    Browser,
}

/// The kernel attaches programs to functions by fentry and fexit.
pub const fentry: Term = Term::Need(Need::Fentry);

/// The kernel attaches a program to a function by fentry or fexit again, after it was detached (f3a95075549e "bpf:
/// Allow trampoline re-attach for tracing and lsm programs", 5.13).
pub const reattach: Term = Term::Need(Need::Reattach);

/// The kernel has kprobes.
pub const kprobes: Term = Term::Need(Need::Kprobes);

/// The kernel has uprobes.
pub const uprobes: Term = Term::Need(Need::Uprobes);

/// The kernel attaches one program to many functions at once.
pub const fprobes: Term = Term::Need(Need::Fprobes);

/// The kernel attaches programs to functions, by fentry or by kprobes.
pub const functions: Term = Term::Need(Need::Functions);

/// Programs can be attached as copies: see `common::kernel::copies`.
pub const copies: Term = Term::Need(Need::Copies);

/// The test may change the whole machine: units, the installed package, modules, settings. `LIVE_MACHINE`
/// is then `own`.
pub const own_machine: Term = Term::Need(Need::OwnMachine);

/// The disks that pools are made of.
pub const spare_disks: Term = Term::Need(Need::SpareDisks);

/// The cgroup2 file system is mounted.
pub const cgroup2: Term = Term::Need(Need::Cgroup2);

/// The kernel can make storage for tasks, cgroups and the like. Those that have `bpf_map_kmalloc_nolock()`
/// (6.18: mm/slub.c) return ENOMEM on an x86 processor without cmpxchg16b, such as the emulated one of
/// guests.
pub const storage: Term = Term::Need(Need::Storage);

/// The module is loaded, built in, or can be loaded; the test loads it.
pub const fn module(name: &'static str) -> Term {
    Term::Need(Need::Module(name))
}

/// The program is in `PATH`.
pub const fn tool(name: &'static str) -> Term {
    Term::Need(Need::Tool(name))
}

/// The file exists, such as one in /proc.
pub const fn file(path: &'static str) -> Term {
    Term::Need(Need::File(path))
}

/// The kernel has a function or type of that name.
pub const fn kernel_with(name: &'static str) -> Term {
    Term::Need(Need::KernelWith(name))
}

/// The directory is on a single disk, whose reads are counted.
pub const fn disk(folder: &'static str) -> Term {
    Term::Need(Need::Disk(folder))
}

/// A browser, which guests have none of. Everywhere else its absence is a failure: `scripts/packages test`
/// installs one.
pub const browser: Term = Term::Need(Need::Browser);

/// It leaves the machine unusable for other tests, and runs after them.
pub const last: Term = Term::Last;

/// It runs after those that are `last`.
pub const last_of_all: Term = Term::LastOfAll;

/// Its result is the same on all kernels: it runs in one guest only.
pub const once: Term = Term::Once;

/// It waits most of the time, for something that happens after a fixed number of seconds. Where tests
/// run in separate machines, it has its own, which runs beside those that keep processors busy.
pub const waits: Term = Term::Waits;

/// The first need that is not met, as a sentence.
pub(crate) fn missing(terms: &[Term]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    terms.iter().find_map(|term| match term {
        Term::Need(need) => need.missing(),
        Term::Last | Term::LastOfAll | Term::Once | Term::Waits => None,
    })
}

impl Need {
    /// Why the need is not met.
    pub(crate) fn missing(self) -> Option<String> {
        let (met, said) = match self {
            Self::Fentry => (has_fentry(), "needs fentry: this kernel attaches none".to_owned()),
            Self::Reattach if !has_fentry() => return Self::Fentry.missing(),
            Self::Reattach => (
                attach_to_function(2).is_some(),
                "needs fentry twice: this kernel does not attach again".to_owned(),
            ),
            Self::Kprobes => (has_kprobes(), "needs kprobes: this kernel has none".to_owned()),
            Self::Uprobes => (
                Path::new("/sys/bus/event_source/devices/uprobe").exists(),
                "needs uprobes: this kernel has none".to_owned(),
            ),
            Self::Fprobes => {
                (kernel_knows(b"\0register_fprobe\0"), "needs fprobes: this kernel has none".to_owned())
            }
            Self::Functions => {
                (has_fentry() || has_kprobes(), "needs fentry or kprobes: this kernel has neither".to_owned())
            }
            Self::Copies => (
                kernel_knows(b"\0attach_btf_obj_id\0"),
                "needs a kernel that tells what a program is attached to".to_owned(),
            ),
            Self::OwnMachine => {
                (has_own_machine(), "needs a machine of its own: LIVE_MACHINE is not own".to_owned())
            }
            Self::SpareDisks => (
                crate::zpool::DISKS.iter().all(|disk| Path::new(disk).exists()),
                format!("needs spare disks: there is no {}", crate::zpool::DISKS.join(" or no ")),
            ),
            Self::Cgroup2 => {
                (crate::cgroup::root().is_some(), "needs control groups: no cgroup2 is mounted".to_owned())
            }
            Self::Storage => (
                !kernel_knows(b"\0bpf_map_kmalloc_nolock\0") || has_double_exchange(),
                "needs storage of programs: this processor has no cmpxchg16b".to_owned(),
            ),
            Self::Module(name) => (has_module(name), format!("needs module {name}: there is none")),
            Self::Tool(name) => (has_tool(name), format!("needs {name}: it is not in PATH")),
            Self::File(path) => (Path::new(path).exists(), format!("needs {path}: there is none")),
            Self::KernelWith(name) => (
                kernel_knows(format!("\0{name}\0").as_bytes()),
                format!("needs a kernel with {name}: this one has none"),
            ),
            Self::Disk(folder) => (
                crate::block::below(Path::new(folder)).is_some(),
                format!("needs a disk: {folder} is on none that counts"),
            ),
            Self::Browser => (
                !has_own_machine() || has_tool(crate::browser::PROGRAM),
                "needs a browser: guests have none".to_owned(),
            ),
        };
        (!met).then_some(said)
    }
}

fn has_double_exchange() -> bool {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cfg!(not(target_arch = "x86_64")) || processors.split_ascii_whitespace().any(|flag| flag == "cx16")
}

fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe").exists()
}

/// Whether [`fentry`] is met, for tests that can also run without it. Some kernels load such a program
/// but refuse to attach it, so this attaches one.
pub fn has_fentry() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| attach_to_function(1).is_some())
}

/// Attaches a program that returns 0 to the entry of a function and detaches it, so many times; `None` if refused.
fn attach_to_function(times: usize) -> Option<()> {
    // r0 = 0; exit.
    let instructions = [0x0000_0000_0000_00b7u64, 0x0000_0000_0000_0095];
    // Every kernel has this function, as every kernel can open a file.
    let function = CString::new("vfs_open").ok()?;
    let kind = libbpf_sys::BPF_TRACE_FENTRY;
    // SAFETY: without a callback libbpf prints nothing about a refusal.
    let printed = unsafe { libbpf_sys::libbpf_set_print(None) };
    // SAFETY: the names are NUL-terminated and outlive the calls, as do the instructions, whose number is
    // right; descriptors that come back have no other owner.
    let attached = unsafe {
        let id = libbpf_sys::libbpf_find_vmlinux_btf_id(function.as_ptr(), kind);
        let options = libbpf_sys::bpf_prog_load_opts {
            sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as u64,
            expected_attach_type: kind,
            attach_btf_id: u32::try_from(id).unwrap_or(0),
            ..Default::default()
        };
        let program = libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_TRACING,
            c"live".as_ptr().cast::<c_char>(),
            c"GPL".as_ptr().cast::<c_char>(),
            instructions.as_ptr().cast(),
            instructions.len() as u64,
            &raw const options as *mut _,
        );
        let program = (program >= 0).then(|| OwnedFd::from_raw_fd(program));
        program.and_then(|program| {
            (0..times).try_for_each(|_| {
                let program = std::os::fd::AsRawFd::as_raw_fd(&program);
                let link = libbpf_sys::bpf_raw_tracepoint_open(std::ptr::null(), program);
                (link >= 0).then(|| drop(OwnedFd::from_raw_fd(link)))
            })
        })
    };
    // SAFETY: this is the callback that was set before.
    unsafe { libbpf_sys::libbpf_set_print(printed) };
    attached
}

/// Whether the tests may change the whole machine: it is a guest, which may be emulated and then about
/// ten times slower.
pub fn has_own_machine() -> bool {
    std::env::var_os("LIVE_MACHINE").is_some_and(|value| value == "own")
}

/// Whether a task may be preempted while a program runs at a tracepoint: see
/// `common::kernel::preemption`.
pub fn preempts_programs() -> bool {
    static PREEMPTS: OnceLock<bool> = OnceLock::new();
    *PREEMPTS.get_or_init(|| kernel_knows(b"\0class_srcu_fast_notrace_t\0"))
}

/// Whether the kernel's BTF has this name of a type or member. `name` begins and ends with a NUL.
fn kernel_knows(name: &[u8]) -> bool {
    let btf = fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    btf.windows(name.len()).any(|bytes| bytes == name)
}
