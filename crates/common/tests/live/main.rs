// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads maps in the kernel (`maps.rs`), and opens the landing page in a browser (`page/`).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

mod maps;
mod page;

live::main!();
