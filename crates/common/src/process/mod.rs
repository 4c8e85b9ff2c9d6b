// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of every exporter process: command line, log, privileges, start and end. Look here for a
//! flag, for `--check`, and for what happens when a kernel module is unloaded.
//!
//! It may import every room below it: `serve`, `read`, `kernel`, `spec`, `exposition` and `words`. Only
//! the fixture of tests imports it.

pub mod cli;
pub mod exporter;
pub mod lifetime;
pub mod logging;
pub mod memory;
pub mod notify;
pub mod privileges;
