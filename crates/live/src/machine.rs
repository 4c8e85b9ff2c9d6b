// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that tests run on: shell commands, waiting, udev, directories, kernel modules.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Directory in a guest with the files that the host has built: see `xtask`.
pub const PAYLOAD: &str = "/payload";

/// Runs `line` in a shell and returns its output.
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

/// Polls `condition` until it is true, for conditions that no event reports.
///
/// # Panics
/// When it is not true within `limit`; the message names `what`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, condition: impl FnMut() -> bool) {
    assert!(comes_true(limit, condition), "{what}: not within {limit:?}");
}

/// Pause between two polls: at first, and after ten seconds or more.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether a condition becomes true within a time limit.
///
/// The pause grows with the time that has passed, so that a wait of minutes takes little CPU time: in an
/// emulated guest a scrape costs 20 ms, and asking systemd for the state of a unit 120 ms.
pub(crate) fn comes_true(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !condition() {
        let elapsed = begin.elapsed();
        if elapsed >= limit {
            return false;
        }
        // Sleeps because no event reports the condition. `park_timeout` would be woken by scoped threads that
        // end (`net::inside`).
        std::thread::sleep((elapsed / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
    true
}

/// Undoes what a test created. The shell line may fail at first: udev may have a device open that was
/// written to, or a killed process may still be ending.
///
/// # Panics
/// When it still fails after half a minute, because the next test needs the resource. If the test has
/// already failed, the error is only printed.
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

/// While this lives, udev does not open new devices, or devices that were open for writing. On a machine
/// without udev this does nothing.
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
        // If this fails, the next test fails.
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
    /// When it cannot be created.
    #[track_caller]
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// A directory on disk.
    ///
    /// # Panics
    /// When it cannot be created.
    #[track_caller]
    pub fn on_disk() -> Self {
        Self(tempfile::tempdir_in("/var/tmp").expect("a folder"))
    }

    /// The path of a file in it.
    ///
    /// # Panics
    /// When the path of temporary files is not UTF-8.
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

/// Whether the module is loaded, built in, or can be loaded. This is the condition of the attribute's
/// word `module`, for tests that can also run without it.
pub fn has_module(name: &str) -> bool {
    let loaded = Path::new("/sys/module").join(name.replace('-', "_")).exists();
    let loadable = || {
        let mut modprobe = Command::new("modprobe");
        let modprobe = modprobe.args(["-n", "-q", name]).stderr(Stdio::null());
        modprobe.status().is_ok_and(|status| status.success())
    };
    loaded || loadable()
}
