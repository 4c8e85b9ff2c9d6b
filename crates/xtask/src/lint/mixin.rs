// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mixin: with nothing set it makes what is written in `alerts/`, `rules/` and `grafana/`; with everything set to
//! something else, Prometheus accepts what it makes, and that does what was set.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::{files, output, root, run};

/// Checks formatting, and what is made.
///
/// # Errors
/// The error of what fails.
pub fn check(promtool: impl Fn() -> Command) -> Result<()> {
    let sources = [files("mixin", ".libsonnet")?, files("mixin", ".jsonnet")?].concat();
    run(Command::new("jsonnetfmt").arg("--test").args(sources))?;
    let made = |arguments: &[&str]| output(Command::new("jsonnet").args(arguments).current_dir(root()));
    made(&["mixin/tests/default.jsonnet"])?;
    dashboards(&made(&["mixin/tests/other-dashboards.jsonnet"])?)?;
    let folder = root().join("target/mixin");
    fs::create_dir_all(&folder)?;
    for name in ["alerts", "rules"] {
        let text = made(&["--string", &format!("mixin/tests/other-{name}.jsonnet")])?;
        fs::write(folder.join(format!("{name}.yml")), text)?;
    }
    // It names the files beside it.
    let tests = folder.join("other.yml");
    fs::copy(root().join("mixin/tests/other.yml"), &tests)?;
    run(promtool().args(["test", "rules"]).arg(tests))
}

/// Checks dashboards with another label for clusters and one more matcher: in no query, legend or link is anything
/// left as it is written, and what is scraped has the matcher, and nothing else.
fn dashboards(text: &str) -> Result<()> {
    let others = text.replace("k8s_cluster", "");
    let written = ["cluster=~", "(cluster,", ",cluster)", "{{cluster}}", "labels.cluster"];
    if let Some(left) = written.iter().find(|word| others.contains(**word)) {
        bail!("mixin: {left} is left in a dashboard where clusters have another label");
    }
    for line in text.lines().filter(|line| line.trim_start().starts_with("\"expr\": ")) {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        let scraped = words.filter(|word| word.starts_with("ebpf_") || word.starts_with("process_")).count();
        if line.matches("{env=\\\"prod\\\",").count() != scraped {
            bail!("mixin: the selector is to be that of all that is scraped: {}", line.trim());
        }
    }
    Ok(())
}
