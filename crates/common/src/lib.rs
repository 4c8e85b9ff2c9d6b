// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine that every exporter runs on.
//!
//! An exporter is an embedded BPF object and a [`spec::Spec`]: data that names its
//! probes, its maps and what their members mean as metrics. From these the engine
//! makes the whole process: command line, probe choice, attaching, reading, HTTP.
//!
//! Its rooms, from the top. Imports run down only; `make lint` refuses one that runs up, and any
//! circle inside of a room.
//!
//! | room | what |
//! |---|---|
//! | [`fixture`] | a tool of tests: an exporter with made-up maps |
//! | [`process`] | what every process has and does: flags, log, privileges, from start to end |
//! | [`serve`] | how metrics get out: HTTP, who may ask, ports, files |
//! | [`read`] | what a scrape is made of: maps to families |
//! | [`kernel`] | what this kernel is like, and programs in it |
//! | [`spec`] | what an exporter is, as data |
//! | [`exposition`] | families and their text |

pub mod exposition;
pub mod fixture;
pub mod kernel;
pub mod process;
pub mod read;
pub mod serve;
pub mod spec;

pub use process::exporter::{Exporter, run};

/// The skeleton that `bpf_build::skeleton()` made for this crate, as module `skel`.
#[macro_export]
macro_rules! skeleton {
    () => {
        #[allow(missing_docs, unused_qualifications, clippy::all, clippy::restriction)]
        mod skel {
            include!(concat!(env!("OUT_DIR"), "/skel.rs"));
        }
    };
}
