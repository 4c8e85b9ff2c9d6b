// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this process may do with eBPF: its capabilities, and other conditions of the kernel.

use std::fs;
use std::io;

use caps::{CapSet, Capability};
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Func;
use rustix::process::{Resource, getrlimit};

use crate::kernel::symbols;
use crate::kernel::types::KERNEL_BTF;

/// Whether this process has the capability in its effective set.
pub fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Capabilities for loading tracing programs that this process lacks.
pub fn missing() -> &'static [&'static str] {
    let admin = has(Capability::CAP_SYS_ADMIN);
    match (admin || has(Capability::CAP_BPF), admin || has(Capability::CAP_PERFMON)) {
        (true, true) => &[],
        (false, true) => &["CAP_BPF"],
        (true, false) => &["CAP_PERFMON"],
        (false, false) => &["CAP_BPF", "CAP_PERFMON"],
    }
}

/// Whether this process is in a user namespace other than the initial one. Its capabilities apply
/// only there.
pub fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<&str> = map.split_whitespace().collect();
    !numbers.is_empty() && numbers != ["0", "0", "4294967295"]
}

/// Whether a seccomp filter applies to this process.
pub fn has_seccomp_filter() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// Limit of locked memory in bytes, if there is one.
pub fn lockable() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Whether maps and programs count as locked memory of their user: before 80ee81e0403c ("bpf:
/// Eliminate rlimit-based memory accounting infra for bpf maps"), 5.11.
pub fn charges_locked_memory() -> bool {
    const CHARGES: &str = "bpf_map_charge_init";
    match Btf::from_path(KERNEL_BTF) {
        Ok(btf) => btf.type_by_name::<Func<'_>>(CHARGES).is_some(),
        Err(_) => symbols::has(CHARGES),
    }
}

/// `kernel.perf_event_paranoid`; Debian's kernels have a level above 2.
pub fn perf_event_paranoid() -> Option<i32> {
    fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?.trim().parse().ok()
}

/// Whether no seccomp filter blocks bpf(2): the kernel itself rejects an unknown command with EINVAL.
/// Valid only for a process with the capabilities.
pub fn takes_bpf_calls() -> bool {
    // SAFETY: a command that does not exist, without an argument.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, i32::MAX, std::ptr::null::<u8>(), 0) };
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

/// Whether lockdown prevents eBPF from reading kernel memory.
pub fn locked_down() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown").is_ok_and(|mode| mode.contains("[confidentiality]"))
}
