// SPDX-License-Identifier: MIT OR Apache-2.0
//! A running emulator: it boots or resumes a guest, takes commands for it, and keeps its state.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};

use super::accel::Accel;
use super::suites::{DISK_BYTES, DISKS, MEMORY_MIB};

/// From power on to the first word; takes 20 s on two cores.
const BOOT: Duration = Duration::from_secs(300);

/// For the emulator's own answers: keeping a state writes some hundred MB.
const ANSWER: Duration = Duration::from_secs(120);

/// For the emulator to end, once it does.
const END: Duration = Duration::from_secs(10);

/// What the kernel is told, after the root disk. The second line leaves out hardening that costs an
/// emulated processor much and that no test is about.
const KERNEL: &str = "console=ttyS0 panic=-1 quiet tsc=reliable rcupdate.rcu_expedited=1 \
                      mitigations=off init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off apparmor=0";

/// What a guest is started from.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// Kernel.
    pub kernel: &'a Path,
    /// Its initramfs.
    pub initrd: &'a Path,
    /// What the kernel is told beside what all are told.
    pub command_line: &'a str,
    /// Root disk, and its format as the emulator calls it.
    pub root: (&'a Path, &'a str),
    /// Whether what is written to the root disk is kept.
    pub keep_root: bool,
    /// Disk with the payload.
    pub payload: &'a Path,
    /// As the emulator's `-nic` takes it.
    pub network: &'a str,
    /// Where the emulator connects the guest's serial port; without one, a file takes what the
    /// kernel prints.
    pub serial: Option<&'a str>,
    /// A state that [`Machine::keep`] wrote: the guest goes on from there.
    pub state: Option<&'a Path>,
}

/// A running emulator; it is killed when this is dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
    monitor: UnixStream,
    folder: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// Starts the emulator; its files, and the guest's empty disks, are in `folder`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(accel: Accel, parts: &Parts<'_>, folder: &Path) -> Result<Self> {
        // A socket without a name: that of a file may be too long.
        let (monitor, theirs) = UnixStream::pair().context("no socket for the emulator's monitor")?;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(accel.arguments())
            .args(["-M", "q35", "-m", &MEMORY_MIB.to_string()])
            .args(["-display", "none", "-vga", "none", "-no-reboot", "-nic", parts.network])
            .arg("-kernel")
            .arg(parts.kernel)
            .arg("-initrd")
            .arg(parts.initrd)
            .arg("-append")
            .arg(format!("root=/dev/vda rw {KERNEL} {} {}", accel.kernel(), parts.command_line))
            .arg("-serial")
            .arg(
                parts.serial.map_or_else(|| format!("file:{}", console(folder).display()), ToOwned::to_owned),
            )
            .args(["-chardev", "stdio,id=control,signal=off", "-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=control,name=control"])
            .arg("-chardev")
            .arg(format!("socket,id=monitor,fd={}", theirs.as_raw_fd()))
            .args(["-mon", "chardev=monitor,mode=control"]);
        let (root, format) = parts.root;
        let keep = if parts.keep_root { "cache=unsafe" } else { "snapshot=on" };
        add_disk(&mut qemu, "root", root, &format!("format={format},{keep}"));
        add_disk(&mut qemu, "payload", parts.payload, "format=raw,readonly=on");
        for name in DISKS {
            let path = folder.join(format!("{name}.img"));
            File::create(&path)?.set_len(DISK_BYTES)?;
            add_disk(&mut qemu, name, &path, "format=raw,cache=unsafe");
        }
        // A state is kept of a machine that was stopped. Without this, it would say so, and the one
        // that resumes from it would stay stopped.
        qemu.args(["-global", "migration.store-global-state=off"]);
        if let Some(state) = parts.state {
            qemu.args(["-incoming", &format!("exec:cat '{}'", state.display())]);
        }
        let inherited = theirs.as_raw_fd();
        let as_child = move || {
            // A guest does not outlive us, whatever ends us.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // SAFETY: it is open: the emulator is started before `theirs` is dropped.
            Ok(fcntl_setfd(unsafe { BorrowedFd::borrow_raw(inherited) }, FdFlags::empty())?)
        };
        // SAFETY: between fork and exec it makes two system calls and nothing else.
        unsafe { qemu.pre_exec(as_child) };
        let mut child = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("qemu.log"))?)
            .spawn()
            .context("failed to start qemu-system-x86_64")?;
        let output = child.stdout.take().context("no standard output")?;
        let commands = child.stdin.take().context("no standard input")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, commands, lines, monitor, folder: folder.to_owned() })
    }

    /// Waits until it has booted. A guest that resumes says nothing.
    ///
    /// # Errors
    /// When it does not say in time that it has, or says something else.
    pub fn is_up(&self) -> Result<()> {
        match self.lines.recv_timeout(BOOT) {
            Ok(line) if line == "guest: up" => Ok(()),
            Ok(line) => bail!("it says {line:?} instead of being up"),
            Err(RecvTimeoutError::Timeout) => bail!("it says nothing for {BOOT:?} {}", self.complaint()),
            // It panicked, or the emulator refused.
            Err(RecvTimeoutError::Disconnected) => bail!("the emulator ended {}", self.complaint()),
        }
    }

    /// What the emulator itself complained of.
    fn complaint(&self) -> String {
        fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default().trim().to_owned()
    }

    /// Runs a line of shell in the guest, handing each line of its output to `say`; it may be
    /// silent for `silence`. Returns its exit code.
    ///
    /// # Errors
    /// When the guest ends, or says nothing for too long.
    pub fn command(&mut self, line: &str, silence: Duration, say: &mut dyn FnMut(&str)) -> Result<i32> {
        writeln!(self.commands, "{line}").context("the emulator takes no commands any more")?;
        loop {
            let line = match self.lines.recv_timeout(silence) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => bail!("the guest has said nothing for {silence:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest ended in the middle: {} {}", self.child.wait()?, self.complaint())
                }
            };
            match line.strip_prefix("guest: exit ") {
                Some(code) => return code.parse().with_context(|| format!("exit code {code:?}")),
                None => say(&line),
            }
        }
    }

    /// Writes the guest's memory and devices to `state` and ends the emulator: with the disks as
    /// they are then, another one goes on from there.
    ///
    /// # Errors
    /// When the emulator refuses.
    pub fn keep(mut self, state: &Path) -> Result<()> {
        if let Err(error) = self.write_state(state) {
            // One that ends has closed its monitor before, and its output with it.
            let ends = loop {
                if let Err(why) = self.lines.recv_timeout(END) {
                    break why == RecvTimeoutError::Disconnected;
                }
            };
            let emulator = if ends { self.child.wait()?.to_string() } else { "still runs".to_owned() };
            let complaint = self.complaint();
            return Err(error.context(format!("its state is not kept; the emulator: {emulator} {complaint}")));
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("its state may be incomplete; the emulator: {status} {}", self.complaint());
        }
        Ok(())
    }

    fn write_state(&self, state: &Path) -> Result<()> {
        let mut monitor = Monitor::connect(self.monitor.try_clone()?)?;
        // While its memory is written, the guest must not change it. Before version 9.0 the emulator
        // misses some of the pages that an emulated processor writes to meanwhile, so that the state
        // has a mixture of old and new pages (QEMU, 03bfc2188f06, "physmem: Fix migration dirty
        // bitmap coherency with TCG memory access").
        monitor.ask(&json!({"execute": "stop"}))?;
        monitor.ask(&json!({"execute": "migrate-set-capabilities", "arguments": {"capabilities": [
            {"capability": "events", "state": true}
        ]}}))?;
        // No limit, as there is nobody to share a network with.
        monitor.ask(&json!({"execute": "migrate-set-parameters",
            "arguments": {"max-bandwidth": 1u64 << 40}}))?;
        let uri = format!("exec:cat > '{}'", state.display());
        monitor.ask(&json!({"execute": "migrate", "arguments": {"uri": uri}}))?;
        loop {
            let event = monitor.event("MIGRATION")?;
            match event["data"]["status"].as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => bail!("its state cannot be kept: {event}"),
                _ => {}
            }
        }
        monitor.ask(&json!({"execute": "quit"}))
    }
}

fn console(folder: &Path) -> PathBuf {
    folder.join("console.log")
}

/// The last `count` lines that the kernel of a guest printed whose files are in `folder`.
pub fn tell_console(folder: &Path, count: usize, say: &mut dyn FnMut(&str)) {
    let path = console(folder);
    let text = fs::read(&path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    say(&format!("--- the end of the guest's console, {} ---", path.display()));
    lines[lines.len().saturating_sub(count)..].iter().for_each(|line| say(line));
    say("--- end ---");
}

fn add_disk(qemu: &mut Command, name: &str, path: &Path, options: &str) {
    qemu.arg("-drive").arg(format!("id={name},if=none,file={},{options}", path.display()));
    qemu.arg("-device").arg(format!("virtio-blk-pci,drive={name},serial={name}"));
}

/// The emulator's monitor (QMP): JSON, a line each way.
struct Monitor {
    lines: BufReader<UnixStream>,
    stream: UnixStream,
}

impl Monitor {
    fn connect(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWER))?;
        let mut monitor = Self { lines: BufReader::new(stream.try_clone()?), stream };
        monitor.read().context("no greeting")?;
        monitor.ask(&json!({"execute": "qmp_capabilities"}))?;
        Ok(monitor)
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line).context("the emulator does not answer")? == 0 {
            bail!("the emulator has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }

    /// Waits for the answer to a command.
    fn ask(&mut self, command: &Value) -> Result<()> {
        // All at once: the emulator obeys `quit` at its last brace, and takes no line end after that.
        let line = format!("{command}\n");
        self.stream.write_all(line.as_bytes()).with_context(|| format!("it does not take {command}"))?;
        loop {
            let answer = self.read().with_context(|| format!("after {command}"))?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
        }
    }

    fn event(&mut self, name: &str) -> Result<Value> {
        loop {
            let event = self.read()?;
            if event["event"] == name {
                return Ok(event);
            }
        }
    }
}
