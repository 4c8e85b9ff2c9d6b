// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of whole configs.

mod errors;
mod fuzz;
mod hostile;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::{Buckets, CgroupIdMap, CgroupMapKind, Config, Finding, Source, check_together, load, parse};

/// Parses a text that is valid and in which nothing is found.
#[track_caller]
fn clean(text: &str) -> Config {
    let (config, findings) = parsed(text).expect("valid");
    assert_eq!(findings, [], "{text}");
    config
}

fn parsed(text: &str) -> Result<(Config, Vec<Finding>), String> {
    parse("demo", Path::new("demo.yaml"), text.as_bytes()).map_err(|error| format!("{error:#}"))
}

/// A text with one counter, `more` being further keys of its only label's only decoder.
fn with_decoder(more: &str) -> String {
    format!(
        "metrics:\n  counters:\n    - name: a_total\n      help: A\n      labels:\n        - name: b\n          \
         size: 4\n          decoders:\n            - name: static_map\n{more}"
    )
}

/// A text with one counter that has no labels and further keys.
fn with_counter(more: &str) -> String {
    format!("metrics: {{counters: [{{name: a_total, help: A, {more}}}]}}")
}

/// A text with one histogram and further keys.
fn with_histogram(more: &str) -> String {
    let label = "labels: [{name: bucket, size: 4, decoders: [{name: uint}]}]";
    format!("metrics: {{histograms: [{{name: a, help: A, {label}, {more}}}]}}")
}

#[test]
fn every_key_is_read() {
    let config = clean(
        "name: ignored
metrics:
  counters:
    - name: a_total
      help: Some a
      labels:
        - name: kind
          size: 1
          padding: 3
          decoders:
            - name: uint
            - name: static_map
              allow_unknown: true
              static_map:
                1: one
        - name: comm
          size: 16
          decoders:
            - name: string
            - name: regexp
              regexps:
                - ^kworker
                - (.*)
    - name: b_total
      help: Some b
      perf_event_array: true
      flush_interval: 2s
    - name: c_total
      help: Some c
      ring_buffer: yes
      map: records
  gauges:
    - {name: d, help: Some d, map: stats, member: size, max_age: 1h}
  histograms:
    - name: e_seconds
      help: Some e
      bucket_type: exp2
      bucket_min: -3
      bucket_max: 27
      bucket_multiplier: 0.000001
      labels:
        - {name: bucket, size: 8, decoders: [{name: uint}]}
tracing:
  spans:
    - ringbuf: spans
      name: work
      service: shop
      labels:
        - {name: http.method, size: 8, decoders: [{name: string}]}
kaddrs:
  - jiffies
cgroup_id_map:
  name: groups
  type: cgrp_storage
  regexps: [\"^/sys/fs/cgroup/system.slice\"]
",
    );
    assert_eq!(config.name, "demo");
    let [a, b, c] = &config.counters[..] else { panic!("{config:?}") };
    assert_eq!((a.name.as_str(), a.help.as_str(), a.line), ("a_total", "Some a", 4));
    assert_eq!(a.source, Source::Map { map: "a_total".into(), member: None });
    assert_eq!(a.max_age, None);
    let [kind, comm] = &a.labels[..] else { panic!("{a:?}") };
    assert_eq!((kind.name.as_str(), kind.size, kind.padding, kind.line), ("kind", 1, 3, 7));
    assert_eq!(kind.decoders[0].name, "uint");
    assert_eq!(kind.decoders[1].line, 12);
    assert!(kind.decoders[1].allow_unknown);
    let map = kind.decoders[1].static_map.as_ref().expect("a map");
    assert_eq!(map.iter().collect::<Vec<_>>(), [(&"1".to_owned(), &"one".to_owned())]);
    assert_eq!((comm.size, comm.padding), (16, 0));
    assert_eq!(comm.decoders[1].regexps, Some(vec!["^kworker".to_owned(), "(.*)".to_owned()]));
    assert_eq!(b.source, Source::Perf { map: "b_total".into(), flush: Duration::from_secs(2) });
    assert_eq!(c.source, Source::Ring { map: "records".into() });
    let [d] = &config.gauges[..] else { panic!("{config:?}") };
    assert_eq!(d.source, Source::Map { map: "stats".into(), member: Some("size".into()) });
    assert_eq!(d.max_age, Some(Duration::from_secs(3600)));
    let [e] = &config.histograms[..] else { panic!("{config:?}") };
    assert_eq!((e.buckets.clone(), e.multiplier), (Buckets::Exp2 { min: -3, max: 27 }, 0.000_001));
    assert_eq!(e.metric.source, Source::Map { map: "e_seconds".into(), member: None });
    let [span] = &config.spans[..] else { panic!("{config:?}") };
    assert_eq!((span.ringbuf.as_str(), span.name.as_str(), span.service.as_str()), ("spans", "work", "shop"));
    assert_eq!((span.labels[0].name.as_str(), span.line), ("http.method", 45));
    assert_eq!(config.kaddrs, ["jiffies"]);
    let Some(CgroupIdMap { map, kind, regexps, line }) = config.cgroup_id_map else { panic!("none") };
    assert_eq!((map.as_str(), kind, line), ("groups", CgroupMapKind::CgrpStorage, 53));
    assert_eq!(regexps, ["^/sys/fs/cgroup/system.slice"]);
}

#[test]
fn texts_are_as_written() {
    let table = [
        ("0: read", ("0", "read")),
        ("0x1: a", ("0x1", "a")),
        ("1: true", ("1", "true")),
        ("yes: no", ("yes", "no")),
        ("1_000: 1.50", ("1_000", "1.50")),
        ("'0': \"a\\tb\"", ("0", "a\tb")),
        ("!!str 5: !!int 6", ("5", "6")),
        ("a: ~", ("a", "")),
        ("a:", ("a", "")),
        ("~: a", ("", "a")),
        ("a: '~'", ("a", "~")),
        ("2001-01-01: 1:30", ("2001-01-01", "1:30")),
        ("a: |\n                  two\n                  lines", ("a", "two\nlines\n")),
        ("a: plain text\n                  goes on", ("a", "plain text goes on")),
        (
            "b: 1\n                a: &x 2\n                b: *x\n                a: 3\n                b: 3",
            ("a", "3"),
        ),
    ];
    for (line, (key, value)) in table {
        let config = clean(&with_decoder(&format!("              static_map:\n                {line}\n")));
        let map = config.counters[0].labels[0].decoders[0].static_map.clone().expect("a map");
        assert_eq!(map.get(key).map(String::as_str), Some(value), "{line}: {map:?}");
    }
}

#[test]
fn integers_are_those_of_yaml_v2() {
    let table = [
        ("8", Ok(8)),
        ("0x10", Ok(16)),
        ("0b11", Ok(3)),
        ("0o17", Ok(15)),
        ("017", Ok(15)),
        ("1_6", Ok(16)),
        ("+4", Ok(4)),
        ("4.9", Ok(4)),
        ("1e1", Ok(10)),
        ("09", Ok(9)),
        ("!!int 5", Ok(5)),
        ("!!int '5'", Ok(5)),
        ("'4'", Err("the quoted text `4`")),
        ("!!str 4", Err("the quoted text `4`")),
        ("four", Err("`four`")),
        ("-1", Err("`-1`")),
        ("true", Err("`true`")),
        ("18446744073709551616", Err("`18446744073709551616`")),
        (".inf", Err("`.inf`")),
        (".nan", Err("`.nan`")),
        ("[4]", Err("a list")),
        ("{4: 5}", Err("a mapping")),
    ];
    for (value, expected) in table {
        let text = with_counter(&format!("labels: [{{name: b, size: {value}, decoders: [{{name: uint}}]}}]"));
        let path = "demo.yaml:1: metrics.counters[0].labels[0].size: expected a whole number, 0 or more, ";
        let size = parsed(&text).map(|(config, _)| config.counters[0].labels[0].size);
        let expected = expected.map_err(|found| format!("{path}found {found}"));
        assert_eq!(size, expected, "{value}");
    }
    let histogram =
        |min| clean(&with_histogram(&format!("bucket_type: linear, bucket_max: 5, bucket_min: {min}")));
    for (value, expected) in [("-1", -1), ("-0x2", -2), ("-3.9", -3), ("-0.5", 0), ("~", 0)] {
        assert_eq!(
            histogram(value).histograms[0].buckets,
            Buckets::Linear { min: expected, max: 5 },
            "{value}"
        );
    }
}

#[test]
fn booleans_and_numbers_and_durations() {
    for (value, expected) in [("yes", true), ("On", true), ("TRUE", true), ("off", false), ("~", false)] {
        let is_perf = matches!(
            clean(&with_counter(&format!("perf_event_array: {value}"))).counters[0].source,
            Source::Perf { .. }
        );
        assert_eq!(is_perf, expected, "{value}");
    }
    let table = [
        ("0", 3_600_000_000_000),
        ("~", 3_600_000_000_000),
        ("10s", 10_000_000_000),
        ("'10s'", 10_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("10", 10),
        ("10.7", 10),
    ];
    for (value, expected) in table {
        let text = with_counter(&format!("perf_event_array: true, flush_interval: {value}"));
        let Source::Perf { flush, .. } = clean(&text).counters[0].source else { panic!("{text}") };
        assert_eq!(flush, Duration::from_nanos(expected), "{value}");
    }
    for (value, expected) in [("0", 1.0), ("~", 1.0), ("50", 50.0), ("1e-6", 0.000_001), ("0x10", 16.0)] {
        let text = with_histogram(&format!("bucket_type: linear, bucket_max: 2, bucket_multiplier: {value}"));
        assert_eq!(clean(&text).histograms[0].multiplier, expected, "{value}");
    }
    let text = with_histogram("bucket_type: fixed, bucket_keys: [10, 2.5, 0x10, 10]");
    assert_eq!(clean(&text).histograms[0].buckets, Buckets::Fixed(vec![10.0, 2.5, 16.0, 10.0]));
}

#[test]
fn keys_that_come_again_and_merges_are_read_in_order() {
    let (config, findings) = parsed(
        "x-defaults: &defaults {help: One, perf_event_array: true}
metrics:
  counters: [{name: gone_total, help: Gone}]
  gauges: [{name: kept, help: Kept}]
metrics:
  counters:
    - &a {<<: *defaults, name: a_total}
    - {name: b_total, help: Two, <<: *defaults}
    - {<<: [{help: Three}, {help: Four, name: c_total}]}
    - {name: d_total, name: e_total, help: Five}
    - {<<: *a, name: f_total, perf_event_array: false}
    - {help: '<<', '<<': x, name: g_total}
",
    )
    .expect("valid");
    let counters = config.counters.iter().map(|counter| {
        let is_perf = matches!(counter.source, Source::Perf { .. });
        (counter.name.as_str(), counter.help.as_str(), is_perf)
    });
    assert_eq!(
        counters.collect::<Vec<_>>(),
        [
            ("a_total", "One", true),
            ("b_total", "One", true),
            ("c_total", "Three", false),
            ("e_total", "Five", false),
            ("f_total", "One", false),
            ("g_total", "<<", false),
        ]
    );
    assert_eq!(config.gauges[0].name, "kept");
    assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [1, 12]);
    let text = with_decoder("              static_map: &m {1: a, 2: b}\n              static_map: {2: c}\n");
    let map = clean(&text).counters[0].labels[0].decoders[0].static_map.clone().expect("a map");
    assert_eq!(map.into_iter().collect::<Vec<_>>(), [("1".into(), "a".into()), ("2".into(), "c".into())]);
}

#[test]
fn the_label_of_the_bucket_needs_no_name() {
    let keys = "bucket_type: exp2, bucket_max: 5";
    let labels = |names: [&str; 2]| {
        let label = |name| format!("{{{name} size: 4, decoders: [{{name: uint}}]}}");
        format!("{keys}, labels: [{}]", names.map(label).join(", "))
    };
    let named = |histogram: &super::Histogram| -> Vec<String> {
        super::check::of_series(&histogram.metric.labels).map(|label| label.name.clone()).collect()
    };
    let table = [
        (["name: a,", ""], "a"),
        (["name: a,", "name: a,"], "a"),
        (["name: a,", "name: le,"], "a"),
        (["", "name: cpu,"], "cpu"),
    ];
    for (names, expected) in table {
        let text = with_histogram("LABELS")
            .replace("labels: [{name: bucket, size: 4, decoders: [{name: uint}]}], LABELS", &labels(names));
        assert_eq!(named(&clean(&text).histograms[0]), [expected], "{text}");
    }
    assert_eq!(named(&clean(&with_histogram(keys)).histograms[0]), Vec::<String>::new());
    assert_eq!(
        named(&clean(&with_histogram(keys).replace("name: bucket", "name: cpu")).histograms[0]),
        Vec::<String>::new()
    );
}

#[test]
fn only_the_first_document_is_read() {
    let config = clean("---\nmetrics: {counters: []}\n---\nmetrics: [\n\t}}: nonsense");
    assert!(config.counters.is_empty());
    let config = clean("%YAML 1.1\n---\nmetrics: {counters: []}\n...\n: : :\n");
    assert!(config.counters.is_empty());
    clean("\u{feff}# After a byte order mark\r\nmetrics:\r\n  counters: []\r\n");
}
