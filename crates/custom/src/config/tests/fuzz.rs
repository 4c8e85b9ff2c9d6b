// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configs that are generated.

use std::slice;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};

use super::super::check::{DECODERS, of_series};
use super::super::scalar::{Value, duration, resolve};
use super::super::yaml::Form;
use super::*;
use crate::fuzz::{self, Bytes};

/// A config in which each key occurs, to be changed here and there.
const SEED: &str = "a: &m {size: 4, decoders: [{name: uint}]}
metrics:
  counters:
    - name: a_total
      help: Some a
      flush_interval: 1h30m
      perf_event_array: yes
      labels:
        - {name: kind, padding: 3, <<: *m}
        - name: comm
          size: 0x10
          decoders:
            - {name: static_map, static_map: {1: \"one\", 0x2: 'two'}, allow_unknown: true}
            - {name: regexp, regexps: [^a, .*]}
  gauges:
    - help: |-
        Some b
      name: b
      map: c
      member: d
      max_age: 1.5s
  histograms:
    - {name: e, help: E, bucket_type: exp2, bucket_min: -3, bucket_max: 27, bucket_multiplier: 1e-6,
       labels: [{name: bucket, <<: *m}]}
    - {name: f, help: F, bucket_type: fixed, bucket_keys: [1, 2.5, 09], labels: [{name: g, <<: [*m]}]}
tracing: {spans: [{ringbuf: h, name: i, service: j, labels: [{name: k.l, <<: *m}]}]}
kaddrs: [jiffies]
cgroup_id_map: {name: n, type: hash, regexps: [o]}
";

/// Pieces of configs.
const PIECES: &[&str] = &[
    "\n",
    "\n  ",
    "\n    ",
    "\n    - ",
    "\n      ",
    "- ",
    "? ",
    ": ",
    ":",
    ",",
    "[",
    "]",
    "{",
    "}",
    "'",
    "\"",
    "|\n",
    ">-\n",
    "#",
    "&m ",
    "*m",
    "<<: *m",
    "<<: ",
    "!!str ",
    "!!int ",
    "!a ",
    "%YAML 1.1\n",
    "---\n",
    "...\n",
    "~",
    "0",
    "-1",
    "4",
    "09",
    "0x",
    "1e3",
    ".inf",
    ".nan",
    "1e999",
    "18446744073709551615",
    "-9223372036854775808",
    "yes",
    "1h",
    "uint",
    "static_map",
    "exp2",
    "exp2zero",
    "linear",
    "fixed",
    "le",
    "cpu",
    "metrics: ",
    "counters: ",
    "gauges: ",
    "histograms: ",
    "tracing: ",
    "spans: ",
    "kaddrs: ",
    "cgroup_id_map: ",
    "name: ",
    "help: ",
    "labels: ",
    "size: ",
    "padding: ",
    "decoders: ",
    "static_map: ",
    "regexps: ",
    "allow_unknown: ",
    "bucket_type: ",
    "bucket_min: ",
    "bucket_max: ",
    "bucket_multiplier: ",
    "bucket_keys: ",
    "map: ",
    "member: ",
    "max_age: ",
    "ring_buffer: ",
    "perf_event_array: ",
    "flush_interval: ",
    "ringbuf: ",
    "\\",
    "\u{e9}",
    "\u{feff}",
    "\t",
    "\r",
];

/// A piece, or any bytes.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![8 => select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()), 1 => vec(any::<u8>(), 0..4)]
}

/// Bytes, pieces in a row, or the seed with pieces in some places instead of what is there.
fn texts() -> impl Strategy<Value = Bytes> {
    let change = (any::<Index>(), 0_usize..12, piece());
    let changed = (Just(SEED), vec(change, 0..8)).prop_map(|(seed, changes)| {
        let mut text = seed.as_bytes().to_vec();
        for (at, length, piece) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + length).min(text.len());
            text.splice(at..end, piece);
        }
        text
    });
    let pieces = vec(piece(), 0..60).prop_map(|pieces| pieces.concat());
    prop_oneof![1 => vec(any::<u8>(), 0..200), 4 => pieces, 8 => changed].prop_map(Bytes)
}

/// What the rest of the exporter takes for granted.
fn check(text: &[u8]) {
    let lines = text.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64 + 1;
    match parse("demo", Path::new("demo.yaml"), text) {
        Err(error) => {
            let error = format!("{error:#}");
            let line = error.strip_prefix("demo.yaml:").and_then(|rest| rest.split_once(": "));
            let (line, message) = line.unwrap_or_else(|| panic!("no line: {error}"));
            assert!((1..=lines).contains(&line.parse::<u64>().expect("a line")), "{error}");
            assert!(!message.is_empty() && !message.contains(char::is_control), "{error:?}");
        }
        Ok((config, findings)) => {
            for finding in findings {
                assert!((1..=lines).contains(&finding.line), "{finding:?}");
            }
            check_together(slice::from_ref(&config)).expect("checked before");
            check_config(&config);
        }
    }
}

fn check_config(config: &Config) {
    let histograms = config.histograms.iter().map(|histogram| &histogram.metric);
    let labels = config.counters.iter().chain(&config.gauges).chain(histograms).map(|metric| &metric.labels);
    for label in labels.chain(config.spans.iter().map(|span| &span.labels)).flatten() {
        assert!(label.size > 0 && !label.decoders.is_empty(), "{label:?}");
        assert!(label.size + label.padding <= u64::from(u32::MAX), "{label:?}");
        assert!(label.decoders.iter().all(|one| DECODERS.contains(&one.name.as_str())), "{label:?}");
    }
    for histogram in &config.histograms {
        let labels = &histogram.metric.labels;
        assert_eq!(of_series(labels).count() + 1, labels.len());
        assert!(of_series(labels).all(|label| !label.name.is_empty()), "{labels:?}");
        let bound = match &histogram.buckets {
            Buckets::Exp2 { min, max } | Buckets::Exp2Zero { min, max } if min < max => (*max as f64).exp2(),
            Buckets::Linear { min, max } if min < max => *max as f64,
            Buckets::Fixed(keys) if !keys.is_empty() => keys.iter().copied().fold(0.0, f64::max),
            _ => panic!("no buckets: {histogram:?}"),
        };
        assert!((bound * histogram.multiplier).is_finite(), "{histogram:?}");
    }
}

#[test]
fn fuzz_configs() {
    check(SEED.as_bytes());
    parsed(SEED).expect("valid");
    fuzz::run(&texts(), |Bytes(text)| check(&text));
}

#[test]
fn fuzz_scalars() {
    let texts = prop_oneof![
        "[-+0-9a-fxob._eE]{0,30}",
        "([0-9]{0,25}(\\.[0-9]{0,25})?(ns|us|ms|s|m|h|\\PC)){0,3}",
        "\\PC{0,9}"
    ];
    fuzz::run(&texts, |text| {
        if let Value::Int(number) = resolve(&text, Form::Plain) {
            assert!(i64::try_from(number).is_ok() || u64::try_from(number).is_ok(), "{number}");
        }
        assert!(!matches!(resolve(&text, Form::Float), Value::Int(_)), "{text}");
        assert_eq!(resolve(&text, Form::Text), Value::Text);
        assert!(duration(&text).is_none_or(|nanoseconds| i64::try_from(nanoseconds).is_ok()), "{text}");
    });
}
