// SPDX-License-Identifier: MIT OR Apache-2.0
//! Merges pages in protobuf. Samples are not decoded: a label more is a field more at their end.

use std::collections::{BTreeMap, BTreeSet};

use common::exposition::message::LabelPair;
use prost::Message;
use prost::bytes::Bytes;

use crate::apart::{LABEL, Merged, More, is_told_apart};

/// `MetricFamily`, with samples as they are.
#[derive(Clone, PartialEq, Message)]
pub struct Family {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    samples: Vec<Bytes>,
}

/// The labels of a `Metric`; its other fields are skipped.
#[derive(Clone, PartialEq, Message)]
struct Labels {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
}

/// The families of a page.
///
/// # Errors
/// When it is not a page in this format.
pub fn parse(page: Vec<u8>) -> Result<Vec<Family>, String> {
    let mut rest = Bytes::from(page);
    let mut families = Vec::new();
    while !rest.is_empty() {
        let family = Family::decode_length_delimited(&mut rest).map_err(|error| error.to_string())?;
        if family.name().is_empty() {
            return Err("a family without a name".to_owned());
        }
        if is_told_apart(family.name(), 1)
            && let Some(error) = family.samples.iter().find_map(|sample| Labels::decode(sample.clone()).err())
        {
            return Err(format!("{}: {error}", family.name()));
        }
        families.push(family);
    }
    Ok(families)
}

/// One page of several. A family that another exporter has with another type is left out.
pub fn merge(pages: Vec<(&str, Vec<Family>)>) -> Merged {
    let mut by_name: BTreeMap<String, Vec<(&str, Family)>> = BTreeMap::new();
    for (exporter, families) in pages {
        for family in families {
            by_name.entry(family.name().to_owned()).or_default().push((exporter, family));
        }
    }
    let mut merged = Merged::default();
    for (name, parts) in by_name {
        let Some((_, first)) = parts.first() else { continue };
        let exporters: BTreeSet<&str> = parts.iter().map(|(exporter, _)| *exporter).collect();
        let apart = is_told_apart(&name, exporters.len());
        let mut whole = Family { samples: Vec::new(), ..first.clone() };
        for (exporter, family) in parts {
            if family.kind != whole.kind {
                merged.left_out.push((exporter.to_owned(), name.clone()));
            } else if apart {
                whole.samples.extend(family.samples.into_iter().map(|sample| told_apart(sample, exporter)));
            } else {
                whole.samples.extend(family.samples);
            }
        }
        // A Vec has room.
        let _ = whole.encode_length_delimited(&mut merged.body);
    }
    merged
}

/// A page whose samples with the label `by` have more labels: those that `more` knows for its value, except for those
/// that a sample has already. Samples that are not messages stay as they are. `None` if that is the same page.
///
/// # Errors
/// When it is not a page in this format.
pub fn extend(page: &[u8], by: &str, mut more: impl FnMut(&str) -> More) -> Result<Option<Vec<u8>>, String> {
    if !page.windows(by.len()).any(|bytes| bytes == by.as_bytes()) {
        return Ok(None);
    }
    let mut longer = Vec::with_capacity(page.len() + page.len() / 4);
    for mut family in parse(page.to_vec())? {
        for sample in &mut family.samples {
            let Ok(Labels { label }) = Labels::decode(sample.clone()) else { continue };
            let known = label.iter().find(|label| label.name() == by).map(|by| more(by.value()));
            let known = known.unwrap_or_default();
            let new = known.iter().filter(|(name, _)| label.iter().all(|label| label.name() != *name));
            let new = new.map(|(name, value)| LabelPair {
                name: Some((*name).to_owned()),
                value: Some(value.clone()),
            });
            let new: Vec<LabelPair> = new.collect();
            if !new.is_empty() {
                *sample = with(sample, new);
            }
        }
        // A Vec has room.
        let _ = family.encode_length_delimited(&mut longer);
    }
    Ok(Some(longer))
}

/// The sample with more labels.
fn with(sample: &Bytes, label: Vec<LabelPair>) -> Bytes {
    let mut longer = Vec::from(sample.as_ref());
    // A Vec has room.
    let _ = Labels { label }.encode(&mut longer);
    longer.into()
}

/// The sample with the label. One that is not a message stays as it is.
fn told_apart(sample: Bytes, exporter: &str) -> Bytes {
    let has_it = |labels: Labels| labels.label.iter().any(|label| label.name() == LABEL);
    if Labels::decode(sample.clone()).map_or(true, has_it) {
        return sample;
    }
    with(&sample, vec![LabelPair { name: Some(LABEL.to_owned()), value: Some(exporter.to_owned()) }])
}

#[cfg(test)]
mod tests {
    use common::exposition::message::MetricFamily;
    use common::exposition::metric::{Families, Labels, Value};
    use common::exposition::protobuf::encode;

    use super::*;

    fn page(own: &str) -> Vec<Family> {
        let mut families = Families::default();
        families.counter(own, "Own.", Labels::of(&[("a", "é\"}")]), Value::Integer(3));
        families.gauge("process_open_fds", "Open.", Labels::none(), Value::Integer(4));
        families.gauge(
            "ebpf_exporter_build_info",
            "Info.",
            Labels::of(&[("exporter", "x")]),
            Value::Integer(1),
        );
        parse(encode(families)).expect("families")
    }

    fn read(body: &[u8]) -> Vec<MetricFamily> {
        let mut rest = body;
        let mut families = Vec::new();
        while !rest.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut rest).expect("a family"));
        }
        families
    }

    fn labels(family: &MetricFamily, at: usize) -> Vec<(&str, &str)> {
        family.metric[at].label.iter().map(|label| (label.name(), label.value())).collect()
    }

    #[test]
    fn samples_stay_what_they_are_and_those_of_itself_are_told_apart() {
        let merged = merge(vec![("diskio", page("a_total")), ("tcp", page("b_total"))]);
        let families = read(&merged.body);
        let names: Vec<_> = families.iter().map(MetricFamily::name).collect();
        assert_eq!(names, ["a_total", "b_total", "ebpf_exporter_build_info", "process_open_fds"]);
        assert_eq!(labels(&families[0], 0), [("a", "é\"}")]);
        assert_eq!(families[0].metric[0].counter.expect("a counter").value(), 3.0);
        assert_eq!(labels(&families[2], 0), [("exporter", "x")]);
        assert_eq!(labels(&families[3], 0), [("exporter", "diskio")]);
        assert_eq!(labels(&families[3], 1), [("exporter", "tcp")]);
        assert_eq!(families[3].metric[1].gauge.expect("a gauge").value(), 4.0);
        assert_eq!((families[3].help(), families[3].r#type), ("Open.", Some(1)));
        assert!(merged.left_out.is_empty());
    }

    #[test]
    fn another_type_is_left_out() {
        let mut families = Families::default();
        families.gauge("a_total", "Own.", Labels::none(), Value::Integer(3));
        let other = parse(encode(families)).expect("families");
        let merged = merge(vec![("diskio", page("a_total")), ("tcp", other)]);
        assert_eq!(merged.left_out, [("tcp".to_owned(), "a_total".to_owned())]);
        assert_eq!(read(&merged.body)[0].metric.len(), 1);
    }

    #[test]
    fn samples_get_labels_that_one_of_theirs_leads_to() {
        let known: More = [("pod", "web-0".to_owned()), ("container", "nginx".to_owned())].into();
        let mut families = Families::default();
        for (labels, value) in [
            (&[("cgroup", "/a")][..], 1),
            (&[("cgroup", "/b")], 2),
            (&[("container", "x"), ("cgroup", "/a")], 3),
        ] {
            families.counter("a_total", "A.", Labels::of(labels), Value::Integer(value));
        }
        let page = encode(families);
        let longer =
            extend(&page, "cgroup", |path| if path == "/a" { known.clone() } else { More::default() });
        let families = read(&longer.expect("a page").expect("another page"));
        assert_eq!(labels(&families[0], 0), [("cgroup", "/a"), ("pod", "web-0"), ("container", "nginx")]);
        assert_eq!(labels(&families[0], 1), [("cgroup", "/b")]);
        assert_eq!(labels(&families[0], 2), [("container", "x"), ("cgroup", "/a"), ("pod", "web-0")]);
        assert_eq!(families[0].metric[2].counter.expect("a counter").value(), 3.0);
        assert_eq!(extend(&page, "cgroup", |_| More::default()), Ok(Some(page.clone())));
        assert_eq!(extend(&page, "device", |_| known.clone()), Ok(None));
        assert!(extend(&page[..page.len() - 1], "cgroup", |_| known.clone()).is_err());
    }

    #[test]
    fn a_page_that_is_broken_is_refused() {
        let whole = merge(vec![("tcp", page("a_total"))]).body;
        assert!(parse(whole[..whole.len() - 1].to_vec()).is_err());
        assert!(parse(b"# HELP a A.\n".to_vec()).is_err());
        let samples = vec![Bytes::from_static(b"\x0f")];
        let nonsense = Family { name: Some("process_x".to_owned()), samples, ..Family::default() };
        assert!(parse(nonsense.encode_length_delimited_to_vec()).is_err());
    }
}
