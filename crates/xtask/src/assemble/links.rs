// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks the links in the repository's Markdown, and in the site that mdBook builds from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::workspace::{files, root};

/// The links of a page, and the anchors of its headings.
#[derive(Default)]
struct Page {
    links: Vec<String>,
    anchors: BTreeSet<String>,
}

/// The anchor of a heading, in the form of mdBook and code forges.
pub fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase()
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(part) | Event::Code(part) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&part);
                    }
                }
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = slug(&heading.take().unwrap_or_default());
                    let before = times.entry(anchor.clone()).or_default();
                    let anchor = if *before == 0 { anchor } else { format!("{anchor}-{before}") };
                    *before += 1;
                    page.anchors.insert(anchor);
                }
                _ => {}
            }
        }
        page
    }
}

/// Text of a page with its includes resolved, as mdBook does.
fn with_included(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let Some((before, rest)) = text.split_once("{{#include ") else { return Ok(text) };
    let (included, after) = rest.split_once("}}").context("an include that does not end")?;
    let included = path.with_file_name(included);
    let included = fs::read_to_string(&included).with_context(|| included.display().to_string())?;
    Ok(format!("{before}{included}{after}"))
}

/// `path` with `.` and `..` resolved.
fn normal(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut whole, part| {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            Component::CurDir => {}
            part => whole.push(part),
        }
        whole
    })
}

fn leads_elsewhere(link: &str) -> bool {
    ["https://", "http://", "mailto:"].iter().any(|scheme| link.starts_with(scheme))
}

/// File and anchor of a link `link` in the file `from`.
fn target<'l>(from: &Path, link: &'l str) -> (PathBuf, Option<&'l str>) {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let file = if path.is_empty() { from.to_owned() } else { normal(&from.with_file_name(path)) };
    (file, anchor)
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Adds to `breaches` each link in the repository's Markdown to a file or heading that does not exist,
/// each link from a page of the book to a file outside it, and each page missing in the book.
///
/// # Errors
/// When a page cannot be read.
pub fn check(breaches: &mut Vec<String>) -> Result<()> {
    let docs = root().join("docs");
    let mut paths = files("docs", ".md")?;
    for entry in fs::read_dir(root())? {
        paths.extend(Some(entry?.path()).filter(|path| path.extension().is_some_and(|kind| kind == "md")));
    }
    paths.extend([files("bpf", ".md")?, files("crates", ".md")?].concat());
    let mut pages = BTreeMap::new();
    for path in paths {
        let text = with_included(&path)?;
        pages.insert(path, Page::parse(&text));
    }
    for (path, page) in &pages {
        for link in page.links.iter().filter(|link| !leads_elsewhere(link)) {
            let (file, anchor) = target(path, link);
            let has_anchor = |anchor| pages.get(&file).is_some_and(|page| page.anchors.contains(anchor));
            if !file.exists() {
                breaches.push(format!("{}: {link}: there is no such file", shown(path)));
            } else if !anchor.is_none_or(has_anchor) {
                breaches.push(format!("{}: {link}: there is no such heading", shown(path)));
            } else if path.starts_with(&docs) && !file.starts_with(&docs) {
                breaches.push(format!("{}: {link}: leads out of the book", shown(path)));
            }
        }
    }
    let summary = docs.join("SUMMARY.md");
    let listed: BTreeSet<PathBuf> = pages
        .get(&summary)
        .map(|page| page.links.iter().map(|link| target(&summary, link).0).collect())
        .unwrap_or_default();
    for path in pages.keys().filter(|path| path.starts_with(&docs) && **path != summary) {
        if !listed.contains(path) {
            breaches.push(format!("docs/SUMMARY.md does not list {}", shown(path)));
        }
    }
    Ok(())
}

/// Values of the attributes `name="..."` in HTML.
fn attributes<'h>(html: &'h str, name: &str) -> impl Iterator<Item = &'h str> {
    html.split(&format!(" {name}=\""))
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect::<Vec<_>>()
        .into_iter()
}

/// Links of the site in `folder` to a file or anchor that it does not have.
///
/// # Errors
/// When a page cannot be read.
pub fn broken(folder: &Path, pages: &[PathBuf]) -> Result<Vec<String>> {
    let mut htmls = BTreeMap::new();
    for path in pages {
        htmls.insert(path.clone(), fs::read_to_string(path)?);
    }
    let mut broken = Vec::new();
    for (path, html) in &htmls {
        // Its links are relative to the server's top folder.
        if path.ends_with("404.html") {
            continue;
        }
        for link in attributes(html, "href").chain(attributes(html, "src")) {
            if leads_elsewhere(link) || link.starts_with("data:") {
                continue;
            }
            let (file, anchor) = target(path, link);
            let has_anchor =
                |anchor| htmls.get(&file).is_some_and(|html| attributes(html, "id").any(|id| id == anchor));
            if !file.exists() || !anchor.is_none_or(has_anchor) {
                broken.push(format!("{}: {link}", path.strip_prefix(folder).unwrap_or(path).display()));
            }
        }
    }
    Ok(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_forges() {
        assert_eq!(
            slug("DiskLatencyP99High, DiskLatencyP99Critical"),
            "disklatencyp99high-disklatencyp99critical"
        );
        assert_eq!(slug("Compared with /proc/diskstats"), "compared-with-procdiskstats");
        let page = Page::parse("# A `b`\n\n[x](y.md#z)\n\n## A b\n\n| [c](d) |\n|---|\n\n`[no](link)`\n");
        assert_eq!(page.links, ["y.md#z", "d"]);
        assert_eq!(page.anchors, ["a-b", "a-b-1"].map(str::to_owned).into());
    }

    #[test]
    fn links_are_relative_to_their_page() {
        let from = Path::new("/r/docs/exporters/a.md");
        assert_eq!(target(from, "../b.md#c"), (PathBuf::from("/r/docs/b.md"), Some("c")));
        assert_eq!(target(from, "#c"), (from.to_owned(), Some("c")));
    }
}
