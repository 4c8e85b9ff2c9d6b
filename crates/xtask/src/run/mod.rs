// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs exporters by hand: on this machine (`start`, `bench`) or in a guest (`demo`, `shell`).

pub mod bench;
pub mod demo;
pub mod fleet;
mod running;
pub mod shell;
pub mod start;
