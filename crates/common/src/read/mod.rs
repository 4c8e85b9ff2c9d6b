// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads maps and makes metric families of their contents. Look here for what a label value such as
//! `other` means, and for the metrics that an exporter has about itself.
//!
//! It may import `kernel`, `spec`, `exposition` and `words`. It does not depend on how metrics are served.

pub mod cgroups;
pub mod containers;
pub mod decode;
pub mod engine;
pub mod layout;
pub mod live;
pub mod maps;
pub mod part;
pub mod ratio;
pub mod render;
pub mod roster;
pub mod self_metrics;
pub mod top;
