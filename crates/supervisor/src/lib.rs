// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ebpf-exporters run`: runs exporters as processes of their own, and serves what all of them say at one port.
//!
//! An exporter is started with `--supervised`. It opens no port: the supervisor hands it a connection for each
//! request, over a channel that is also how the exporter says that it is ready, or why it cannot run. What
//! follows from that is in `child`, free of processes. `run` is the loop around it.

mod apart;
mod ask;
mod backoff;
mod board;
mod child;
mod flags;
mod installed;
mod kubelet;
mod messages;
mod own;
mod process;
mod run;
mod site;
mod text;

pub use flags::Flags;
pub use run::{PORT, run};
