// SPDX-License-Identifier: MIT OR Apache-2.0
//! Properties of this kernel, and the programs loaded into it. Look here for which program of a probe
//! is chosen, where it attaches, and why it was refused.
//!
//! It may import `spec`, `exposition` and `words`. It does not depend on what the programs count.

pub mod copies;
pub mod facts;
pub mod ftrace;
pub mod globals;
pub mod hook;
pub mod links;
pub mod module;
pub mod offsets;
pub mod perf;
pub mod permissions;
pub mod preemption;
pub mod probes;
pub mod refusal;
pub mod symbols;
pub mod together;
pub mod types;
pub mod view;
