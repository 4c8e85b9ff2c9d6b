// SPDX-License-Identifier: MIT OR Apache-2.0
//! Merges pages in the text format 0.0.4: one HELP and one TYPE for each family, whoever has samples of it.
//! Samples stay where they are in memory; only those that get a label are written anew.

use std::collections::{BTreeMap, BTreeSet};

use crate::apart::{LABEL, Merged, More, is_told_apart};

/// A family of one page.
#[derive(Debug, PartialEq, Eq)]
pub struct Family<'p> {
    name: &'p str,
    help: Option<&'p str>,
    kind: &'p str,
    /// Whole lines, each with its end.
    samples: Vec<&'p str>,
}

/// The families of a page.
///
/// # Errors
/// When it is not a page in this format; the error has the line.
pub fn parse(page: &str) -> Result<Vec<Family<'_>>, String> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in page.split_inclusive('\n') {
        let wrong = || format!("not in the text format: {:?}", line.chars().take(80).collect::<String>());
        let text = line.strip_suffix('\n').ok_or("the page ends within a line")?;
        if let Some(comment) = text.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(what @ ("HELP" | "TYPE")), Some(name)) = (words.next(), words.next()) else { continue };
            let rest = words.next().unwrap_or_default();
            if families.last().is_none_or(|last| last.name != name) {
                families.push(Family { name, help: None, kind: "untyped", samples: Vec::new() });
            }
            let family = families.last_mut().ok_or_else(wrong)?;
            match what {
                "HELP" => family.help = Some(rest),
                _ => family.kind = rest,
            }
        } else if !text.is_empty() && !text.starts_with('#') {
            let (name, _) = split(text).ok_or_else(wrong)?;
            let family = families.last_mut().ok_or_else(wrong)?;
            match name.strip_prefix(family.name).ok_or_else(wrong)? {
                "" => {}
                "_bucket" | "_sum" | "_count" if matches!(family.kind, "histogram" | "summary") => {}
                _ => return Err(wrong()),
            }
            family.samples.push(line);
        }
    }
    Ok(families)
}

/// The name of a sample, and its labels without braces; `None` if the line is not a sample.
fn split(line: &str) -> Option<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let end = line.find(|c| !is_name(c))?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => {
            let length = labels_end(inside)?;
            (&inside[..length], &inside[length + 1..])
        }
        None => ("", rest),
    };
    let mut words = rest.strip_prefix(' ')?.split(' ');
    words.next()?.parse::<f64>().ok()?;
    let time = words.next().is_none_or(|time| time.parse::<i64>().is_ok());
    (!name.is_empty() && time && words.next().is_none()).then_some((name, labels))
}

/// Where the brace is that ends the labels.
fn labels_end(inside: &str) -> Option<usize> {
    let bytes = inside.as_bytes();
    let mut at = 0;
    while *bytes.get(at)? != b'}' {
        let equals = at + inside.get(at..)?.find('=')?;
        let name = &bytes[at..equals];
        if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            return None;
        }
        if *bytes.get(equals + 1)? != b'"' {
            return None;
        }
        at = equals + 2;
        while *bytes.get(at)? != b'"' {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        at += 1;
        match *bytes.get(at)? {
            b',' => at += 1,
            b'}' => {}
            _ => return None,
        }
    }
    Some(at)
}

/// The value of a label, escaped as it stands in `labels`, which are without braces. Values of others are skipped:
/// they may contain anything.
fn value<'l>(labels: &'l str, wanted: &str) -> Option<&'l str> {
    let mut rest = labels;
    while let Some((name, value)) = rest.split_once("=\"") {
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        if name == wanted {
            return Some(&value[..end]);
        }
        rest = value[end + 1..].trim_start_matches(',');
    }
    None
}

/// A page whose samples with the label `by` have more labels at the end of theirs: those that `more` knows for its
/// value, except for those that a sample has already. Neither the value, which is escaped, nor those of `more`, which
/// need no escapes, are changed. `None` if that is the same page.
pub fn extend(page: &str, by: &str, mut more: impl FnMut(&str) -> More) -> Option<String> {
    let mark = format!("{by}=\"");
    if !page.contains(&mark) {
        return None;
    }
    let mut longer = String::with_capacity(page.len() + page.len() / 4);
    for line in page.split_inclusive('\n') {
        let sample = Some(line).filter(|line| line.contains(&mark) && !line.starts_with('#'));
        let Some((name, labels)) = sample.and_then(|line| split(line.trim_end_matches('\n'))) else {
            longer.push_str(line);
            continue;
        };
        let (before, after) = line.split_at(name.len() + 1 + labels.len());
        longer.push_str(before);
        for (label, text) in value(labels, by).map(&mut more).unwrap_or_default().iter() {
            if value(labels, label).is_none() {
                let comma = if longer.ends_with(',') { "" } else { "," };
                for part in [comma, label, "=\"", text, "\""] {
                    longer.push_str(part);
                }
            }
        }
        longer.push_str(after);
    }
    Some(longer)
}

/// Writes a sample with the label that tells exporters apart, unless it has one already.
fn write_apart(out: &mut Vec<u8>, line: &str, exporter: &str) {
    match split(line.trim_end_matches('\n')) {
        Some((name, labels)) if value(labels, LABEL).is_none() => {
            let rest = &line[name.len()..];
            let rest = if labels.is_empty() { rest.strip_prefix("{}").unwrap_or(rest) } else { &rest[1..] };
            let end = if labels.is_empty() { "}" } else { "," };
            for part in [name, "{", LABEL, "=\"", exporter, "\"", end, rest] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        _ => out.extend_from_slice(line.as_bytes()),
    }
}

/// One page of several. A family that another exporter has with another type is left out.
pub fn merge(pages: &[(&str, Vec<Family<'_>>)]) -> Merged {
    let mut by_name: BTreeMap<&str, Vec<(&str, &Family<'_>)>> = BTreeMap::new();
    for (exporter, families) in pages {
        for family in families {
            by_name.entry(family.name).or_default().push((exporter, family));
        }
    }
    let mut merged = Merged::default();
    let out = &mut merged.body;
    for (name, parts) in by_name {
        let Some((_, first)) = parts.first() else { continue };
        let exporters: BTreeSet<&str> = parts.iter().map(|(exporter, _)| *exporter).collect();
        let apart = is_told_apart(name, exporters.len());
        let help = parts.iter().find_map(|(_, family)| family.help);
        if let Some(help) = help {
            out.extend_from_slice(format!("# HELP {name} {help}\n").as_bytes());
        }
        out.extend_from_slice(format!("# TYPE {name} {}\n", first.kind).as_bytes());
        for (exporter, family) in &parts {
            if family.kind != first.kind {
                merged.left_out.push(((*exporter).to_owned(), name.to_owned()));
                continue;
            }
            for line in &family.samples {
                if apart {
                    write_apart(out, line, exporter);
                } else {
                    out.extend_from_slice(line.as_bytes());
                }
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(pages: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let parsed: Vec<_> = pages.iter().map(|(name, page)| (*name, parse(page).expect(page))).collect();
        let merged = merge(&parsed);
        (String::from_utf8(merged.body).expect("text"), merged.left_out)
    }

    #[test]
    fn a_family_of_two_pages_has_one_head_and_tells_them_apart() {
        let page = |n: u32| {
            format!(
                "# HELP ebpf_exporter_mode Mode.\n# TYPE ebpf_exporter_mode gauge\nebpf_exporter_mode{{mode=\"ebpf\"}} {n}\n\
                 # HELP process_open_fds Open.\n# TYPE process_open_fds gauge\nprocess_open_fds {n}\n"
            )
        };
        let own = "# HELP ebpf_disk A.\n# TYPE ebpf_disk counter\nebpf_disk{device=\"a\"} 7\n";
        let (text, left_out) = merged(&[("diskio", &(own.to_owned() + &page(1))), ("tcp", &page(2))]);
        assert_eq!(
            text,
            "# HELP ebpf_disk A.\n# TYPE ebpf_disk counter\nebpf_disk{device=\"a\"} 7\n\
             # HELP ebpf_exporter_mode Mode.\n# TYPE ebpf_exporter_mode gauge\n\
             ebpf_exporter_mode{exporter=\"diskio\",mode=\"ebpf\"} 1\nebpf_exporter_mode{exporter=\"tcp\",mode=\"ebpf\"} 2\n\
             # HELP process_open_fds Open.\n# TYPE process_open_fds gauge\n\
             process_open_fds{exporter=\"diskio\"} 1\nprocess_open_fds{exporter=\"tcp\"} 2\n"
        );
        assert!(left_out.is_empty());
    }

    #[test]
    fn a_label_that_is_there_stays_and_values_are_no_labels() {
        let page = "# TYPE ebpf_exporter_x gauge\nebpf_exporter_x{exporter=\"tcp\",v=\"1\"} 1\n\
                    ebpf_exporter_x{a=\"exporter=\\\"\",b=\"},\\\\\"} 2\nebpf_exporter_x{a=\",exporter=\"} 3\nebpf_exporter_x{} 4\n";
        let (text, _) = merged(&[("diskio", page)]);
        assert_eq!(
            text,
            "# TYPE ebpf_exporter_x gauge\nebpf_exporter_x{exporter=\"tcp\",v=\"1\"} 1\n\
             ebpf_exporter_x{exporter=\"diskio\",a=\"exporter=\\\"\",b=\"},\\\\\"} 2\n\
             ebpf_exporter_x{exporter=\"diskio\",a=\",exporter=\"} 3\nebpf_exporter_x{exporter=\"diskio\"} 4\n"
        );
    }

    #[test]
    fn a_name_that_two_share_is_told_apart_and_another_type_is_left_out() {
        let counter = "# TYPE a counter\na 1\n";
        let (text, _) = merged(&[("custom", counter), ("tcp", counter)]);
        assert_eq!(text, "# TYPE a counter\na{exporter=\"custom\"} 1\na{exporter=\"tcp\"} 1\n");
        let (text, left_out) = merged(&[("custom", counter), ("tcp", "# TYPE a gauge\na 2\n")]);
        assert_eq!(text, "# TYPE a counter\na{exporter=\"custom\"} 1\n");
        assert_eq!(left_out, [("tcp".to_owned(), "a".to_owned())]);
    }

    #[test]
    fn a_histogram_stays_whole() {
        let page = "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 0.5\nh_count 1\n";
        assert_eq!(merged(&[("tcp", page)]).0, page);
        let (text, _) = merged(&[("tcp", page), ("dns", page)]);
        assert!(
            text.contains("h_bucket{exporter=\"dns\",le=\"+Inf\"} 1\nh_sum{exporter=\"dns\"} 0.5\n"),
            "{text}"
        );
    }

    #[test]
    fn samples_get_labels_that_one_of_theirs_leads_to() {
        let known: More = [("pod", "web-0".to_owned()), ("container", "nginx".to_owned())].into();
        let extended = |page: &str| {
            extend(page, "cgroup", |path| if path == "/a" { known.clone() } else { More::default() })
        };
        let page = "# HELP h About cgroup=\"/a\".\n# TYPE h histogram\nh_bucket{cgroup=\"/a\",le=\"1\"} 1\nh_sum{cgroup=\"/a\"} 2\n\
                    h_sum{cgroup=\"/b\"} 3\nh_sum{cgroup=\"/a\",} 3\nh_sum{v=\"cgroup=\\\"/a\\\"\"} 4\nh_sum{c=\"\\\\\",cgroup=\"/a\",container=\"x\"} 5 6\n\
                    h_sum{my_cgroup=\"/a\"} 7\nbroken{cgroup=\"/a\" 8\nh 9\n# EOF\n";
        assert_eq!(
            extended(page).expect("another page"),
            "# HELP h About cgroup=\"/a\".\n# TYPE h histogram\nh_bucket{cgroup=\"/a\",le=\"1\",pod=\"web-0\",container=\"nginx\"} 1\n\
             h_sum{cgroup=\"/a\",pod=\"web-0\",container=\"nginx\"} 2\nh_sum{cgroup=\"/b\"} 3\n\
             h_sum{cgroup=\"/a\",pod=\"web-0\",container=\"nginx\"} 3\nh_sum{v=\"cgroup=\\\"/a\\\"\"} 4\n\
             h_sum{c=\"\\\\\",cgroup=\"/a\",container=\"x\",pod=\"web-0\"} 5 6\n\
             h_sum{my_cgroup=\"/a\"} 7\nbroken{cgroup=\"/a\" 8\nh 9\n# EOF\n"
        );
        assert_eq!(extended("# TYPE a gauge\na{b=\"c\"} 1\n"), None);
    }

    #[test]
    fn a_page_that_is_broken_is_refused() {
        for page in [
            "a 1\n",
            "# TYPE a gauge\na 1",
            "# TYPE a gauge\nb 1\n",
            "# TYPE a gauge\na_count 1\n",
            "# TYPE a gauge\na{b=\"c} 1\n",
            "# TYPE a gauge\na{b=\"\\\"} 1\n",
            "# TYPE a gauge\na{b=c} 1\n",
            "# TYPE a gauge\na{=\"\"} 1\n",
            "# TYPE a gauge\na{b=\"c\"d=\"e\"} 1\n",
            "# TYPE a gauge\na{b=\"c\"}1\n",
            "# TYPE a gauge\na one\n",
            "# TYPE a gauge\na 1 2 3\n",
            "# TYPE a gauge\na\n",
            "<html>\n",
        ] {
            assert!(parse(page).is_err(), "{page}");
        }
        let good = "\n# a comment\n# TYPE a gauge\na{b=\"é\\n\",} +Inf 1700000000000\na{c=\"\"} NaN\n";
        assert_eq!(parse(good).expect("good")[0].samples.len(), 2);
    }
}
