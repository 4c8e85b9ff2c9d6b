// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who the entries of a map are, where its keys do not say: numbers that an exporter
//! knows the names of.

use std::collections::BTreeMap;

use crate::exposition::metric::Labels;

/// Of one map.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// Labels of an entry, by key; one that is not here is not shown.
    pub entries: BTreeMap<Vec<u8>, Labels>,
    /// Those that have no entry because nothing happened to them yet: shown as zero.
    pub idle: Vec<Labels>,
}

/// Rosters by map.
pub type Rosters = BTreeMap<String, Roster>;
