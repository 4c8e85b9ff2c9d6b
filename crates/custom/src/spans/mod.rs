// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spans: decoded records of ring buffers, sent to an OpenTelemetry collector.
//!
//! [`record`] makes a span of the labels of one record, [`exporter`] reads from the environment where
//! spans go, and [`shipper`] queues and sends them.

pub mod exporter;
pub mod record;
pub mod shipper;

#[cfg(test)]
mod arrival;
mod client;
mod console;
mod hosts;
mod otlp;
