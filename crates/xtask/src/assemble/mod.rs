// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of the tree that others make: written by `cargo xtask assemble`, compared by lint; and
//! pictures of the dashboard.

pub mod dashboard;
pub mod docs;
mod jobs;
pub mod kernels;
pub mod links;
mod metrics;
pub mod pages;
pub mod pictures;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace::root;

/// Path in the checkout, and text, of all.
fn texts() -> Result<Vec<(String, String)>> {
    let mut texts = vec![
        (jobs::FILE.to_owned(), jobs::text()?),
        (dashboard::FILE.to_owned(), dashboard::text()?),
        (metrics::FILE.to_owned(), metrics::text()?),
        (kernels::FILE.to_owned(), kernels::text()?),
    ];
    texts.extend(pages::texts()?);
    Ok(texts)
}

/// Writes them all.
///
/// # Errors
/// When a part of one is missing.
pub fn assemble() -> Result<()> {
    for (path, text) in texts()? {
        fs::write(root().join(&path), text).with_context(|| format!("failed to write {path}"))?;
    }
    Ok(())
}

/// Checks that each is what its parts make.
///
/// # Errors
/// When one is not.
pub fn check() -> Result<()> {
    for (path, text) in texts()? {
        if fs::read_to_string(root().join(&path)).unwrap_or_default() != text {
            bail!("{path} is stale: run `cargo xtask assemble`");
        }
    }
    Ok(())
}
