// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls that fail for a process that a test starts, as a unit, a container or a limit may have it.

use std::io;

/// Makes the system call `number` fail with `errno` for this process and those that it starts. Safe to
/// call between fork and exec: it makes one system call.
///
/// # Errors
/// When the kernel refuses the filter.
pub fn refuse(number: libc::c_long, errno: libc::c_int) -> io::Result<()> {
    let step = |code: u32, k, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The first member of struct seccomp_data is the system call number.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its length are right, and both outlive the call.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
