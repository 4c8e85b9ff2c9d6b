// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of what recording rules make: what pages and panels may ask for.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;

use crate::workspace::files;

/// The series that recording rules make.
///
/// # Errors
/// When a file cannot be read.
pub fn recorded() -> Result<BTreeSet<String>> {
    let mut recorded = BTreeSet::new();
    for path in files("rules", ".yml")? {
        recorded.extend(records(&fs::read_to_string(path)?).map(ToOwned::to_owned));
    }
    Ok(recorded)
}

/// Names of the rules in a file.
pub fn records(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("- record: "))
}
