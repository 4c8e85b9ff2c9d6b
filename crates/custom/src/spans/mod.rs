// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spans: decoded records of ring buffers, sent to an OpenTelemetry collector.
//!
//! [`record`] makes a span of the labels of one record, and [`exporter`] reads from the environment where
//! spans go.

pub mod exporter;
pub mod record;

mod console;
mod hosts;
mod otlp;
