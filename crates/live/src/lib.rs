// SPDX-License-Identifier: MIT OR Apache-2.0
//! Support for live tests: a harness, devices, workloads, and the kernel's own counters.
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
//! Modules:
//!
//! - what a test may need of a machine: [`needs`]
//! - objects to observe: [`block`], [`cgroup`], [`net`], [`wireguard`], [`zpool`]
//! - workloads: [`work`], [`threads`]
//! - counts, by an exporter and by the kernel: [`exporter`], [`exposition`], [`truth`]
//! - events that a program does not see: [`losses`]
//! - a page in a browser: [`browser`]
//! - what systemd is told: [`notify`]; what the kernel refuses: [`seccomp`]
//!
//! Everything here restores the machine, and panics on errors that a test cannot handle.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a test's way to fail")]

pub mod block;
pub mod browser;
pub mod cgroup;
pub mod exporter;
pub mod exposition;
mod harness;
pub mod losses;
mod machine;
pub mod needs;
pub mod net;
pub mod notify;
pub mod seccomp;
pub mod threads;
pub mod truth;
pub mod wireguard;
pub mod work;
pub mod zpool;

pub use harness::{Test, assert_nearly, disturbed, main, tell};
pub use inventory;
pub use live_macros::test;
pub use machine::{Folder, PAYLOAD, WithoutUdev, bpf_programs, has_module, sh, udev_settles, wait_until};

/// The `main` function of a program of live tests.
#[macro_export]
macro_rules! main {
    () => {
        fn main() -> ::std::process::ExitCode {
            $crate::main()
        }
    };
}
