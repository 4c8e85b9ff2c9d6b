// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots a Debian guest under emulation, runs a payload in it, brings back output and
//! exit code. The payload is a folder with an executable `run`.

pub mod image;
pub mod suites;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use rustix::process::{Signal, set_parent_process_death_signal};

use image::Image;
use suites::{DISK_BYTES, DISKS, MEMORY_MIB, SUITES, Suite};

/// From power on to the payload's start; takes 20 s on two cores.
const BOOT: Duration = Duration::from_secs(300);

/// All that the emulator can but cmpxchg16b, after which QEMU 7.2 has one of its operands in the
/// flags register: in each of four panics of a 6.12 guest, all of them at that instruction in the
/// memory allocator, EFLAGS was RAX with the zero and interrupt flags. What follows it looks at one flag and
/// overwrites the rest, but an interrupt between the two has the others restored: a double fault
/// with some, a program that goes on wrongly with others. Kernels do without it where it is not there.
///
/// And without "fast" string operations: kernels then clear pages with `rep stosb`, which is
/// emulated a byte at a time. Programs that use up all memory take two thirds of the time.
const CPU: &str = "max,-cx16,-erms";

/// What the kernel is told, after the root disk.
///
/// `norandmaps`: the emulator translates a program anew wherever it runs at another address.
/// With all at the same, a program starts and ends in a third of the time.
const KERNEL: &str =
    "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable rcupdate.rcu_expedited=1 norandmaps";

/// Firmware that loads a kernel and does nothing else; comes with the emulator. Its usual one took
/// 2 s in some starts and 35 s in others until the kernel's first instruction.
const FIRMWARE: &str = "qboot.rom";

/// How often a guest is started until it has booted.
const BOOTS: u32 = 2;

/// File of a run that has what the kernel printed.
const CONSOLE: &str = "console.log";

/// Lines of the console that are shown when something fails.
const CONSOLE_LINES: usize = 60;

/// How often an image is built until it is there: packages come from far away.
const BUILDS: u32 = 3;

/// The image of `suite`, built when it is not in the cache; by one thread at a time.
///
/// # Errors
/// As [`image::ensure`].
pub fn image_of(suite: &Suite) -> Result<Image> {
    static MAKING: [Mutex<()>; SUITES.len()] = [const { Mutex::new(()) }; SUITES.len()];
    let place = SUITES.iter().position(|other| other.name == suite.name).context("no such guest")?;
    let _making = MAKING[place].lock().unwrap_or_else(PoisonError::into_inner);
    for attempt in 1..BUILDS {
        match image::ensure(suite) {
            Err(error) => println!("{error:#} ({attempt} of {BUILDS})"),
            image => return image,
        }
    }
    image::ensure(suite)
}

/// Without any network of its own: what tests need they make.
pub const NO_NETWORK: &str = "none";

/// Runs `payload` in a fresh guest of `suite`, handing each line of its output to `say`;
/// it may be silent for `silence`, `network` is as the emulator's `-nic` takes it. Files of the
/// run are kept in `folder`.
///
/// # Errors
/// When the guest does not boot, says nothing for too long, or the payload fails; `say` has the
/// end of its console then.
pub fn run(
    suite: &Suite,
    payload: &Path,
    folder: &Path,
    network: &str,
    silence: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let image = image_of(suite)?;
    image::remove(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let console = folder.join(CONSOLE);
    let result = boot_patiently(&image, payload, folder, network, say)
        .and_then(|guest| guest.watch(silence, say))
        .with_context(|| format!("guest {} (console: {})", suite.name, console.display()));
    if result.is_err() {
        tell_console(folder, say);
    }
    result
}

/// The end of what the kernel printed.
fn tell_console(folder: &Path, say: &mut dyn FnMut(&str)) {
    let console = folder.join(CONSOLE);
    let text = fs::read(&console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    say("--- the end of the guest's console ---");
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].iter().for_each(|line| say(line));
    say(&format!("--- {} ---", console.display()));
}

/// A running emulator; it is killed when this is dropped.
struct Guest {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A kernel may stand still or fall over under emulation before any program of ours has run: such
/// a guest is started again.
fn boot_patiently(
    image: &Image,
    payload: &Path,
    folder: &Path,
    network: &str,
    say: &mut dyn FnMut(&str),
) -> Result<Guest> {
    let disk = folder.join("payload.img");
    make_disk(&disk, payload)?;
    for attempt in 1..=BOOTS {
        let guest = boot(image, &disk, folder, network)?;
        if guest.is_up()? {
            return Ok(guest);
        }
        say(&format!("guest {}: did not boot within {BOOT:?} ({attempt} of {BOOTS}):", folder.display()));
        tell_console(folder, say);
    }
    bail!("did not boot")
}

fn boot(image: &Image, payload: &Path, folder: &Path, network: &str) -> Result<Guest> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-M", "q35", "-smp", "2"])
        .args(["-m", &MEMORY_MIB.to_string(), "-display", "none", "-no-reboot", "-nic", network])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initrd)
        .args(["-append", &format!("root=/dev/vda rw {KERNEL}"), "-bios", FIRMWARE, "-vga", "none"])
        .arg("-serial")
        .arg(format!("file:{}", folder.join(CONSOLE).display()))
        // Our standard input and output are the guest's port `out`.
        .args(["-chardev", "stdio,id=out,signal=off", "-device", "virtio-serial-pci"])
        .args(["-device", "virtserialport,chardev=out,name=out"]);
    add_disk(&mut qemu, "root", &image.root, "snapshot=on");
    add_disk(&mut qemu, "payload", payload, "readonly=on");
    for name in DISKS {
        let path = folder.join(format!("{name}.img"));
        File::create(&path)?.set_len(DISK_BYTES)?;
        add_disk(&mut qemu, name, &path, "cache=unsafe");
    }
    // SAFETY: between fork and exec it makes one system call and nothing else.
    unsafe {
        // A guest does not outlive us, whatever ends us.
        qemu.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut child = qemu
        // Never written to, but open: at its end the emulator would close the port.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(folder.join("qemu.log"))?)
        .spawn()
        .context("failed to start qemu-system-x86_64")?;
    let output = child.stdout.take().context("no standard output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    Ok(Guest { child, lines })
}

fn add_disk(qemu: &mut Command, name: &str, path: &Path, option: &str) {
    qemu.arg("-drive").arg(format!("id={name},if=none,format=raw,file={},{option}", path.display()));
    qemu.arg("-device").arg(format!("virtio-blk-pci,drive={name},serial={name}"));
}

/// An ext4 file system with the contents of `folder`, and some room.
fn make_disk(path: &Path, folder: &Path) -> Result<()> {
    let bytes = size(folder)?;
    let mib = bytes / (1 << 20) * 5 / 4 + 16;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(folder)
        .arg(path)
        .arg(format!("{mib}M"));
    crate::workspace::run(&mut mke2fs)
}

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))? {
        let entry = entry?;
        let data = entry.metadata()?;
        bytes += if data.is_dir() { size(&entry.path())? } else { data.len() };
    }
    Ok(bytes)
}

impl Guest {
    /// Waits until it has booted; whether it has in time.
    fn is_up(&self) -> Result<bool> {
        match self.lines.recv_timeout(BOOT) {
            Ok(line) if line == "guest: up" => Ok(true),
            Ok(line) => bail!("it says {line:?} instead of being up"),
            // Disconnected: it panicked.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(false),
        }
    }

    /// Hands on what the payload prints until it has ended.
    fn watch(mut self, silence: Duration, say: &mut dyn FnMut(&str)) -> Result<()> {
        loop {
            let line = match self.lines.recv_timeout(silence) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => bail!("the payload has said nothing for {silence:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest ended before its payload did: {}", self.child.wait()?)
                }
            };
            match line.strip_prefix("guest: exit ") {
                Some("0") => return Ok(()),
                Some(code) => bail!("the payload failed: exit {code}"),
                None => say(&line),
            }
        }
    }
}
