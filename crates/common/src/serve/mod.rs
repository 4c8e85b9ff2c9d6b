// SPDX-License-Identifier: MIT OR Apache-2.0
//! Publishes metrics: over HTTP, or in a file. Limits of connections and time, passwords and TLS, and
//! ports are here.
//!
//! It may import `read`, `kernel`, `spec`, `exposition` and `words`. It does not use libbpf.

pub mod handed;
pub mod http;
pub mod page;
pub mod ports;
pub mod site;
pub mod textfile;
pub mod web;
