// SPDX-License-Identifier: MIT OR Apache-2.0
//! `prometheus/prometheus.yml`: the scrape jobs of all exporters in one file, as Debian
//! 12's Prometheus does not know `scrape_config_files`.

use std::fs;

use anyhow::{Context, Result};

use crate::workspace::{exporters, root};

/// Where it is.
pub const FILE: &str = "prometheus/prometheus.yml";

/// The text.
///
/// # Errors
/// When a part is missing.
pub fn text() -> Result<String> {
    let read = |path: String| fs::read_to_string(root().join(&path)).with_context(|| format!("no {path}"));
    let mut text = read("prometheus/head.yml".to_owned())?;
    let instance = read("prometheus/instance.yml".to_owned())?;
    for exporter in exporters()? {
        let job = read(format!("prometheus/jobs/{}.yml", exporter.name))?;
        for line in job.lines().chain(instance.lines().filter(|line| !line.starts_with('#'))) {
            text += &format!("  {line}\n");
        }
    }
    Ok(text)
}
