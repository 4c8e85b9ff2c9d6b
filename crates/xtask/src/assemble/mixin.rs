// SPDX-License-Identifier: MIT OR Apache-2.0
//! `mixin/sources.json`: the alerts and recording rules of all exporters as JSON, for `mixin/*.libsonnet`. Jsonnet
//! cannot look for files, so somebody has to list them; and that of Debian 12 cannot read the YAML of queries that have
//! several lines.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::workspace::{files, root};

/// Path of the file.
pub const FILE: &str = "mixin/sources.json";

/// Text of the file.
///
/// # Errors
/// When a file is no YAML.
pub fn text() -> Result<String> {
    let sources = ["alerts", "rules"].map(|folder| Ok((folder.to_owned(), of(folder)?)));
    let sources: Map<String, Value> = sources.into_iter().collect::<Result<_>>()?;
    Ok(serde_json::to_string_pretty(&sources)? + "\n")
}

/// The files of a folder, by their names.
fn of(folder: &str) -> Result<Value> {
    let mut found = Map::new();
    for path in files(folder, ".yml")? {
        if path.parent() != Some(&root().join(folder)) {
            // A test.
            continue;
        }
        let name = path.file_stem().context("a file without name")?.to_string_lossy().into_owned();
        let text = fs::read_to_string(&path)?;
        let groups = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
        found.insert(name, groups);
    }
    Ok(Value::Object(found))
}
