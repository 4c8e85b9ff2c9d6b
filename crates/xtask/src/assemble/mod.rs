// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are generated from others: `cargo xtask assemble` writes them, `make lint` compares
//! them. Also the pictures of the dashboard.

pub mod dashboard;
mod deploy;
pub mod docs;
mod jobs;
pub mod kernels;
pub mod links;
pub mod metrics;
pub mod mixin;
pub mod pages;
mod panel;
pub mod pictures;
pub mod rules;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace::root;

/// Path in the checkout and text of each generated file.
fn texts() -> Result<Vec<(String, String)>> {
    let mut texts = vec![
        (jobs::FILE.to_owned(), jobs::text()?),
        (dashboard::HOST.to_owned(), dashboard::host()?),
        (dashboard::FLEET.to_owned(), dashboard::fleet()?),
        (mixin::FILE.to_owned(), mixin::text()?),
        (metrics::FILE.to_owned(), metrics::text()?),
        (kernels::FILE.to_owned(), kernels::text()?),
    ];
    texts.extend(deploy::texts()?);
    texts.extend(pages::texts()?);
    Ok(texts)
}

/// Writes all generated files.
///
/// # Errors
/// When one of their sources is missing.
pub fn assemble() -> Result<()> {
    for (path, text) in texts()? {
        fs::write(root().join(&path), text).with_context(|| format!("failed to write {path}"))?;
    }
    Ok(())
}

/// Checks that each generated file is up to date.
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
