// SPDX-License-Identifier: MIT OR Apache-2.0
//! Labels of map entries whose keys are only numbers. The exporter knows what the numbers stand for.

use std::collections::BTreeMap;

use crate::exposition::metric::Labels;

/// Labels of one map.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// Labels by key. Entries that are missing here are not shown.
    pub entries: BTreeMap<Vec<u8>, Labels>,
    /// Labels without an entry, because nothing happened yet. Shown as zero.
    pub idle: Vec<Labels>,
}

/// Rosters by map.
pub type Rosters = BTreeMap<String, Roster>;
