// SPDX-License-Identifier: MIT OR Apache-2.0
//! What programs attach to: this process, whose file is also in a folder of `PATH`, and test runs of
//! a program.

use std::arch::asm;
use std::hint::black_box;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// A function with a symbol. Returns what it is called with.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn custom_test_function(value: u64) -> u64 {
    black_box(value)
}

/// A register of an assembly operand, in the words of a probe's note.
#[cfg(target_arch = "x86_64")]
macro_rules! register {
    () => {
        "8@%{value}"
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! register {
    () => {
        "8@{value}"
    };
}

/// Passes the probe `custom_test:probe`, which has `value` as its argument.
///
/// A probe is an instruction without effect, and a note about it: its address, that of the section
/// that prelink(8) moves along and that of a semaphore, of which there are none here, then provider,
/// name and arguments. Its owner is `stapsdt` and its type 3.
#[inline(never)]
pub fn pass_probe(value: u64) {
    // SAFETY: the code does nothing, and the note is in a section that is not loaded.
    unsafe {
        asm!(
            "2:",
            "nop",
            ".pushsection .note.stapsdt, \"\", @note",
            ".balign 4",
            ".4byte 4f - 3f, 6f - 5f, 3",
            "3: .asciz \"stapsdt\"",
            "4: .balign 4",
            "5: .8byte 2b, 0, 0",
            ".asciz \"custom_test\"",
            ".asciz \"probe\"",
            concat!(".asciz \"", register!(), "\""),
            "6: .balign 4",
            ".popsection",
            value = in(reg) value,
            options(nostack, preserves_flags),
        );
    }
}

/// A program that the kernel runs on request: `raw_tp.w/bpf_test_finish`.
pub struct Runnable(OwnedFd);

impl Runnable {
    /// Loads a program that returns 0.
    ///
    /// # Panics
    /// When the kernel refuses it.
    pub fn new() -> Self {
        // r0 = 0; exit.
        let instructions = [0x0000_0000_0000_00b7u64, 0x0000_0000_0000_0095];
        // SAFETY: the names are NUL-terminated and the number of instructions is right. A descriptor
        // that comes back has no other owner.
        unsafe {
            let program = libbpf_sys::bpf_prog_load(
                libbpf_sys::BPF_PROG_TYPE_SOCKET_FILTER,
                c"runnable".as_ptr(),
                c"GPL".as_ptr(),
                instructions.as_ptr().cast(),
                instructions.len() as u64,
                ptr::null_mut(),
            );
            assert!(program >= 0, "{}", std::io::Error::from_raw_os_error(-program));
            Self(OwnedFd::from_raw_fd(program))
        }
    }

    /// Runs it once.
    ///
    /// # Panics
    /// When the kernel refuses that.
    pub fn run(&self) {
        // The shortest packet: a header of Ethernet and a byte.
        let packet = [0u8; 15];
        let mut options = libbpf_sys::bpf_test_run_opts {
            sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
            data_in: packet.as_ptr().cast(),
            data_size_in: packet.len() as u32,
            ..Default::default()
        };
        // SAFETY: the packet outlives the call, and is as long as the options say.
        let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(self.0.as_raw_fd(), &raw mut options) };
        assert_eq!(result, 0);
    }
}
