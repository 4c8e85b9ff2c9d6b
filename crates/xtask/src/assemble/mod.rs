// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of the tree that others make: written by `cargo xtask assemble`, compared by lint; and
//! pictures of the dashboard.

pub mod dashboard;
mod jobs;
pub mod kernels;
mod metrics;
pub mod pictures;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace::root;

/// Path in the checkout, and what makes the text.
type File = (&'static str, fn() -> Result<String>);

const FILES: &[File] = &[
    (jobs::FILE, jobs::text),
    (dashboard::FILE, dashboard::text),
    (metrics::FILE, metrics::text),
    (kernels::FILE, kernels::text),
];

/// Writes them all.
///
/// # Errors
/// When a part of one is missing.
pub fn assemble() -> Result<()> {
    for (path, text) in FILES {
        fs::write(root().join(path), text()?).with_context(|| format!("failed to write {path}"))?;
    }
    Ok(())
}

/// Checks that each is what its parts make.
///
/// # Errors
/// When one is not.
pub fn check() -> Result<()> {
    for (path, text) in FILES {
        if fs::read_to_string(root().join(path)).unwrap_or_default() != text()? {
            bail!("{path} is stale: run `cargo xtask assemble`");
        }
    }
    Ok(())
}
