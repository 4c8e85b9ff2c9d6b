// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian guests: built, booted, and resumed from states that were kept, with a payload: a folder
//! with an executable `run`, which they see as `/payload`.
//!
//! A guest is booted once. Its state after that is kept beside its image, so that the next one
//! goes on from there in seconds; and so is, for a run of tests, the state with the payload
//! mounted and the package installed.

pub mod accel;
pub mod image;
pub mod machine;
mod mirror;
pub mod suites;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::phases;
use crate::workspace::{self, output};
use accel::Accel;
use image::{Image, key, once, remove};
use machine::{Machine, Parts, tell_console};
use suites::{DISK_BYTES, DISKS, MEMORY_MIB, PAYLOAD_BYTES, Suite};

/// How often a guest is started until its state is kept: a kernel may stand still or fall over under
/// emulation before any program of ours has run.
const ATTEMPTS: u32 = 2;

/// Without any network of its own: what tests need they make.
pub const NO_NETWORK: &str = "none";

/// Lines of the console that are shown when a guest fails.
const CONSOLE_LINES: usize = 40;

/// For a guest to mount its payload.
const MOUNTED: Duration = Duration::from_secs(120);

/// A guest of a row of the table, whose image is there.
#[derive(Clone, Debug)]
pub struct Guest {
    /// The row.
    pub suite: &'static Suite,
    image: Image,
    accel: Accel,
}

/// A guest in the middle of something: its memory, and its root disk as it was then.
#[derive(Clone, Debug)]
pub struct State {
    memory: PathBuf,
    root: PathBuf,
    payload: PathBuf,
}

impl Guest {
    /// The guest of `suite`, its image built when it is not in the cache.
    ///
    /// # Errors
    /// As [`image::ensure`] and [`Accel::find`].
    pub fn of(suite: &'static Suite, accel: Option<Accel>) -> Result<Self> {
        let image = image::ensure(suite)?;
        let accel = Accel::find(accel, &image)?;
        Ok(Self { suite, image, accel })
    }

    /// The state after booting, made when it is not beside the image.
    ///
    /// # Errors
    /// When the guest does not boot, or its state cannot be kept.
    pub fn booted(&self) -> Result<State> {
        // A state is that of one emulator, with one machine.
        let emulator = output(Command::new("qemu-system-x86_64").arg("--version"))?;
        let seed = (
            emulator,
            self.accel.arguments(),
            self.accel.kernel(),
            self.suite.command_line,
            include_str!("machine.rs"),
            (MEMORY_MIB, DISKS, DISK_BYTES, PAYLOAD_BYTES),
        );
        let folder = self.image.folder.join(format!("booted-{:016x}", key(&seed)));
        once(&folder, |unfinished| {
            phases::named(&format!("{}: boot, once for all", self.suite.name), || {
                fs::create_dir_all(unfinished)?;
                let payload = unfinished.join("payload.img");
                File::create(&payload)?.set_len(PAYLOAD_BYTES)?;
                let root = unfinished.join("root.qcow2");
                self.attempt("boot", unfinished, || {
                    overlay(&self.image.root, "raw", &root)?;
                    let mut parts = self.parts(&payload);
                    parts.root = (&root, "qcow2");
                    parts.keep_root = true;
                    let machine = Machine::start(self.accel, &parts, unfinished)?;
                    machine.is_up()?;
                    machine.keep(&unfinished.join("memory"))
                })
            })
        })?;
        Ok(State::of(&folder, folder.join("payload.img")))
    }

    /// The state in which `payload` is mounted and its `setup`, if there is one, has run; files of
    /// it are in `folder`.
    ///
    /// # Errors
    /// When the guest or `setup` fails; `say` has what `setup` printed.
    pub fn ready(&self, payload: &Path, folder: &Path, say: &mut dyn FnMut(&str)) -> Result<State> {
        let state = State::of(folder, folder.join("payload.img"));
        let setup = "[ ! -x /payload/setup ] || /payload/setup";
        let code = self.attempt("take the payload", folder, || {
            let mut machine = self.with_payload(payload, folder, say)?;
            let code = machine.command(setup, MOUNTED, say)?;
            if code == 0 {
                machine.keep(&state.memory)?;
            }
            Ok(code)
        })?;
        match code {
            0 => Ok(state),
            code => bail!("{}: the payload's setup failed: exit {code}", self.suite.name),
        }
    }

    /// Calls `attempt`, which starts a machine whose files are in `folder`, until it succeeds:
    /// [`ATTEMPTS`] times at most. Prints why one failed, and the end of its console.
    fn attempt<T>(&self, what: &str, folder: &Path, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut made = 1;
        loop {
            let error = match attempt() {
                Ok(result) => return Ok(result),
                Err(error) => error.context(format!("guest {} did not {what}", self.suite.name)),
            };
            println!("{error:#} (attempt {made} of {ATTEMPTS})");
            tell_console(folder, CONSOLE_LINES, &mut |line| println!("{line}"));
            if made == ATTEMPTS {
                return Err(error);
            }
            made += 1;
        }
    }

    /// Resumes the booted state with `payload` mounted; what is written to the root disk stays.
    fn with_payload(&self, payload: &Path, folder: &Path, say: &mut dyn FnMut(&str)) -> Result<Machine> {
        let booted = self.booted()?;
        remove(folder)?;
        fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
        let disk = folder.join("payload.img");
        make_disk(&disk, payload)?;
        let root = folder.join("root.qcow2");
        overlay(&booted.root, "qcow2", &root)?;
        let mut parts = self.parts(&disk);
        parts.root = (&root, "qcow2");
        parts.keep_root = true;
        parts.state = Some(&booted.memory);
        let mut machine = Machine::start(self.accel, &parts, folder)?;
        mount(&mut machine, say)?;
        Ok(machine)
    }

    /// Runs a line of shell in a guest that goes on from `state`, handing each line of its output to
    /// `say`; it may be silent for `silence`. Nothing of it stays but files in `folder`. Returns its
    /// exit code.
    ///
    /// # Errors
    /// When the guest ends or says nothing for too long.
    pub fn command(
        &self,
        state: &State,
        line: &str,
        folder: &Path,
        silence: Duration,
        say: &mut dyn FnMut(&str),
    ) -> Result<i32> {
        let mut machine = self.resume(state, folder, None)?;
        let line = format!("date -s @{} > /dev/null; {line}", now());
        machine.command(&line, silence, say).with_context(|| format!("guest {}", self.suite.name))
    }

    /// A machine that goes on from `state`.
    ///
    /// # Errors
    /// When the emulator cannot be started.
    pub fn resume(&self, state: &State, folder: &Path, serial: Option<&str>) -> Result<Machine> {
        remove(folder)?;
        fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
        let mut parts = self.parts(&state.payload);
        parts.root = (&state.root, "qcow2");
        parts.state = Some(&state.memory);
        parts.serial = serial;
        Machine::start(self.accel, &parts, folder)
    }

    /// Runs `payload` in a guest with a network, or without ([`NO_NETWORK`]), handing each line of
    /// its output to `say`; it may be silent for `silence`. Files of the run are kept in `folder`.
    ///
    /// # Errors
    /// When the guest does not boot, says nothing for too long, or the payload fails; `say` has
    /// the end of its console then.
    pub fn run(
        &self,
        payload: &Path,
        folder: &Path,
        network: &str,
        silence: Duration,
        say: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut machine = if network == NO_NETWORK {
            self.with_payload(payload, folder, say)?
        } else {
            // A state has no network card.
            remove(folder)?;
            fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
            let disk = folder.join("payload.img");
            make_disk(&disk, payload)?;
            let mut parts = self.parts(&disk);
            parts.network = network;
            let mut machine = Machine::start(self.accel, &parts, folder)?;
            if let Err(error) = machine.is_up() {
                tell_console(folder, CONSOLE_LINES, say);
                return Err(error.context(format!("guest {} did not boot", self.suite.name)));
            }
            mount(&mut machine, say)?;
            machine
        };
        let result = machine.command("/payload/run", silence, say);
        if !matches!(result, Ok(0)) {
            tell_console(folder, CONSOLE_LINES, say);
        }
        match result.with_context(|| format!("guest {}", self.suite.name))? {
            0 => Ok(()),
            code => bail!("guest {}: the payload failed: exit {code}", self.suite.name),
        }
    }

    fn parts<'a>(&'a self, payload: &'a Path) -> Parts<'a> {
        Parts {
            kernel: &self.image.kernel,
            initrd: &self.image.initrd,
            command_line: self.suite.command_line,
            root: (&self.image.root, "raw"),
            keep_root: false,
            payload,
            network: NO_NETWORK,
            serial: None,
            state: None,
        }
    }
}

impl State {
    fn of(folder: &Path, payload: PathBuf) -> Self {
        Self { memory: folder.join("memory"), root: folder.join("root.qcow2"), payload }
    }
}

/// Lets a guest see its payload; one that was resumed has seen another disk in its place.
fn mount(machine: &mut Machine, say: &mut dyn FnMut(&str)) -> Result<()> {
    let line = format!(
        "date -s @{} > /dev/null && blockdev --flushbufs /dev/disk/by-id/virtio-payload && \
         mkdir -p /payload && mount -o ro /dev/disk/by-id/virtio-payload /payload",
        now()
    );
    match machine.command(&line, MOUNTED, say)? {
        0 => Ok(()),
        code => bail!("the guest cannot mount its payload: exit {code}"),
    }
}

/// Seconds since 1970; the clock of a guest that is resumed stood still meanwhile.
fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs())
}

/// A disk that has what `below` has, and what is written to it.
fn overlay(below: &Path, format: &str, path: &Path) -> Result<()> {
    remove(path)?;
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]).arg(below.canonicalize()?).arg(path);
    workspace::run(&mut create)
}

/// An ext4 file system with the contents of `folder`, of the size that guests have seen.
fn make_disk(path: &Path, folder: &Path) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(["-q", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(folder)
        .arg(path)
        .arg(format!("{}M", PAYLOAD_BYTES >> 20));
    output(&mut mke2fs).map(drop)
}
