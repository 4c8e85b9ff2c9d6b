// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's archive, as this machine reaches it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::workspace::output;

/// Environment variable that names another.
const VARIABLE: &str = "EBPF_EXPORTERS_MIRROR";

/// Seconds without an answer after which an archive is not there, and how often that is tried.
const TIMEOUT: u32 = 25;

/// The address of an archive with all releases: what [`VARIABLE`] says, else where this
/// machine's own apt has its release from.
///
/// # Errors
/// When there is none.
pub fn find() -> Result<String> {
    if let Some(mirror) = std::env::var(VARIABLE).ok().filter(|mirror| !mirror.is_empty()) {
        return Ok(mirror);
    }
    let release = fs::read_to_string("/etc/os-release").context("failed to read /etc/os-release")?;
    let field = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"')
    };
    // Other distributions' archives have no Debian.
    if field("ID") == "debian" {
        let mut targets = Command::new("apt-get");
        targets.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)"]);
        targets.args(["Created-By: Packages", "Component: main"]);
        let targets = output(&mut targets)?;
        let codename = field("VERSION_CODENAME");
        let own = targets.lines().filter_map(|line| line.split_once(' '));
        if let Some((_, mirror)) = own.into_iter().find(|(release, _)| *release == codename) {
            return Ok(mirror.trim_end_matches('/').to_owned());
        }
    }
    bail!(
        "this machine's apt has no archive of Debian releases: set {VARIABLE} to the address of a \
         Debian mirror, as it would stand in sources.list"
    )
}

/// Asks an archive for a release.
///
/// # Errors
/// When it does not answer in time, or has no such release; says what to set.
pub fn reach(mirror: &str, release: &str) -> Result<()> {
    let url = format!("{mirror}/dists/{release}/Release");
    let target = std::env::temp_dir().join(format!("ebpf-exporters-release-{}", std::process::id()));
    let timeouts = ["http", "https"]
        .iter()
        .flat_map(|method| ["-o".to_owned(), format!("Acquire::{method}::Timeout={TIMEOUT}")]);
    let mut helper = Command::new("/usr/lib/apt/apt-helper");
    helper.args(timeouts).args(["-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User=root"]);
    let said = output(helper.arg("download-file").arg(&url).arg(&target));
    // Nothing but whether it can be had is of interest.
    let _ = fs::remove_file(&target);
    said.map(drop).with_context(|| {
        format!("{url} cannot be fetched: set {VARIABLE} to the address of a Debian mirror that answers and has {release}")
    })
}
