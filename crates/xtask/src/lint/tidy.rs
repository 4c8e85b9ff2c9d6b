// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of this repository that no other linter checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::assemble::{links, pages};
use crate::lint::{directions, monitoring};
use crate::workspace::{Exporter, capabilities, exporters, files, root};

/// Maximum number of lines of an exporter's `main.rs`, doc comments included, tests not.
const MAIN_LINES: usize = 200;

/// Checks all rules.
///
/// # Errors
/// When a rule is broken; lists all breaches.
pub fn run() -> Result<()> {
    let mut breaches = Vec::new();
    let exporters = exporters()?;
    for exporter in &exporters {
        pieces(exporter, &mut breaches);
    }
    ports(&exporters, &mut breaches)?;
    headers(&mut breaches)?;
    hardening(&exporters, &mut breaches)?;
    monitoring::check(&mut breaches)?;
    directions::check(&mut breaches)?;
    pages::check_metrics(&mut breaches)?;
    links::check(&mut breaches)?;
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("tidy:\n  {}", breaches.join("\n  "));
}

/// The files that every exporter must have. Those of `built_in` ones contain a program and have metrics
/// of their own.
pub fn pieces_of(name: &str, built_in: bool) -> Vec<String> {
    let mut pieces = vec![
        format!("crates/{name}/Cargo.toml"),
        format!("crates/{name}/src/main.rs"),
        format!("crates/{name}/tests/golden/ebpf-{name}-exporter.8"),
        format!("systemd/ebpf-{name}-exporter.service"),
        format!("prometheus/jobs/{name}.yml"),
        format!("alerts/{name}.yml"),
        format!("alerts/tests/{name}.yml"),
        format!("rules/{name}.yml"),
        format!("rules/tests/{name}.yml"),
        format!("grafana/rows/{name}.json"),
        pages::page_of(name),
    ];
    if built_in {
        pieces.extend([
            format!("bpf/{name}.bpf.c"),
            format!("crates/{name}/build.rs"),
            format!("crates/{name}/src/headlines.rs"),
            format!("crates/{name}/tests/live.rs"),
            format!("crates/{name}/tests/golden/headlines.txt"),
            format!("crates/{name}/tests/golden/metrics.prom"),
        ]);
    }
    pieces
}

fn pieces(exporter: &Exporter, breaches: &mut Vec<String>) {
    let name = &exporter.name;
    for path in pieces_of(name, exporter.built_in) {
        if !root().join(&path).exists() {
            breaches.push(format!("{path} is missing"));
        }
    }
    let main = fs::read_to_string(root().join(format!("crates/{name}/src/main.rs"))).unwrap_or_default();
    let lines = main.lines().take_while(|line| *line != "#[cfg(test)]").count();
    if lines > MAIN_LINES {
        breaches.push(format!(
            "crates/{name}/src/main.rs has {lines} lines before its tests, {MAIN_LINES} may be"
        ));
    }
}

/// A spec and its scrape job have the same port, and no two exporters share one.
fn ports(exporters: &[Exporter], breaches: &mut Vec<String>) -> Result<()> {
    let mut taken: BTreeMap<String, &str> = BTreeMap::new();
    for exporter in exporters {
        let name = &exporter.name;
        let main = fs::read_to_string(root().join(format!("crates/{name}/src/main.rs")))?;
        let spec =
            main.split_once(&format!("Spec::new(\"{name}\", ")).and_then(|(_, rest)| rest.split_once(','));
        let port =
            spec.with_context(|| format!("crates/{name}/src/main.rs has no Spec::new(\"{name}\", PORT"))?.0;
        let job = fs::read_to_string(root().join(format!("prometheus/jobs/{name}.yml"))).unwrap_or_default();
        if !job.contains(&format!("localhost:{port}\"")) || !job.contains(&format!("job_name: ebpf-{name}\n"))
        {
            breaches.push(format!("prometheus/jobs/{name}.yml is not a job ebpf-{name} at port {port}"));
        }
        if let Some(other) = taken.insert(port.to_owned(), name) {
            breaches.push(format!("{name} and {other} have the same port {port}"));
        }
    }
    Ok(())
}

/// Every source file names its licence, every header has an include guard, and no BPF code asks for
/// the kernel's version or reads through a pointer directly.
fn headers(breaches: &mut Vec<String>) -> Result<()> {
    let mut rust = vec![root().join("Makefile"), root().join("scripts/packages")];
    for kind in [".rs", ".js", ".css", ".html"] {
        rust.extend(files("crates", kind)?);
    }
    let c = bpf_sources()?;
    for path in rust.iter().chain(&c) {
        let text = fs::read_to_string(path)?;
        let wanted = if c.contains(path) { "GPL-2.0-only" } else { "MIT OR Apache-2.0" };
        if !text.lines().take(2).any(|line| line.contains("SPDX-License-Identifier") && line.contains(wanted))
        {
            breaches.push(format!("{}: no SPDX line with {wanted}", shown(path)));
        }
        let version = ["LINUX_KERNEL_VERSION", "KERNEL_VERSION(", "LINUX_VERSION_CODE"];
        if c.contains(path) && version.iter().any(|word| text.contains(word)) {
            breaches.push(format!("{}: asks for the kernel's version instead of its shape", shown(path)));
        }
        for read in direct_reads(&text).into_iter().filter(|_| c.contains(path)) {
            breaches.push(format!("{}: a pointer on the way is read directly: {read}", shown(path)));
        }
        if path.extension().is_some_and(|extension| extension == "h") && !text.contains("#ifndef __") {
            breaches.push(format!("{}: no include guard", shown(path)));
        }
    }
    Ok(())
}

/// BPF sources and headers: those of exporters, and those for users and tests.
///
/// # Errors
/// When a folder cannot be read.
pub fn bpf_sources() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in ["bpf", "crates"] {
        for suffix in [".bpf.c", ".bpf.h"] {
            found.extend(files(folder, suffix)?);
        }
    }
    Ok(found)
}

/// Calls of the read helpers with `->` in an argument: there `->` is a plain load, and only the last
/// step is read by the helper.
fn direct_reads(text: &str) -> Vec<&str> {
    let macros = ["FIELD(", "BPF_CORE_READ("];
    let starts = macros.iter().flat_map(|name| text.match_indices(name));
    // Names such as OFFSET_FIELD end in one of these and are not meant.
    let starts = starts.filter(|(at, _)| {
        !text[..*at].ends_with(|before: char| before.is_ascii_alphanumeric() || before == '_')
    });
    let reads = starts.filter_map(|(at, name)| {
        let mut depth = 1;
        let rest = &text[at + name.len()..];
        let end = rest.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        })?;
        Some(&text[at..=at + name.len() + end])
    });
    reads.filter(|read| read.contains("->")).collect()
}

/// The unit that runs any exporter to write a file.
const TEXTFILE: &str = "systemd/ebpf-textfile@.service";

/// The block of a unit that begins with "The same in every unit" and ends with an empty line is the
/// same in all units. The unit that runs any exporter has the capabilities of each.
fn hardening(exporters: &[Exporter], breaches: &mut Vec<String>) -> Result<()> {
    let mut blocks = BTreeSet::new();
    let of_any = fs::read_to_string(root().join(TEXTFILE))?;
    let of_any = capabilities(&of_any);
    for exporter in exporters {
        let path = format!("systemd/{}.service", exporter.binary);
        let unit = fs::read_to_string(root().join(&path)).unwrap_or_default();
        match unit.split_once("# The same in every unit") {
            Some((_, block)) => blocks.insert(block.split("\n\n").next().unwrap_or_default().to_owned()),
            None => bail!("{path} has no block that is the same in every unit"),
        };
        for missing in capabilities(&unit).difference(&of_any) {
            breaches.push(format!("{TEXTFILE} lacks {missing}, which {path} has"));
        }
    }
    if blocks.len() > 1 {
        breaches.push("systemd/: the block that is the same in every unit is not".to_owned());
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::direct_reads;

    #[test]
    fn an_arrow_in_a_read_by_helper_is_found() {
        let text = "id = FIELD(btf, task, cgroups->dfl_cgrp, kn);\n\
                    a = BPF_CORE_READ(\n(struct x *)(p->y), z); b = BPF_CORE_READ(p, y, z) + p->y;\n\
                    FIELD(btf, f(x), pid)->y; OFFSET_FIELD(p->y);";
        let found = ["FIELD(btf, task, cgroups->dfl_cgrp, kn)", "BPF_CORE_READ(\n(struct x *)(p->y), z)"];
        assert_eq!(direct_reads(text), found);
    }
}
