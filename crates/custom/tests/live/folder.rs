// SPDX-License-Identifier: MIT OR Apache-2.0
//! A folder of test configs for one exporter, and the trigger to which their programs listen.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use live::exporter::Exporter;
use object::{Object, ObjectSection, ObjectSymbol};
use tempfile::TempDir;

include!(concat!(env!("OUT_DIR"), "/configs.rs"));

/// First argument of the trigger.
const MAGIC: libc::c_ulong = 0x4542_5046;

/// This process's file in a folder of `PATH`, as in `uprobe/custom-test-target:custom_test_function`.
const TARGET: &str = "custom-test-target";

/// Variable of the objects that says whose triggers count.
const WHOSE: &str = "trigger_tgid";

/// The bytes of a test config's file, whose object listens to this process.
///
/// # Panics
/// When there is no such file.
pub fn bytes(file: &str) -> Vec<u8> {
    let path = format!("tests/bpf/{file}");
    let (_, bytes) = CONFIGS.iter().find(|(name, _)| *name == path).unwrap_or_else(|| panic!("no {path}"));
    let mut bytes = bytes.to_vec();
    if file.ends_with(".o") {
        let at = {
            let object = object::File::parse(&*bytes).expect("an ELF file");
            let symbol = object.symbols().find(|symbol| symbol.name() == Ok(WHOSE)).expect("a trigger");
            let section = object.section_by_index(symbol.section_index().unwrap()).unwrap();
            (section.file_range().unwrap().0 + symbol.address()) as usize
        };
        bytes[at..at + 4].copy_from_slice(&std::process::id().to_ne_bytes());
    }
    bytes
}

/// A folder with some of the test configs.
pub struct Folder(TempDir);

impl Folder {
    /// Writes these configs into a new folder.
    ///
    /// # Panics
    /// When one is missing.
    pub fn of(names: &[&str]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in names {
            for file in [format!("{name}.yaml"), format!("{name}.bpf.o")] {
                folder.write(&file, &bytes(&file));
            }
        }
        folder
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.path().join(file), bytes).unwrap();
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// An exporter of the folder. This process is in its `PATH`, as [`TARGET`].
    ///
    /// # Panics
    /// When there is no room for a link.
    pub fn command(&self, flags: &[&str]) -> Command {
        let target = self.path().join(TARGET);
        if !target.exists() {
            symlink(env::current_exe().unwrap(), &target).unwrap();
        }
        let mut path = OsString::from(self.path());
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("ebpf-custom-exporter");
        command.env("PATH", path).arg("--config.dir").arg(self.path()).args(flags);
        command
    }

    /// Starts an exporter of the folder.
    ///
    /// # Panics
    /// When it ends instead.
    #[track_caller]
    pub fn start(&self, flags: &[&str]) -> Exporter {
        Exporter::spawn(&mut self.command(flags))
    }

    /// As [`Folder::start`], with the log from before it listened.
    ///
    /// # Panics
    /// When it ends instead.
    #[track_caller]
    pub fn start_and_read(&self, flags: &[&str]) -> (String, Exporter) {
        Exporter::spawn_and_read(&mut self.command(flags))
    }

    /// As [`Folder::start`], with variables in the environment.
    ///
    /// # Panics
    /// When it ends instead.
    #[track_caller]
    pub fn start_with(&self, variables: &[(&str, &str)]) -> Exporter {
        Exporter::spawn(self.command(&[]).envs(variables.iter().copied()))
    }

    /// Runs an exporter that ends by itself.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, flags: &[&str]) -> Output {
        self.command(flags).output().unwrap()
    }
}

/// Makes the programs of this process's objects run once.
///
/// # Panics
/// When the kernel takes the call for a real one.
pub fn trigger(what: u64, value: u64) {
    // SAFETY: the kernel knows no such option and refuses the call.
    let result = unsafe { libc::syscall(libc::SYS_prctl, MAGIC, what, value, 0, 0) };
    assert_eq!(result, -1, "the kernel knows no such option");
}

/// What a process that ended by itself said.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}
