// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a config's maps and records hold that cannot be shown.

use std::collections::BTreeSet;

use log::warn;

/// What could not be decoded or read, each counted once.
#[derive(Debug, Default)]
pub struct Wrongs {
    seen: BTreeSet<String>,
}

impl Wrongs {
    /// Maximum number to remember and to log; more are not counted.
    pub const MOST: usize = 1024;

    /// Counts and logs `what`, unless it was noted before.
    pub fn note(&mut self, config: &str, what: String) {
        if self.seen.len() >= Self::MOST || self.seen.contains(&what) {
            return;
        }
        warn!("config {config}: {what}");
        self.seen.insert(what);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.seen.len() as u64
    }
}
