// SPDX-License-Identifier: MIT OR Apache-2.0
//! System calls that fail for a process that a test starts, as a unit, a container or a limit may have it.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Makes the system call `number` fail with `errno` for this process and those that it starts. Safe to
/// call between fork and exec: it makes one system call.
///
/// # Errors
/// When the kernel refuses the filter.
pub fn refuse(number: libc::c_long, errno: libc::c_int) -> io::Result<()> {
    filter(number, libc::SECCOMP_RET_ERRNO | errno as u32, 0).map(drop)
}

/// Makes the system call `number` wait for an answer by the descriptor's owner.
fn listen(number: libc::c_long) -> io::Result<OwnedFd> {
    let filter = filter(number, libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: with this flag the kernel returns a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(filter) })
}

/// Installs a filter that has one answer to the system call `number`, and allows all others.
fn filter(number: libc::c_long, answer: u32, flags: libc::c_ulong) -> io::Result<i32> {
    let step = |code: u32, k, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The first member of struct seccomp_data is the system call number.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, answer, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program and its length are right, and both outlive the call.
    match unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) } {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result as i32),
    }
}

/// Lets this process decide about the BPF programs that `command` loads once it is started. `refuses` gets
/// the name of a program and the number of its instructions.
///
/// # Panics
/// When the kernel has no such filter, or the process that is started sends none.
pub fn decide_about_programs(command: &mut Command, refuses: impl Fn(&str, u32) -> bool + Send + 'static) {
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    thread::spawn(move || answer(&received(&here), &refuses));
    // SAFETY: between fork and exec it only makes system calls.
    unsafe {
        command.pre_exec(move || {
            let filter = listen(libc::SYS_bpf)?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let filters = [filter.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&filters));
            sendmsg(&there, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
            Ok(())
        })
    };
}

fn received(from: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(from, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::empty()).expect("a filter");
    let mut messages = control.drain();
    match messages.next() {
        Some(RecvAncillaryMessage::ScmRights(mut filters)) => filters.next().expect("a filter"),
        _ => panic!("the process sent no filter"),
    }
}

/// Answers until the process and those that it started have ended.
fn answer(filter: &OwnedFd, refuses: &dyn Fn(&str, u32) -> bool) {
    loop {
        let mut events = [PollFd::new(filter, PollFlags::IN)];
        poll(&mut events, None).expect("a filter");
        if !events[0].revents().contains(PollFlags::IN) {
            return;
        }
        // SAFETY: numbers only. The kernel demands zeros, reads and writes one struct, and both outlive the
        // calls. A process that has ended meanwhile gets no answer.
        unsafe {
            let mut asked: libc::seccomp_notif = std::mem::zeroed();
            if libc::ioctl(filter.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) == -1 {
                continue;
            }
            let mut answer: libc::seccomp_notif_resp = std::mem::zeroed();
            answer.id = asked.id;
            match program(&asked).is_some_and(|(name, instructions)| refuses(&name, instructions)) {
                true => answer.error = -libc::EINVAL,
                false => answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            }
            libc::ioctl(filter.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer);
        }
    }
}

/// Name and number of instructions of the program that a call of bpf(2) loads; None of other calls.
fn program(asked: &libc::seccomp_notif) -> Option<(String, u32)> {
    const BPF_PROG_LOAD: u64 = 5;
    /// Where union bpf_attr has them (include/uapi/linux/bpf.h).
    const INSTRUCTIONS: Range<usize> = 4..8;
    const NAME: Range<usize> = 48..64;
    let [command, attributes, ..] = asked.data.args;
    if command != BPF_PROG_LOAD {
        return None;
    }
    let mut bytes = [0; NAME.end];
    File::open(format!("/proc/{}/mem", asked.pid)).ok()?.read_exact_at(&mut bytes, attributes).ok()?;
    let name = CStr::from_bytes_until_nul(&bytes[NAME]).ok()?.to_str().ok()?.to_owned();
    Some((name, u32::from_ne_bytes(bytes[INSTRUCTIONS].try_into().ok()?)))
}
