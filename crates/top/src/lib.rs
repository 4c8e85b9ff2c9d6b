// SPDX-License-Identifier: MIT OR Apache-2.0
//! What exporters say, in a terminal: `ebpf-exporters top` and `make run`.
//!
//! It asks exporters over HTTP, those of this machine or of others, and needs no privileges. What it
//! shows of an exporter it learns from that exporter: see the crate `headlines`.

pub mod address;
pub mod config;
mod detail;
mod history;
mod http;
mod lines;
mod rows;
mod screen;
pub mod show;
pub mod suite;
mod tls;
mod watch;
