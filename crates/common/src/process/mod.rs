// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every process of an exporter has and does: its command line, its log, its privileges, and its
//! way from start to end. Look here for a flag, for `--check`, and for what happens when a kernel module goes.
//!
//! It may import every room below it: `serve`, `read`, `kernel`, `spec` and `exposition`. Only the
//! fixture of tests imports it.

pub mod cli;
pub mod exporter;
mod lifetime;
pub mod logging;
pub mod memory;
pub mod privileges;
