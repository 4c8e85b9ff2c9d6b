// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the TypeScript compiler checks: the dashboards, and the scripts of the landing page.

use std::process::Command;

use anyhow::Result;

use crate::assemble::dashboard;
use crate::workspace::{output, root, run};

/// Folder of the landing page, with the settings for its scripts. They are plain JavaScript, whose types the
/// compiler infers.
const PAGE: &str = "crates/common/src/serve/page";

/// Installs the compiler and runs it.
///
/// # Errors
/// The compiler's, or those of the installation.
pub fn check() -> Result<()> {
    let folder = root().join("target/grafana");
    dashboard::write_schema_check(&folder)?;
    let install = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
    output(Command::new("npm").args(install).current_dir(&folder))?;
    for project in [&folder, &root().join(PAGE)] {
        run(Command::new(folder.join("node_modules/.bin/tsc")).arg("--project").arg(project))?;
    }
    Ok(())
}
