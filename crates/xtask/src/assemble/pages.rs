// SPDX-License-Identifier: MIT OR Apache-2.0
//! The generated parts of hand-written pages. They are between two comments, and come from golden
//! files, the guests' records and recorded measurements.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use crate::assemble::links::slug;
use crate::assemble::{kernels, metrics, rules};
use crate::workspace::{Exporter, exporters, files, root};

/// Number of metrics of each exporter in the overview: the first ones that its page names.
const EXAMPLES: usize = 2;

/// Path of an exporter's page.
pub fn page_of(name: &str) -> String {
    format!("docs/exporters/{name}.md")
}

/// Path in the checkout and text of all pages that have a generated part.
///
/// # Errors
/// When a page or one of its markers is missing.
pub fn texts() -> Result<Vec<(String, String)>> {
    let exporters = exporters()?;
    let manuals = exporters.iter().map(manual).collect::<Result<Vec<_>>>()?;
    let costs = Costs::read(&exporters);
    let common = common(&manuals);
    let mut pages = vec![
        page("README.md", "exporters", &overview(&exporters, "docs/exporters/")?)?,
        page("docs/exporters/index.md", "exporters", &overview(&exporters, "")?)?,
        page("docs/flags.md", "flags", &flag_table(&common))?,
    ];
    let (path, cost) = page("docs/cost.md", "nanoseconds", &costs.of_all("hook"))?;
    let cost = filled(&cost, "instructions", &costs.of_all("event"))?;
    pages.push((path, filled(&cost, "processes", &costs.of_all("process"))?));
    for exporter in exporters.iter().filter(|exporter| !exporter.built_in) {
        let path = format!("docs/{}.md", exporter.name);
        let text = read(&path)?;
        pages.push(page(&path, "examples", &examples(&exporter.name, &text)?)?);
    }
    for (exporter, flags) in exporters.iter().zip(&manuals) {
        let own: Vec<Flag> = flags.iter().filter(|flag| !common.contains(flag)).cloned().collect();
        let reference = reference(exporter, &own, &costs)?;
        pages.push(page(&page_of(&exporter.name), "reference", &reference)?);
    }
    pages.push(("docs/SUMMARY.md".to_owned(), summary(&read("docs/SUMMARY.md")?, &exporters)?));
    Ok(pages)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

fn page(path: &str, region: &str, content: &str) -> Result<(String, String)> {
    let text = filled(&read(path)?, region, content).with_context(|| path.to_owned())?;
    Ok((path.to_owned(), text))
}

/// `text` with `content` between the comments that mark `region`.
fn filled(text: &str, region: &str, content: &str) -> Result<String> {
    let begin = format!("<!-- begin {region}:");
    let end = format!("<!-- end {region} -->");
    let (before, rest) = text.split_once(&begin).with_context(|| format!("no comment {begin}"))?;
    let (comment, rest) = rest.split_once("-->\n").with_context(|| format!("{begin} does not end"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("no comment {end}"))?;
    Ok(format!("{before}{begin}{comment}-->\n\n{}\n\n{end}{after}", content.trim()))
}

/// The examples that an exporter of users' objects ships and whose program `page` does not name: their
/// comments explain them.
fn examples(name: &str, page: &str) -> Result<String> {
    let folder = format!("crates/{name}/examples");
    let by_hand = page.split("<!-- begin examples:").next().unwrap_or_default();
    let mut text = String::new();
    for source in files(&folder, ".bpf.c")? {
        let file = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if by_hand.contains(&file) {
            continue;
        }
        let stem = file.trim_end_matches(".bpf.c");
        let config = format!("{stem}.yaml");
        write!(text, "### {stem}\n\n")?;
        for (file, language) in [(&file, "c"), (&config, "yaml")] {
            let content = read(&format!("{folder}/{file}"))?;
            let content = content
                .split_once("SPDX-License-Identifier")
                .map_or(&*content, |(_, rest)| rest.split_once('\n').map_or("", |(_, rest)| rest));
            write!(text, "`{file}`:\n\n```{language}\n{}\n```\n\n", content.trim())?;
        }
    }
    Ok(text)
}

/// A table of all exporters. Their pages are in `folder`.
fn overview(exporters: &[Exporter], folder: &str) -> Result<String> {
    let mut text = "| exporter | port | question | two of its metrics |\n|---|---|---|---|\n".to_owned();
    for exporter in exporters {
        let (port, question) = metrics::question(exporter)?;
        let name = &exporter.name;
        let examples = named_first(&read(&page_of(name))?).join(", ");
        writeln!(text, "| [{name}]({folder}{name}.md) | {port} | {question} | {examples} |")?;
    }
    Ok(text)
}

/// The first metrics that a page names, each in backquotes.
fn named_first(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for code in page.split('`').skip(1).step_by(2) {
        let name = code.split('{').next().unwrap_or_default();
        let name = format!("`{name}`");
        if code.starts_with("ebpf_") && !found.contains(&name) {
            found.push(name);
        }
    }
    found.truncate(EXAMPLES);
    found
}

/// The book's table of contents, with the exporters below the line of their index.
fn summary(text: &str, exporters: &[Exporter]) -> Result<String> {
    const INDEX: &str = "- [Exporters](exporters/index.md)\n";
    let (before, after) = text.split_once(INDEX).context("docs/SUMMARY.md has no exporters/index.md")?;
    let list: String = exporters.iter().map(|e| format!("  - [{0}](exporters/{0}.md)\n", e.name)).collect();
    let after: String = after.split_inclusive('\n').skip_while(|line| line.starts_with("  - ")).collect();
    Ok(format!("{before}{INDEX}{list}{after}"))
}

/// The generated end of an exporter's page.
fn reference(exporter: &Exporter, flags: &[Flag], costs: &Costs) -> Result<String> {
    let name = &exporter.name;
    let (port, _) = metrics::question(exporter)?;
    let binary = &exporter.binary;
    let mut text =
        format!("## Reference\n\nPort {port}; program, unit and manual page `{binary}`.\n\n### Flags\n\n");
    if flags.is_empty() {
        text += "It has none of its own, but [those of every exporter](../flags.md).\n";
    } else {
        text += &flag_table(flags);
        text += "\n[Those of every exporter](../flags.md) come on top.\n";
    }
    write!(text, "\n### Metrics\n\n{}", metrics::table(exporter)?)?;
    text += "\n[Those of every exporter](../metrics.md#every-exporter) come on top.\n";
    let alerts = alerts(name)?;
    if !alerts.is_empty() {
        write!(text, "\n### Alerts\n\n{alerts}")?;
    }
    if let Some(hooks) = kernels::table_of(name)? {
        write!(
            text,
            "\n### Hooks by kernel\n\nWith default flags; [Kernel support](../kernel-support.md) says how this is known.\n\n{hooks}"
        )?;
    }
    if let Some(cost) = costs.0.get(name) {
        write!(
            text,
            "\n### Measured cost\n\n[Cost](../cost.md) says where and how this was measured.\n\n{cost}"
        )?;
    }
    Ok(text)
}

/// Links to the runbooks of an exporter's alerts.
fn alerts(name: &str) -> Result<String> {
    let runbooks = read("docs/runbooks.md")?;
    let mut text = String::new();
    for line in read(&format!("alerts/{name}.yml"))?.lines() {
        let Some(alert) = line.trim().strip_prefix("- alert: ") else { continue };
        let headings = runbooks.lines().filter_map(|line| line.strip_prefix("### "));
        let heading = headings.into_iter().find(|heading| heading.split(", ").any(|named| named == alert));
        let anchor = slug(heading.with_context(|| format!("docs/runbooks.md has nothing about {alert}"))?);
        writeln!(text, "- [{alert}](../runbooks.md#{anchor})")?;
    }
    Ok(text)
}

/// Tables of measured costs, `crates/NAME/benches/cost.md`, by exporter.
struct Costs(BTreeMap<String, String>);

impl Costs {
    fn read(exporters: &[Exporter]) -> Self {
        let of = |exporter: &Exporter| {
            let path = root().join(format!("crates/{}/benches/cost.md", exporter.name));
            // Not every exporter has been measured.
            Some((exporter.name.clone(), fs::read_to_string(path).ok()?))
        };
        Self(exporters.iter().filter_map(of).collect())
    }

    /// The tables whose first column is `first`, joined into one.
    fn of_all(&self, first: &str) -> String {
        let mut text = String::new();
        for (name, table) in &self.0 {
            let mut rows = table.lines().filter(|line| line.starts_with('|'));
            let (Some(head), Some(rule)) = (rows.next(), rows.next()) else { continue };
            if !head.starts_with(&format!("| {first} |")) {
                continue;
            }
            if text.is_empty() {
                text = format!("| exporter {head}\n|---{rule}\n");
            }
            text.extend(rows.map(|row| format!("| {name} {row}\n")));
        }
        text
    }
}

/// A flag, as described in the manual page.
#[derive(Clone, Debug, PartialEq)]
struct Flag {
    name: String,
    default: String,
    help: String,
}

/// The flags of an exporter; none if it has no manual page yet.
fn manual(exporter: &Exporter) -> Result<Vec<Flag>> {
    let path = root().join(format!("crates/{}/tests/golden/{}.8", exporter.name, exporter.binary));
    flags(&fs::read_to_string(path).unwrap_or_default()).with_context(|| exporter.name.clone())
}

/// The flags of a manual page written by clap, except `--help`.
fn flags(page: &str) -> Result<Vec<Flag>> {
    let Some((_, options)) = page.split_once(".SH OPTIONS\n.TP\n") else { return Ok(Vec::new()) };
    let options = options.split(".SH ").next().unwrap_or_default();
    let mut found = Vec::new();
    for option in options.split(".TP\n") {
        let plain = plain(option);
        let mut lines = plain.lines().filter(|line| !line.is_empty() && !line.starts_with('.'));
        let title = lines.next().context("a flag without name")?;
        if title.starts_with("-h") {
            continue;
        }
        let (name, default) = title.split_once(" [default: ").unwrap_or((title, ""));
        let mut help = escaped(lines.next().unwrap_or_default());
        let values: Vec<String> = lines
            .filter(|line| *line != "Possible values:")
            .map(|value| match value.split_once(": ") {
                Some((word, meaning)) => format!("`{word}`: {}", escaped(meaning)),
                None => format!("`{value}`"),
            })
            .collect();
        if values.iter().any(|value| value.contains(": ")) {
            write!(help, ". {}", values.join(". "))?;
        } else if !values.is_empty() {
            write!(help, ": {}", values.join(", "))?;
        }
        found.push(Flag { name: name.to_owned(), default: default.trim_end_matches(']').to_owned(), help });
    }
    Ok(found)
}

/// Text in which characters that are special in Markdown are escaped.
fn escaped(text: &str) -> String {
    ['*', '_', '|', '<'].iter().fold(text.to_owned(), |text, c| text.replace(*c, &format!("\\{c}")))
}

/// Roff as plain text.
fn plain(roff: &str) -> String {
    ["\\fB", "\\fI", "\\fR"]
        .iter()
        .fold(roff.to_owned(), |text, font| text.replace(font, ""))
        .replace("\\*(Aq", "'")
        .replace("\\-", "-")
        .replace("\\&", "")
        .replace("\\\\", "\\")
}

/// The flags that all manual pages have.
fn common(manuals: &[Vec<Flag>]) -> Vec<Flag> {
    let mut written = manuals.iter().filter(|flags| !flags.is_empty());
    let first = written.next().cloned().unwrap_or_default();
    written.fold(first, |common, flags| common.into_iter().filter(|flag| flags.contains(flag)).collect())
}

fn flag_table(flags: &[Flag]) -> String {
    let mut text = "| flag | default | what it does |\n|---|---|---|\n".to_owned();
    for Flag { name, default, help } in flags {
        let default = if default.is_empty() { String::new() } else { format!("`{default}`") };
        text += &format!("| `{name}` | {default} | {help} |\n");
    }
    text
}

/// Names of metrics that pages may use: those of families and of their samples.
fn known_metrics() -> Result<BTreeSet<String>> {
    let mut known = BTreeSet::new();
    for golden in metrics::goldens()? {
        for line in fs::read_to_string(&golden).with_context(|| golden.display().to_string())?.lines() {
            let name = line.strip_prefix("# TYPE ").unwrap_or(line).split(['{', ' ']).next();
            known.extend(name.filter(|name| name.starts_with("ebpf_")).map(ToOwned::to_owned));
        }
    }
    Ok(known)
}

/// Adds to `breaches` each metric that a page names and no exporter has. `ebpf_zfs_zio_*` stands for
/// all metrics with that prefix.
///
/// # Errors
/// When a page cannot be read.
pub fn check_metrics(breaches: &mut Vec<String>) -> Result<()> {
    let known = known_metrics()?;
    let recorded = rules::recorded()?;
    for path in files("docs", ".md")?.into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&path)?;
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':') {
            let word = word.trim_matches(':');
            let is_one = word.starts_with("ebpf_")
                && !word.starts_with("ebpf_exporter")
                && !(word.ends_with('_') && known.iter().any(|name| name.starts_with(word)));
            let is_recorded = word.contains(":ebpf_");
            if is_one && !known.contains(word) || is_recorded && !recorded.contains(word) {
                let path = path.strip_prefix(root()).unwrap_or(&path).display();
                breaches.push(format!("{path}: no exporter has a metric {word}"));
            }
        }
    }
    Ok(())
}

/// The queries of all pages as a rules file for promtool: one for each line of a `promql` block.
///
/// # Errors
/// When a page cannot be read.
pub fn queries() -> Result<String> {
    let mut rules = "groups:\n  - name: docs\n    rules:\n".to_owned();
    for path in files("docs", ".md")? {
        let text = fs::read_to_string(&path)?;
        for block in text.split("```promql\n").skip(1) {
            for query in block.split("```").next().unwrap_or_default().lines() {
                writeln!(
                    rules,
                    "      - record: docs:query\n        expr: {}",
                    serde_json::to_string(query)?
                )?;
                // promtool rejects two rules that are the same.
                let page = path.file_name().unwrap_or_default().to_string_lossy();
                writeln!(
                    rules,
                    "        labels: {{page: {page:?}, query: {}}}",
                    serde_json::to_string(query)?
                )?;
            }
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_the_manual_page() {
        let page = ".SH OPTIONS\n.TP\n\\fB\\-\\-a.b\\fR \\fI<N>\\fR [default: 5s]\nOne\\*(Aqs help\n\
                    .TP\n\\fB\\-\\-mode\\fR \\fI<MODE>\\fR\nHow\n.br\n\n.br\n\\fIPossible values:\\fR\n.RS 14\n\
                    .IP \\(bu 2\non\n.IP \\(bu 2\noff\n.RE\n.TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nPrint help\n.SH FILES\n";
        let flag = |name: &str, default: &str, help: &str| Flag {
            name: name.to_owned(),
            default: default.to_owned(),
            help: help.to_owned(),
        };
        let expected = [flag("--a.b <N>", "5s", "One's help"), flag("--mode <MODE>", "", "How: `on`, `off`")];
        assert_eq!(flags(page).expect("flags"), expected);
    }

    #[test]
    fn what_is_between_the_comments_is_replaced() {
        let text = "a\n<!-- begin x: by y -->\nold\n<!-- end x -->\nb\n";
        let new = filled(text, "x", "new\n").expect("markers");
        assert_eq!(new, "a\n<!-- begin x: by y -->\n\nnew\n\n<!-- end x -->\nb\n");
        assert_eq!(filled(&new, "x", "new\n").expect("markers"), new);
        assert!(filled(text, "y", "new\n").is_err());
    }

    #[test]
    fn the_metrics_that_a_page_names_first_are_its_examples() {
        let page = "# a\n\n`--flag`, `ebpf_a_total{x=\"y\"}`, `ebpf_a_total` and `ebpf_b`, `ebpf_c`\n";
        assert_eq!(named_first(page), ["`ebpf_a_total`", "`ebpf_b`"]);
    }
}
