// SPDX-License-Identifier: MIT OR Apache-2.0
//! `prometheus/prometheus.yml`: the scrape jobs of all exporters in one file, as Debian
//! 12's Prometheus does not know `scrape_config_files`.

use std::fs;

use anyhow::{Context, Result};

use crate::workspace::{exporters, root};

/// Path of the file.
pub const FILE: &str = "prometheus/prometheus.yml";

/// Text of the file.
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Ports by job.
    fn ports(config: &str) -> Vec<(String, u16)> {
        let jobs = config.split("job_name: ").skip(1);
        let job = |text: &str| {
            let port = text.split_once("localhost:")?.1.split('"').next()?.parse().ok()?;
            Some((text.lines().next()?.to_owned(), port))
        };
        jobs.map(|text| job(text).expect("a job with a port")).collect()
    }

    #[test]
    fn the_documented_command_moves_all_ports_and_nothing_else() {
        let config = fs::read_to_string(root().join(FILE)).expect("the jobs");
        let page = fs::read_to_string(root().join("docs/operations.md")).expect("the page");
        let command =
            page.lines().map(str::trim).find(|line| line.starts_with("perl -pe ")).expect("a command");
        let installed = format!("/usr/share/ebpf-exporters/{FILE}");
        let command = command.replace(&installed, &root().join(FILE).display().to_string());
        let output = Command::new("sh").args(["-c", &command]).output().expect("a shell");
        let moved = String::from_utf8(output.stdout).expect("text");
        let expected: Vec<_> = ports(&config).into_iter().map(|(job, port)| (job, port + 10_000)).collect();
        assert!(expected.len() >= 16, "{expected:?}");
        assert_eq!(ports(&moved), expected);
        assert_eq!(moved.replace("localhost:19", "localhost:9"), config);
    }
}
