// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exporters that somebody looks at: on this machine (`start`, `bench`) and in a guest (`demo`,
//! `shell`).

pub mod bench;
pub mod demo;
mod running;
pub mod shell;
pub mod start;
