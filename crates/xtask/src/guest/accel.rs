// SPDX-License-Identifier: MIT OR Apache-2.0
//! How guests are run: by the processor (KVM) where that works, else by an emulator (TCG).

use std::io::{BufRead, BufReader};
use std::num::NonZero;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};

use super::image::Image;

/// Seconds within which a kernel says its first words on a processor that runs guests.
const PROBE_SECONDS: &str = "10";

/// All that the emulator can but cmpxchg16b, after which QEMU 7.2 has one of its operands in the
/// flags register: in each of four panics of a 6.12 guest, all of them at that instruction in the
/// memory allocator, EFLAGS was RAX with the zero and interrupt flags. What follows it looks at one flag and
/// overwrites the rest, but an interrupt between the two has the others restored: a double fault
/// with some, a program that goes on wrongly with others. Kernels do without it where it is not there.
///
/// And without "fast" string operations: kernels then clear pages with `rep stosb`, which is
/// emulated a byte at a time. Programs that use up all memory take two thirds of the time.
///
/// And without what costs at each page walk (a fifth level of page tables) or each copy from a program (SMAP ends
/// a translated block twice), and that no test is about. Of three runs each of boot, installation, starts of
/// programs and of exporters on 7.2, with and without: 67 s of CPU time on average, and 61.
const EMULATED_CPU: &str = "max,-cx16,-erms,-la57,-smap,-smep,-pku,-umip";

/// Firmware that loads a kernel and does nothing else; comes with the emulator. Its usual one took
/// 2 s in some starts and 35 s in others until the kernel's first instruction.
const EMULATED_FIRMWARE: &str = "qboot.rom";

/// One thread for all processors of a guest. With a thread each, QEMU 7.2 has executed a breakpoint
/// that another processor had just taken out of the code (patching of kernel text: "Oops: int3" in a
/// BPF trampoline, 7.2); and instructions that lock memory cost more: diskio's tests took 75 s of
/// CPU time with two threads and 55 with one. Guests beside each other use the other processors.
const EMULATOR: &str = "tcg,thread=single";

/// What runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// The emulator.
    Tcg,
    /// The processor, by /dev/kvm.
    Kvm,
}

impl Accel {
    /// What was asked for, else KVM if a guest really starts with it: that the device is there, or
    /// can be opened, says little inside a virtual machine. Tried once.
    ///
    /// # Errors
    /// When the emulator cannot be started.
    pub fn find(asked: Option<Self>, image: &Image) -> Result<Self> {
        static FOUND: Mutex<Option<Accel>> = Mutex::new(None);
        if let Some(asked) = asked {
            return Ok(asked);
        }
        let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = *found {
            return Ok(found);
        }
        let works = Path::new("/dev/kvm").exists() && starts_with_kvm(image)?;
        let (accel, said) = if works {
            (Self::Kvm, "run by KVM")
        } else {
            (Self::Tcg, "emulated (no guest starts with /dev/kvm here)")
        };
        println!("guests: {said}");
        *found = Some(accel);
        Ok(accel)
    }

    /// Arguments of the emulator.
    pub fn arguments(self) -> Vec<String> {
        let processors = match self {
            // Emulated in turn, by one thread.
            Self::Tcg => 2,
            Self::Kvm => thread::available_parallelism().map_or(2, NonZero::get),
        };
        let mut arguments: Vec<&str> = match self {
            Self::Tcg => vec!["-accel", EMULATOR, "-cpu", EMULATED_CPU, "-bios", EMULATED_FIRMWARE],
            Self::Kvm => vec!["-accel", "kvm", "-cpu", "host"],
        };
        let processors = processors.to_string();
        arguments.extend(["-smp", &processors]);
        arguments.into_iter().map(ToOwned::to_owned).collect()
    }

    /// What the kernel is told.
    ///
    /// `norandmaps`: the emulator translates a program anew wherever it runs at another address.
    /// With all at the same, a program starts and ends in a third of the time.
    pub fn kernel(self) -> &'static str {
        match self {
            Self::Tcg => "norandmaps",
            Self::Kvm => "",
        }
    }
}

/// Whether a kernel says anything within [`PROBE_SECONDS`]. It finds no root and ends; where the
/// processor refuses, the emulator says so and waits.
fn starts_with_kvm(image: &Image) -> Result<bool> {
    let (output, input) = std::io::pipe()?;
    let mut timeout = Command::new("timeout");
    timeout
        .args([PROBE_SECONDS, "qemu-system-x86_64", "-M", "q35", "-m", "512", "-display", "none"])
        .args(Accel::Kvm.arguments())
        .args(["-vga", "none", "-no-reboot", "-nic", "none", "-serial", "stdio", "-monitor", "none"])
        .args(["-append", "console=ttyS0 panic=-1", "-kernel"])
        .arg(&image.kernel)
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input);
    let mut child = timeout.spawn()?;
    // It holds the other end of the pipe, which then would not end.
    drop(timeout);
    let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
    let told = lines.filter_map(|line| {
        let line = String::from_utf8_lossy(&line);
        let (works, fails) = (line.contains("Linux version"), line.contains("KVM internal error"));
        (works || fails).then_some(works)
    });
    let works = told.into_iter().next().unwrap_or(false);
    // timeout hands it on to the emulator.
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    child.wait()?;
    Ok(works)
}
