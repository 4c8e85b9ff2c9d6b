// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make docs`: builds the site from docs/ with mdBook.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::assemble::{self, links};
use crate::phases;
use crate::workspace::{cargo, files, output, root, run};

/// Version of mdBook; others may render pages differently.
const VERSION: &str = "0.5.4";

/// mdBook of that version, installed below target/.
fn mdbook() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let binary = tools.join("bin/mdbook");
    let is_there = output(Command::new(&binary).arg("--version"));
    if !is_there.is_ok_and(|said| said.trim().trim_start_matches("mdbook v") == VERSION) {
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "mdbook", "--version", VERSION]);
        // Without its web server and file watcher.
        install.args(["--no-default-features", "--features=search", "--root"]).arg(&tools);
        phases::named("mdbook", || run(&mut install))?;
    }
    Ok(binary)
}

/// Builds the site and checks its links.
///
/// # Errors
/// When mdBook cannot be built or fails, or a link is broken.
pub fn run_mdbook() -> Result<()> {
    assemble::check()?;
    run(Command::new(mdbook()?).arg("build").current_dir(root()))?;
    let folder = root().join("target/book");
    let pages = files("target/book", ".html")?;
    let broken = links::broken(&folder, &pages)?;
    if !broken.is_empty() {
        bail!("links that lead nowhere:\n  {}", broken.join("\n  "));
    }
    println!("{}: {} pages", folder.join("index.html").display(), pages.len());
    Ok(())
}
