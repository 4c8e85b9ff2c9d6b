// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metric families, their text and their protobuf. Look here for the buckets of a histogram and how their
//! `le` is written, for native histograms, for escaping, and for OpenMetrics.
//!
//! It imports no other room and does not use libbpf. It needs no kernel and no privileges.

pub mod encode;
pub mod hist;
pub mod message;
pub mod metric;
pub mod native;
pub mod protobuf;
