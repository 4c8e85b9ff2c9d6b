// SPDX-License-Identifier: MIT OR Apache-2.0
//! How metrics get out: over HTTP, or into a file. Look here for limits of connections and time, for
//! passwords and TLS, and for ports.
//!
//! It may import `read`, `kernel`, `spec` and `exposition`. It does not use libbpf.

pub mod http;
pub mod ports;
pub mod site;
pub mod textfile;
pub mod web;
