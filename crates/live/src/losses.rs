// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events that a program of a running exporter does not see, as if the kernel had lost them.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;
use std::time::Duration;

use libbpf_rs::query::{LinkInfoIter, ProgInfoIter};

use crate::exporter::Exporter;
use crate::machine::wait_until;

/// A program that the exporter loaded and that is no longer attached.
#[derive(Debug)]
pub struct Deaf {
    program: OwnedFd,
    name: String,
}

impl Exporter {
    /// Detaches a program, which is attached once (`--ebpf.preempts false`), and leaves it to the caller to
    /// attach it again. The exporter does not notice.
    ///
    /// # Panics
    /// When it has no such program, or no link of it.
    #[track_caller]
    pub fn deafen(&self, name: &str) -> Deaf {
        // The kernel keeps the first 15 bytes of a name (BPF_OBJ_NAME_LEN).
        let kept = &name.as_bytes()[..name.len().min(15)];
        let links = links(self.pid());
        let mut found = ProgInfoIter::default().filter(|info| info.name.as_encoded_bytes() == kept);
        let Link { descriptor, id, program } = *found
            .find_map(|info| links.iter().find(|link| link.program == info.id))
            .unwrap_or_else(|| panic!("{name} has no link in process {}: {links:?}", self.pid()));
        // SAFETY: it only makes a descriptor.
        let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(program) };
        assert!(fd >= 0, "{name}: {}", io::Error::from_raw_os_error(-fd));
        // The last descriptor of a link keeps the program attached. Standard input takes its place, so that
        // no other file of the exporter gets this number.
        let mut result = 0;
        wait_until("the exporter waits in a system call", Duration::from_secs(60), || {
            let answer = call_in(self.pid(), libc::SYS_dup2, [0, descriptor as u64]);
            result = answer.unwrap_or_default();
            answer.is_some()
        });
        assert_eq!(result, i64::from(descriptor), "{name}: {}", io::Error::from_raw_os_error(-result as i32));
        // The kernel closes it a moment after the call.
        let is_there = || LinkInfoIter::default().any(|link| link.id == id);
        wait_until("the program is detached", Duration::from_secs(60), || !is_there());
        // SAFETY: the kernel has just made it for this process.
        Deaf { program: unsafe { OwnedFd::from_raw_fd(fd) }, name: name.to_owned() }
    }
}

impl Deaf {
    /// Attaches the program again: one of `tp_btf`, `fentry` or `fexit`. It is attached until the link is
    /// dropped.
    ///
    /// # Panics
    /// When the kernel refuses it.
    #[track_caller]
    pub fn attach(self) -> OwnedFd {
        // SAFETY: the program is open, and its section names the place.
        let link = unsafe { libbpf_sys::bpf_raw_tracepoint_open(ptr::null(), self.program.as_raw_fd()) };
        assert!(link >= 0, "{}: {}", self.name, io::Error::from_raw_os_error(-link));
        // SAFETY: as above.
        unsafe { OwnedFd::from_raw_fd(link) }
    }
}

/// A link that a process has.
#[derive(Debug)]
struct Link {
    descriptor: RawFd,
    id: u32,
    /// The id of its program.
    program: u32,
}

fn links(process: u32) -> Vec<Link> {
    let folder = format!("/proc/{process}");
    let numbers = fs::read_dir(Path::new(&folder).join("fdinfo")).expect("it runs");
    let names = numbers.map(|entry| entry.expect("an entry").file_name().into_string().expect("a number"));
    names
        .filter_map(|number| {
            let text = fs::read_to_string(format!("{folder}/fdinfo/{number}")).ok()?;
            let value = |key| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            Some(Link {
                descriptor: number.parse().ok()?,
                id: value("link_id:")?.parse().ok()?,
                program: value("prog_id:")?.parse().ok()?,
            })
        })
        .collect()
}

/// Makes a system call in a process, and returns its result; None if its first thread does not wait in one.
///
/// # Panics
/// When the process cannot be traced.
#[track_caller]
fn call_in(process: u32, number: i64, arguments: [u64; 2]) -> Option<i64> {
    const INSTRUCTION: u64 = 0x050f;
    let process = process.cast_signed();
    let ask = |request: libc::c_uint, address: u64, data: u64| {
        // SAFETY: `data` is a number, or the address of registers that live as long as this call.
        let result = unsafe { libc::ptrace(request, process, address, data) };
        assert_ne!((result, request), (-1, request), "ptrace: {}", io::Error::last_os_error());
        result
    };
    let stops = || {
        let mut status = 0;
        // SAFETY: it only writes `status`.
        let waited = unsafe { libc::waitpid(process, &raw mut status, libc::__WALL) };
        assert!(waited == process && libc::WIFSTOPPED(status), "{waited}: status {status:#x}");
    };
    let registers = || {
        // SAFETY: numbers only; zeros are valid.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        ask(libc::PTRACE_GETREGS, 0, (&raw mut registers) as u64);
        registers
    };
    ask(libc::PTRACE_SEIZE, 0, 0);
    ask(libc::PTRACE_INTERRUPT, 0, 0);
    stops();
    let before = registers();
    let at = before.rip - 2;
    let word = ask(libc::PTRACE_PEEKTEXT, at, 0);
    if word as u64 & 0xffff != INSTRUCTION {
        ask(libc::PTRACE_DETACH, 0, 0);
        return None;
    }
    let mut call = before;
    // No call to restart, in the kernel's eyes.
    call.orig_rax = u64::MAX;
    (call.rip, call.rax) = (at, number as u64);
    [call.rdi, call.rsi] = arguments;
    ask(libc::PTRACE_SETREGS, 0, (&raw const call) as u64);
    ask(libc::PTRACE_SINGLESTEP, 0, 0);
    stops();
    let result = registers().rax;
    // The call that was interrupted goes on.
    ask(libc::PTRACE_SETREGS, 0, (&raw const before) as u64);
    ask(libc::PTRACE_DETACH, 0, 0);
    Some(result as i64)
}
