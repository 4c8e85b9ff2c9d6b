// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a scrape is made of: the contents of maps become metric families. Look here for what a label
//! value such as `other` means, and for the metrics that an exporter has about itself.
//!
//! It may import `kernel`, `spec` and `exposition`. It does not know who asks.

pub mod cgroups;
pub mod decode;
pub mod engine;
pub mod layout;
pub mod live;
pub mod maps;
pub mod ratio;
pub mod render;
pub mod roster;
pub mod self_metrics;
pub mod top;
