// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects that count a prime number for each trigger, compared with what the exporter shows.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

#[path = "live/broken.rs"]
mod broken;
#[path = "live/folder.rs"]
mod folder;
#[path = "live/groups.rs"]
mod groups;
#[path = "live/keys.rs"]
mod keys;
#[path = "live/odd.rs"]
mod odd;
#[path = "live/records.rs"]
mod records;
#[path = "live/sections.rs"]
mod sections;
#[path = "live/status.rs"]
mod status;
#[path = "live/target.rs"]
mod target;
#[path = "live/unit.rs"]
mod unit;
#[path = "live/values.rs"]
mod values;

live::main!();
