// SPDX-License-Identifier: MIT OR Apache-2.0
//! Support for live tests: a harness, devices, workloads, the kernel's own counters.
//!
//! A live test runs as root, on this machine or in a guest. It states what it needs of the machine,
//! and is ignored if that is missing:
//!
//! ```ignore
//! #[live::test(functions, module("null_blk"), last)]
//! fn reads_are_counted() {}
//!
//! live::main!();
//! ```
//!
//! Everything here restores the machine, and panics with a message if a test cannot use an error.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's way to fail")]

pub mod block;
pub mod cgroup;
pub mod exporter;
pub mod exposition;
mod harness;
pub mod needs;
pub mod net;
pub mod threads;
pub mod truth;
pub mod wireguard;
pub mod work;
pub mod zpool;

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub use harness::{Test, assert_nearly, disturbed, main};
pub use inventory;
pub use live_macros::test;

/// The `main` function of a program of live tests.
#[macro_export]
macro_rules! main {
    () => {
        fn main() -> ::std::process::ExitCode {
            $crate::main()
        }
    };
}

/// Where the host put what it built: see `xtask`.
pub const PAYLOAD: &str = "/payload";

/// Runs `line` in a shell and returns what it printed.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().expect("sh starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "`{line}`: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout).trim_end().to_owned()
}

/// Polls `condition` until it is true: for what no event reports.
///
/// # Panics
/// When it is not within `limit`; names `what`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, condition: impl FnMut() -> bool) {
    assert!(comes_true(limit, condition), "{what}: not within {limit:?}");
}

/// Prints a line past the output capture: facts to keep, and the progress of a long test.
///
/// # Panics
/// When standard output is closed.
pub fn tell(line: &str) {
    harness::out().write_all(format!("\n{line}\n").as_bytes()).expect("somebody reads");
}

/// Whether a condition comes true within a time.
pub(crate) fn comes_true(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    true
}

/// Undoes what a test created, with a shell line that may fail at first: udev has a device open
/// that was written to, or a killed process is still ending.
///
/// # Panics
/// When it is still refused after half a minute: the next test needs the place. Where a test has
/// failed already, that is only printed.
#[track_caller]
pub(crate) fn undo(line: &str) {
    let mut why = String::new();
    let settled = format!("[ ! -e /run/udev/control ] || udevadm settle --timeout=10 || :; {line}");
    let undone = comes_true(Duration::from_secs(30), || {
        let output = Command::new("sh").args(["-ec", &settled]).output().expect("sh starts");
        why = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success()
    });
    if !undone && std::thread::panicking() {
        eprintln!("`{line}`: {why}");
    } else {
        assert!(undone, "`{line}`: {why}");
    }
}

/// Waits until udev is idle, if there is one.
///
/// # Panics
/// When it does not finish.
#[track_caller]
pub fn udev_settles() {
    if Path::new("/run/udev/control").exists() {
        sh("udevadm settle");
    }
}

/// Keeps udev from opening new devices, and devices that were open for writing, while this lives.
/// Without udev there is nothing to do.
#[derive(Debug)]
pub struct WithoutUdev(());

impl WithoutUdev {
    /// Waits until udev is idle, and stops it.
    ///
    /// # Panics
    /// When it cannot be stopped.
    #[track_caller]
    pub fn now() -> Self {
        udev_settles();
        let this = Self(());
        sh("! pgrep -x systemd-udevd > /dev/null || pkill -STOP -x systemd-udevd");
        this
    }
}

impl Drop for WithoutUdev {
    fn drop(&mut self) {
        // Where it fails the next test does.
        let _ = Command::new("pkill").args(["-CONT", "-x", "systemd-udevd"]).status();
    }
}

/// A directory for small files of a test. It is removed when this is dropped.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// A directory in memory, or in the directory for temporary files.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// A directory on disk.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn on_disk() -> Self {
        Self(tempfile::tempdir_in("/var/tmp").expect("a folder"))
    }

    /// The path of a file in it.
    ///
    /// # Panics
    /// When temporary files are where paths are no text.
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).into_os_string().into_string().expect("text")
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

/// Names of all BPF programs in the kernel.
pub fn bpf_programs() -> Vec<String> {
    libbpf_rs::query::ProgInfoIter::default().map(|info| info.name.to_string_lossy().into_owned()).collect()
}
