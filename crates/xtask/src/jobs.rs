// SPDX-License-Identifier: MIT OR Apache-2.0
//! `prometheus/prometheus.yml`: the scrape jobs of all exporters in one file, as Debian
//! 12's Prometheus does not know `scrape_config_files`.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace::{exporters, root};

const FILE: &str = "prometheus/prometheus.yml";

fn text() -> Result<String> {
    let read = |path: String| fs::read_to_string(root().join(&path)).with_context(|| format!("no {path}"));
    let mut text = read("prometheus/head.yml".to_owned())?;
    for exporter in exporters()? {
        for line in read(format!("prometheus/jobs/{}.yml", exporter.name))?.lines() {
            text += &format!("  {line}\n");
        }
    }
    Ok(text)
}

/// Writes the file.
///
/// # Errors
/// When a part is missing.
pub fn assemble() -> Result<()> {
    fs::write(root().join(FILE), text()?).with_context(|| format!("failed to write {FILE}"))
}

/// Checks that the file is what its parts make.
///
/// # Errors
/// When it is not.
pub fn check() -> Result<()> {
    if fs::read_to_string(root().join(FILE)).unwrap_or_default() != text()? {
        bail!("{FILE} is stale: run `cargo xtask assemble`");
    }
    Ok(())
}
