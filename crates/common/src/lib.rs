// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine that every exporter runs on.
//!
//! An exporter is an embedded BPF object and a [`spec::Spec`]: data that names its
//! probes, its maps and what their members mean as metrics. From these the engine
//! makes the whole process: command line, probe choice, attaching, reading, HTTP.
//!
//! Its top-level modules are called rooms. The table lists them from top to bottom. A room imports
//! only from itself and from the rooms below it. `make lint` refuses other imports, and import
//! cycles inside a room.
//!
//! | room | contents |
//! |---|---|
//! | [`fixture`] | for tests: renders an exporter's metrics from made-up map contents |
//! | [`process`] | flags, log, privileges, and the life of a process from start to end |
//! | [`serve`] | output of metrics: HTTP, access control, ports, files |
//! | [`read`] | from maps to metric families |
//! | [`kernel`] | properties of this kernel, and the programs loaded into it |
//! | [`spec`] | the definition of an exporter, as data |
//! | [`exposition`] | metric families and their text |
//! | [`words`] | English for numbers |

pub mod exposition;
pub mod fixture;
pub mod kernel;
pub mod process;
pub mod read;
pub mod serve;
pub mod spec;
pub mod words;

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
