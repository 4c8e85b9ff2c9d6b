// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests inside a guest need: devices, workloads, the kernel's own counters.
//!
//! Everything here runs as root in a machine made for the test, and panics with a
//! message where a test has no use for an error.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's way to fail")]

pub mod block;
pub mod exporter;
pub mod exposition;
pub mod net;
pub mod truth;
pub mod wireguard;
pub mod work;
pub mod zpool;

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

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

/// Asks `condition` again and again until it is true: for what no event tells of.
///
/// # Panics
/// When it is not within `limit`; names `what`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, condition: impl FnMut() -> bool) {
    assert!(comes_true(limit, condition), "{what}: not within {limit:?}");
}

/// Prints a line for whoever runs the guest, past what captures the output of tests: facts that
/// are kept, and how far a long test is.
///
/// # Panics
/// When standard output is closed.
pub fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").and_then(|()| out.flush()).expect("somebody reads");
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

/// Keeps udev from looking at devices, as it does at those that are new or were open for
/// writing, for as long as this lives.
#[derive(Debug)]
pub struct WithoutUdev(());

impl WithoutUdev {
    /// Lets it finish what it has to do, and stops it.
    ///
    /// # Panics
    /// When there is no udev.
    #[track_caller]
    pub fn now() -> Self {
        sh("udevadm settle; pkill -STOP -x systemd-udevd");
        Self(())
    }
}

impl Drop for WithoutUdev {
    fn drop(&mut self) {
        // Where it fails the next test does.
        let _ = Command::new("pkill").args(["-CONT", "-x", "systemd-udevd"]).status();
    }
}

/// Installs the package under test, once for each guest.
///
/// # Panics
/// When dpkg refuses it.
#[track_caller]
pub fn install_package() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // Another test of this guest may have: unpacking takes an emulated processor half a minute.
        sh(&format!(
            "dpkg-query -W -f '${{db:Status-Status}}' ebpf-exporters 2> /dev/null | grep -qx installed ||
                dpkg -i {PAYLOAD}/*.deb"
        ));
    });
}

/// Names of all BPF programs in the kernel.
pub fn bpf_programs() -> Vec<String> {
    libbpf_rs::query::ProgInfoIter::default().map(|info| info.name.to_string_lossy().into_owned()).collect()
}
