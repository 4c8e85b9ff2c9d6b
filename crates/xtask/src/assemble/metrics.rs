// SPDX-License-Identifier: MIT OR Apache-2.0
//! `METRICS.md`: what every exporter shows, from the golden files that its spec is tested
//! against.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use crate::workspace::{Exporter, exporters, root};

/// Where it is.
pub const FILE: &str = "METRICS.md";

/// What comes before the tables, written by hand.
const HEAD: &str = "docs/metrics-head.md";

/// A family of a golden file.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Families by name, of text in the exposition format.
fn families(text: &str) -> Result<BTreeMap<String, Family>> {
    let mut found: BTreeMap<String, Family> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').context("a help without text")?;
            name.clone_into(&mut last);
            help.clone_into(&mut found.entry(last.clone()).or_default().help);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context("a type without name")?;
            kind.clone_into(&mut found.entry(name.to_owned()).or_default().kind);
        } else if let Some((_, labels)) = line.split_once('{') {
            let family = found.get_mut(&last).context("a sample without help")?;
            family.labels.extend(label_names(labels).into_iter().filter(|name| name != "le"));
        }
    }
    Ok(found)
}

/// Names of labels in `a="1",b="x\"y"} 7`: what stands outside quotes.
fn label_names(labels: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in labels.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '}' => break,
            '=' => names.push(std::mem::take(&mut name)),
            ',' => {}
            c => name.push(c),
        }
    }
    names
}

/// The question that an exporter answers, and its port.
fn question(exporter: &Exporter) -> Result<(String, String)> {
    let name = &exporter.name;
    let main = fs::read_to_string(root().join(format!("crates/{name}/src/main.rs")))?;
    let spec = main.split_once(&format!("Spec::new(\"{name}\", ")).context("no Spec::new")?.1;
    let (port, rest) = spec.split_once(", \"").context("no port")?;
    let question = rest.split_once('"').context("no question")?.0;
    Ok((port.to_owned(), question.to_owned()))
}

/// The text.
///
/// # Errors
/// When a golden file is missing.
pub fn text() -> Result<String> {
    let mut text = fs::read_to_string(root().join(HEAD)).with_context(|| HEAD.to_owned())?;
    for exporter in exporters()? {
        let golden = |file: &str| {
            fs::read_to_string(root().join(format!("crates/{}/tests/golden/{file}", exporter.name)))
        };
        let shown = families(&golden("metrics.prom")?).with_context(|| exporter.name.clone())?;
        // Not every exporter can do anything without.
        let fallback = families(&golden("fallback.prom").unwrap_or_default())?;
        let (port, question) = question(&exporter)?;
        write!(
            text,
            "\n## {} :{port}\n\n{question}\n\n| metric | type | labels | what it is | without eBPF |\n|---|---|---|---|---|\n",
            exporter.name
        )?;
        for (name, family) in shown {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let without = if fallback.contains_key(&name) { "yes" } else { "" };
            writeln!(
                text,
                "| `{name}` | {} | {} | {} | {without} |",
                family.kind,
                labels.join(", "),
                family.help.replace('|', "\\|"),
            )?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_stands_outside_quotes() {
        assert_eq!(label_names(r#"a="1",b="x\",c=\"y",le="+Inf"} 7"#), ["a", "b", "le"]);
    }
}
