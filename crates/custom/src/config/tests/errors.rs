// SPDX-License-Identifier: MIT OR Apache-2.0
//! What users read when something in a config is wrong.

use super::*;

#[track_caller]
fn refused(text: &str, expected: &str) {
    assert_eq!(parsed(text).map(|_| ()), Err(expected.to_owned()), "{text}");
}

/// The findings of a text, one a line: `LINE! MESSAGE` where `--check` fails.
fn findings(text: &str) -> String {
    let (_, findings) = parsed(text).expect("valid");
    findings.iter().fold(String::new(), |mut all, Finding { line, message, fatal_when_strict }| {
        _ = writeln!(all, "{line}{} {message}", if *fatal_when_strict { "!" } else { ":" });
        all
    })
}

#[test]
fn what_is_no_yaml_is_refused_with_its_line() {
    let table = [
        ("metrics:\n  counters: [", "2: unclosed bracket '['"),
        ("metrics:\n\tcounters: []", "2: tabs disallowed within this context (block indentation)"),
        ("metrics: {counters: []\nb: c", "2: while parsing a flow mapping, did not find expected ',' or '}'"),
        ("a: b: c", "1: mapping values are not allowed in this context"),
        ("metrics: \"", "1: unclosed quote"),
        ("metrics:\n  *unknown", "2: while parsing node, found unknown anchor"),
        ("metrics: &m\n  counters: *m", "2: an alias inside the value of its own anchor"),
        ("metrics: !!binary YQ==", "1: the tag !!binary is not supported: write the text itself"),
    ];
    for (text, expected) in table {
        refused(text, &format!("demo.yaml:{expected}"));
    }
}

#[test]
fn values_of_other_types_are_refused_with_their_path() {
    let table = [
        ("- a", "demo.yaml:1: expected a mapping, found a list"),
        ("a", "demo.yaml:1: expected a mapping, found `a`"),
        ("metrics: 5", "demo.yaml:1: metrics: expected a mapping, found `5`"),
        ("metrics:\n  counters: a", "demo.yaml:2: metrics.counters: expected a list, found `a`"),
        ("metrics:\n  gauges: {}", "demo.yaml:2: metrics.gauges: expected a list, found a mapping"),
        ("metrics:\n  counters:\n  - a", "demo.yaml:3: metrics.counters[0]: expected a mapping, found `a`"),
        ("kaddrs: [[a]]", "demo.yaml:1: kaddrs[0]: expected text, found a list"),
        ("[a]: b", "demo.yaml:1: expected text, found a list"),
        ("name: {}", "demo.yaml:1: name: expected text, found a mapping"),
        ("<<: a", "demo.yaml:1: a merge (<<) takes a mapping, or a list of mappings"),
        ("<<: [a]", "demo.yaml:1: expected a mapping, found `a`"),
    ];
    for (text, expected) in table {
        refused(text, expected);
    }
    let at = "demo.yaml:1: metrics.counters[0]";
    let table = [
        ("help: [a]", ".help: expected text, found a list"),
        ("perf_event_array: 1", ".perf_event_array: expected true or false, found `1`"),
        ("perf_event_array: 'yes'", ".perf_event_array: expected true or false, found the quoted text `yes`"),
        ("flush_interval: soon", ".flush_interval: expected a duration such as 10s or 1h30m, found `soon`"),
        ("flush_interval: -1s", ".flush_interval: expected a duration such as 10s or 1h30m, found `-1s`"),
        ("max_age: 1d", ".max_age: expected a duration such as 10s or 1h30m, found `1d`"),
        ("labels: {a: b}", ".labels: expected a list, found a mapping"),
        ("labels: [{decoders: [uint]}]", ".labels[0].decoders[0]: expected a mapping, found `uint`"),
        (
            "labels: [{decoders: [{static_map: [a]}]}]",
            ".labels[0].decoders[0].static_map: expected a mapping, found a list",
        ),
        (
            "labels: [{decoders: [{static_map: {a: [b]}}]}]",
            ".labels[0].decoders[0].static_map: expected text, found a list",
        ),
    ];
    for (key, expected) in table {
        refused(&with_counter(key), &format!("{at}{expected}"));
    }
    let at = "demo.yaml:1: metrics.histograms[0]";
    let table = [
        ("bucket_min: 0.x", ".bucket_min: expected a whole number of 64 bits, found `0.x`"),
        (
            "bucket_max: 9223372036854775808",
            ".bucket_max: expected a whole number of 64 bits, found `9223372036854775808`",
        ),
        ("bucket_multiplier: a", ".bucket_multiplier: expected a number, found `a`"),
        ("bucket_keys: 5", ".bucket_keys: expected a list, found `5`"),
        ("bucket_keys: [5, '6']", ".bucket_keys[1]: expected a number, found the quoted text `6`"),
    ];
    for (key, expected) in table {
        refused(&with_histogram(key), &format!("{at}{expected}"));
    }
}

#[test]
fn what_ends_the_process_at_start_is_an_error() {
    let nothing = "demo.yaml:1: it has neither metrics (counters, gauges, histograms) nor tracing (spans): \
                   add one of these lists";
    for text in ["", "# nothing", "~", "---\n...\n", "metrics:", "metrics: {counters: ~}", "kaddrs: []"] {
        refused(text, nothing);
    }
    let both = "perf_event_array and ring_buffer exclude each other: keep the one that the map is";
    let records = "each record adds 1: remove it";
    let letters = "a name of a label has letters, digits and `_`, no digit first, and no `__` first";
    let table = [
        ("metrics: {counters: [{help: A}]}", "a counter has no name: add `name`".to_owned()),
        ("metrics: {counters: [~]}", "a counter has no name: add `name`".to_owned()),
        ("metrics: {gauges: [{name: a}]}", "gauge `a` has no help text: add `help`".to_owned()),
        ("metrics: {histograms: [{name: a}]}", "histogram `a` has no help text: add `help`".to_owned()),
        (
            "metrics: {counters: [{name: a-b, help: A}]}",
            "counter `a-b`: not a valid name: a name of a metric has letters, digits, `_` and `:`".to_owned(),
        ),
        (
            "metrics: {counters: [{name: \"a\\n\\u00e9\", help: A}]}",
            "counter `a\\né`: not a valid name: a name of a metric has letters, digits, `_` and `:`"
                .to_owned(),
        ),
        (&with_counter("labels: [{name: a b}]"), format!("counter `a_total`: label `a b`: {letters}")),
        (&with_counter("labels: [{name: 1}]"), format!("counter `a_total`: label `1`: {letters}")),
        (&with_counter("labels: [{name: __a}]"), format!("counter `a_total`: label `__a`: {letters}")),
        (&with_counter("labels: [{}]"), format!("counter `a_total`: label ``: {letters}")),
        (
            &with_counter("labels: [{name: a}, {name: b}, {name: a}]"),
            "counter `a_total` has two labels `a`: rename one".to_owned(),
        ),
        (&with_counter("perf_event_array: true, ring_buffer: true"), format!("counter `a_total`: {both}")),
        (
            &with_counter("ring_buffer: true, member: b"),
            format!("counter `a_total`: `member` is for values of a map, and with ring_buffer {records}"),
        ),
        (
            &with_counter("perf_event_array: true, max_age: 1m"),
            format!(
                "counter `a_total`: `max_age` is for values of a map, and with perf_event_array {records}"
            ),
        ),
        (
            "metrics: {gauges: [{name: a, help: a, map: m, max_age: 1m}, {name: b, help: b, map: m, max_age: 2m}]}",
            "metric `b`: map `m` has a `max_age` of 60s at line 1 already, not 120s: state the same, or it once"
                .to_owned(),
        ),
        (
            "tracing: {spans: [{name: a}]}",
            "tracing.spans[0] has no ring buffer: add `ringbuf`, the name of its map".to_owned(),
        ),
        (
            "tracing: {spans: [{ringbuf: a, labels: [{size: 4}]}]}",
            "span of ring buffer `a`: a label has no name: add `name`".to_owned(),
        ),
        (
            "metrics: {counters: []}\nkaddrs: [a, ~]",
            "kaddrs: expected the name of a kernel symbol, found nothing".to_owned(),
        ),
        (
            "metrics: {counters: []}\ncgroup_id_map:\n  name: a\n  type: array",
            "cgroup_id_map.type: expected hash or cgrp_storage, found `array`".to_owned(),
        ),
        (
            "metrics: {counters: [{name: build_info, help: A}]}",
            "ebpf_exporter_build_info is a metric of the exporter itself: choose another name".to_owned(),
        ),
        (
            "metrics: {counters: [{name: a, help: A}, {name: a, help: B}]}",
            "ebpf_exporter_a has another help text in demo.yaml:1: make them the same, or rename one"
                .to_owned(),
        ),
        (
            "metrics: {counters: [{name: a, help: A}, {name: a, help: A}]}",
            "ebpf_exporter_a is read from map `a` in demo.yaml:1 already: remove one".to_owned(),
        ),
        (
            "metrics: {counters: [{name: a, help: A}], gauges: [{name: a, help: A}]}",
            "ebpf_exporter_a is a gauge, and a counter in demo.yaml:1: make them the same, or rename one"
                .to_owned(),
        ),
    ];
    for (text, expected) in table {
        let error = parsed(text).map(|_| ()).expect_err(text);
        let (place, message) = error.split_once(": ").expect("a place");
        assert!(place.starts_with("demo.yaml:"), "{error}");
        assert_eq!(message, expected, "{text}");
    }
}

#[test]
fn what_is_noticed_at_scrapes_only_leaves_the_family_out() {
    let label = |keys: &str| with_counter(&format!("labels: [{{name: b, {keys}}}]"));
    let uint = "decoders: [{name: uint}]";
    let histogram = with_histogram;
    let le = "labels: [{name: le, size: 8, decoders: [{name: uint}]}, {name: b, size: 8, decoders: [{name: uint}]}]";
    let table = [
        (label(uint), "counter `a_total`: label `b` has size 0: write how many bytes of the key it takes"),
        (label("size: 4"), "counter `a_total`: label `b` has no decoders, such as `uint`"),
        (
            label("size: 4, decoders: [{name: uint}, {name: regexp}]"),
            "counter `a_total`: the decoder `regexp` of label `b` has no list `regexps`",
        ),
        (
            label(&format!("size: 0xffffffff, padding: 1, {uint}")),
            "counter `a_total`: its labels take 4294967296 bytes, more than any key has",
        ),
        (
            label(&format!("size: 0xffffffffffffffff, padding: 0xffffffffffffffff, {uint}")),
            "counter `a_total`: its labels take 18446744073709551615 bytes, more than any key has",
        ),
        (
            histogram("bucket_max: 5"),
            "histogram `a`: bucket_type: expected exp2, exp2zero, linear or fixed, found nothing",
        ),
        (
            histogram("bucket_type: exp3, bucket_max: 5"),
            "histogram `a`: bucket_type: expected exp2, exp2zero, linear or fixed, found `exp3`",
        ),
        (histogram("bucket_type: exp2"), "histogram `a`: bucket_max (0) must be greater than bucket_min (0)"),
        (
            histogram("bucket_type: linear, bucket_min: 5, bucket_max: 4"),
            "histogram `a`: bucket_max (4) must be greater than bucket_min (5)",
        ),
        (
            histogram("bucket_type: fixed, bucket_max: 5"),
            "histogram `a`: bucket_keys: expected the bounds of the buckets, found none",
        ),
        (
            histogram("bucket_type: fixed, bucket_keys: [1, .nan]"),
            "histogram `a`: a bound of its buckets is not a finite number: see bucket_max and bucket_multiplier",
        ),
        (
            histogram("bucket_type: exp2, bucket_max: 1024"),
            "histogram `a`: a bound of its buckets is not a finite number: see bucket_max and bucket_multiplier",
        ),
        (
            histogram("bucket_type: exp2, bucket_max: 5, bucket_multiplier: .inf"),
            "histogram `a`: a bound of its buckets is not a finite number: see bucket_max and bucket_multiplier",
        ),
        (
            histogram("bucket_type: linear, bucket_min: -0x8000000000000000, bucket_max: 0x7fffffffffffffff"),
            "histogram `a`: it has 18446744073709551615 buckets, more than 4096: set bucket_max lower",
        ),
        (
            "metrics: {histograms: [{name: a, help: A, bucket_type: exp2, bucket_max: 5}]}".to_owned(),
            "histogram `a`: it has no label, the last of which is the number of the bucket",
        ),
        (
            format!(
                "metrics: {{histograms: [{{name: a, help: A, bucket_type: exp2, bucket_max: 5, {le}}}]}}"
            ),
            "histogram `a`: the label `le` is that of its buckets: rename it",
        ),
        (
            "tracing: {spans: [{ringbuf: a, labels: [{name: b, size: 4}]}]}".to_owned(),
            "span of ring buffer `a`: label `b` has no decoders, such as `uint`",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(findings(&text), format!("1! {expected}; it is left out\n"), "{text}");
        let (config, _) = parsed(&text).expect("valid");
        assert_eq!(config.counters.len() + config.histograms.len() + config.spans.len(), 0, "{text}");
    }
    let text = label("size: 4, decoders: [{name: unit}]");
    let found = findings(&text);
    let expected =
        "1! counter `a_total`: label `b` has an unknown decoder `unit`; known are cgroup, container, ";
    assert!(found.starts_with(expected), "{found}");
    assert_eq!(
        findings("metrics: {counters: []}\ncgroup_id_map:\n  type: hash"),
        "3! cgroup_id_map has no name and is ignored: add `name`, the name of its map\n"
    );
}

#[test]
fn unknown_keys_are_named() {
    let found = findings(
        "metrics:
  counters:
    - name: a_total
      help: A
      table: a
      labels:
        - {name: b, size: 4, reg: 5, decoders: [{name: uint, a: 5}]}
programs: [{a: {b: c}}]
",
    );
    assert_eq!(
        found,
        "5: metrics.counters[0]: unknown key `table` is ignored; known keys: name, help, labels, \
         perf_event_array, flush_interval, ring_buffer, map, member, max_age
7: metrics.counters[0].labels[0]: unknown key `reg` is ignored; known keys: name, size, padding, decoders
7: metrics.counters[0].labels[0].decoders[0]: unknown key `a` is ignored; known keys: name, static_map, \
         regexps, allow_unknown
8: unknown key `programs` is ignored; known keys: name, metrics, tracing, kaddrs, cgroup_id_map
"
    );
    let many = (0..1000).fold("metrics: {counters: []}\n".to_owned(), |mut text, at| {
        _ = writeln!(text, "key{at}: 5");
        text
    });
    let found = findings(&many);
    assert_eq!(found.lines().count(), 100);
    assert!(
        found.ends_with("101: unknown keys from here on are ignored as well, and not named\n"),
        "{found}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let refused = |name: &str, expected: &str| {
        let error = format!("{:#}", load(folder.path(), name).map(|_| ()).expect_err(name));
        let dir = folder.path().display().to_string();
        assert_eq!(error.replace(&dir, "DIR"), expected);
    };
    refused("no", "config \"no\": failed to read DIR/no.yaml: No such file or directory (os error 2)");
    std::fs::create_dir(folder.path().join("a.yaml")).expect("made");
    refused("a", "config \"a\": failed to read DIR/a.yaml: it is not a regular file");
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("b.yaml")).expect("linked");
    refused("b", "config \"b\": failed to read DIR/b.yaml: it is not a regular file");
    std::fs::write(folder.path().join("c.yaml"), "metrics:\n  - a\n").expect("written");
    refused("c", "DIR/c.yaml:2: metrics: expected a mapping, found a list");
}

#[test]
fn metrics_of_several_configs_agree() {
    let config = |name: &str, text: &str| parse(name, Path::new("x"), text.as_bytes()).expect("valid").0;
    let one = |name: &str, kind: &str, keys: &str| {
        config(name, &format!("metrics:\n  {kind}:\n    - {{name: a, help: A, {keys}}}"))
    };
    let b = "labels: [{name: b, size: 4, decoders: [{name: uint}]}]";
    let bc =
        "labels: [{name: c, size: 4, decoders: [{name: hex}]}, {name: b, size: 2, decoders: [{name: uint}]}]";
    let cb =
        "labels: [{name: b, size: 8, decoders: [{name: uint}]}, {name: c, size: 4, decoders: [{name: hex}]}]";
    let check = |configs: &[Config]| check_together(configs).map_err(|error| error.to_string());
    assert_eq!(check(&[]), Ok(()));
    assert_eq!(
        check(&[one("x", "counters", bc), one("y", "counters", cb), one("z", "counters", bc)]),
        Ok(())
    );
    let same = "make them the same, or rename one";
    let table = [
        (one("y", "counters", b), "has the label b, and the labels b, c in x.yaml:3"),
        (one("y", "counters", ""), "has no labels, and the labels b, c in x.yaml:3"),
        (one("y", "gauges", bc), "is a gauge, and a counter in x.yaml:3"),
        (one("y", "counters", &format!("{bc}, help: B")), "has another help text in x.yaml:3"),
    ];
    for (other, expected) in table {
        let expected = format!("y.yaml:3: ebpf_exporter_a {expected}: {same}");
        assert_eq!(check(&[one("x", "counters", bc), other]), Err(expected));
    }
    // The label of the bucket is none of the series.
    let exp2 = "bucket_type: exp2, bucket_max: 5";
    let linear = "bucket_type: linear, bucket_max: 9";
    let histograms =
        [one("x", "histograms", &format!("{exp2}, {bc}")), one("y", "histograms", &format!("{linear}, {b}"))];
    let expected = format!("y.yaml:3: ebpf_exporter_a has no labels, and the label c in x.yaml:3: {same}");
    assert_eq!(check(&histograms), Err(expected));
    let slot = b.replace("name: b", "name: slot");
    let histograms = [
        one("x", "histograms", &format!("{exp2}, {slot}")),
        one("y", "histograms", &format!("{linear}, {b}")),
    ];
    assert_eq!(check(&histograms), Ok(()));
    let named = |name: &str| config("y", &format!("metrics: {{counters: [{{name: {name}, help: A}}]}}"));
    let histogram = || one("x", "histograms", &format!("{exp2}, {slot}"));
    for suffix in ["_bucket", "_sum", "_count"] {
        let expected = format!(
            "y.yaml:1: ebpf_exporter_a{suffix} is one of the series of histogram ebpf_exporter_a in x.yaml:3: \
             rename one"
        );
        assert_eq!(check(&[named(&format!("a{suffix}")), histogram()]), Err(expected));
    }
    assert_eq!(check(&[named("a_total"), named("b_count"), histogram()]), Ok(()));
    let own = one("x", "counters", "");
    let own = Config {
        counters: vec![super::super::Metric { name: "mode".into(), ..own.counters[0].clone() }],
        ..own
    };
    let expected = "x.yaml:3: ebpf_exporter_mode is a metric of the exporter itself: choose another name";
    assert_eq!(check(&[own]), Err(expected.to_owned()));
}
