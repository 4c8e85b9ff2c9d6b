// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make lint`: the linters of each language, then this repository's own rules.

mod deploy;
mod directions;
mod mixin;
mod monitoring;
pub mod tidy;
mod typescript;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::assemble::{self, metrics, pages};
use crate::guest::image::remove;
use crate::workspace::{self, cargo, cargo_at, exporters, files, root, tool};

/// Runs all linters and stops at the first that fails.
///
/// # Errors
/// The error of the linter that fails.
pub fn run() -> Result<()> {
    workspace::run(cargo().args(["fmt", "--all", "--check"]))?;
    // `--all-targets` does not include the live tests.
    for targets in ["--all-targets", "--test=live"] {
        let mut clippy = cargo_at("clippy");
        clippy.args(["--workspace", targets, "--", "--deny=warnings"]);
        workspace::run(&mut clippy)?;
    }
    let mut doc = cargo_at("doc");
    workspace::run(doc.args(["--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings"))?;
    let c = tidy::bpf_sources()?;
    workspace::run(
        Command::new("clang-format-14").args(["--dry-run", "--Werror"]).args(&c).current_dir(root()),
    )?;
    let scripts =
        [files("scripts", "")?, files(".ci", "run")?, files("crates", "benches/workload")?].concat();
    workspace::run(Command::new("shellcheck").args(scripts))?;
    tidy::run()?;
    assemble::check()?;
    typescript::check()?;
    prometheus()?;
    mixin::check(promtool)?;
    deploy::check()?;
    units()
}

fn promtool() -> Command {
    let mut command = tool("promtool");
    command.current_dir(root());
    command
}

fn prometheus() -> Result<()> {
    workspace::run(promtool().args(["check", "config", "prometheus/prometheus.yml"]))?;
    workspace::run(promtool().args(["check", "config"]).args(files("prometheus/examples", ".yml")?))?;
    let queries = root().join("target/queries.yml");
    fs::write(&queries, pages::queries()?)?;
    workspace::run(promtool().args(["check", "rules"]).arg(&queries))?;
    let tests = [files("alerts/tests", ".yml")?, files("rules/tests", ".yml")?].concat();
    workspace::run(promtool().args(["test", "rules"]).args(tests))?;
    for golden in metrics::goldens()? {
        let file = fs::File::open(&golden).with_context(|| format!("{}", golden.display()))?;
        let checked = promtool().args(["check", "metrics"]).stdin(file).output()?;
        let said =
            String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
        // Metric names with microseconds are part of the contract with users.
        let complaint = said
            .lines()
            .find(|line| !line.ends_with("use base unit \"seconds\" instead of \"microseconds\""));
        if let Some(complaint) = complaint {
            bail!("{}: {complaint}", golden.display());
        }
    }
    Ok(())
}

/// Checks the systemd units. systemd-analyze looks for the binaries, so they are put below a root
/// folder of their own.
fn units() -> Result<()> {
    let folder = root().join("target/units");
    remove(&folder)?;
    for exporter in exporters()? {
        let binary = folder.join("usr/bin").join(&exporter.binary);
        fs::create_dir_all(folder.join("usr/bin"))?;
        fs::copy("/bin/true", &binary)?;
    }
    let system = folder.join("usr/lib/systemd/system");
    fs::create_dir_all(&system)?;
    let mut names = Vec::new();
    // What systemd-analyze uses as the instance of a template: up to version 252, and later.
    for instance in ["i", "test_instance"] {
        fs::copy("/bin/true", folder.join(format!("usr/bin/ebpf-{instance}-exporter")))?;
    }
    for path in files("systemd", "")? {
        if path.extension().is_some_and(|kind| kind == "rules") {
            continue;
        }
        let name = path.file_name().context("a unit without name")?.to_owned();
        fs::copy(&path, system.join(&name))?;
        names.push(name);
    }
    // systemd's own targets, which our units refer to.
    for unit in fs::read_dir("/usr/lib/systemd/system").or_else(|_| fs::read_dir("/lib/systemd/system"))? {
        let unit = unit?;
        if unit.file_name().to_string_lossy().ends_with(".target") && !system.join(unit.file_name()).exists()
        {
            fs::copy(unit.path(), system.join(unit.file_name()))?;
        }
    }
    let mut verify = Command::new("systemd-analyze");
    let said = verify.arg("verify").arg("--man=no").arg("--root").arg(&folder).args(&names).output();
    let said = said.context("failed to start systemd-analyze")?;
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("ebpf-")).collect();
    if !ours.is_empty() {
        bail!("systemd-analyze verify: {}", ours.join("\n"));
    }
    for unit in files("systemd", ".service")? {
        // Capabilities and what the protection leaves open add to the exposure; these units say why
        // they have them.
        let most = match unit.file_name().and_then(|name| name.to_str()) {
            Some("ebpf-wireguard-exporter.service") => "22",
            Some("ebpf-custom-exporter.service" | "ebpf-textfile@.service") => "26",
            _ => "20",
        };
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--no-pager", "--threshold", most]).arg(&unit);
        let said = security.output().context("failed to start systemd-analyze")?;
        if !said.status.success() {
            bail!(
                "systemd-analyze security, of which at most {most} tenths are allowed: {}",
                String::from_utf8_lossy(&said.stdout).lines().last().unwrap_or_default()
            );
        }
    }
    Ok(())
}
