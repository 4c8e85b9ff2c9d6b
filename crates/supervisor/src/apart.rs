// SPDX-License-Identifier: MIT OR Apache-2.0
//! What pages of several exporters have in common, and what tells them apart, in any format.

use std::sync::Arc;

/// Label that names the exporter.
pub const LABEL: &str = "exporter";

/// How the names of families begin that every exporter has of itself.
const OF_ITSELF: [&str; 2] = ["ebpf_exporter_", "process_"];

/// Whether samples of a family get the label: always those about exporters themselves, whoever runs, and
/// those of a name that several exporters have.
pub fn is_told_apart(family: &str, exporters: usize) -> bool {
    exporters > 1 || OF_ITSELF.iter().any(|start| family.starts_with(start))
}

/// Names and values of labels that a sample gets besides its own.
pub type More = Arc<[(&'static str, String)]>;

/// Several pages in one.
#[derive(Debug, Default)]
pub struct Merged {
    /// The page.
    pub body: Vec<u8>,
    /// Exporters and names of families that are not in it, as another exporter has that name with another
    /// type.
    pub left_out: Vec<(String, String)>,
}
