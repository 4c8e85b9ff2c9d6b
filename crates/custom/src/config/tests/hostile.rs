// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are no configs, by accident or on purpose: each ends soon, with an error and without much
//! memory.

use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use super::super::BYTES;
use super::*;

/// Most memory of a process that runs the tests of this file, one at a time.
const MEMORY: u64 = 200 << 20;

/// Variable that says that the process runs nothing else.
const ALONE: &str = "HOSTILE_ALONE";

#[test]
fn none_takes_much_memory() {
    if env::var_os(ALONE).is_some() {
        return;
    }
    let (_, module) = module_path!().split_once("::").expect("a module of this crate");
    let mut command = Command::new(env::current_exe().expect("a path"));
    let output = command.args([module, "--test-threads=1"]).env(ALONE, "1").output().expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// What a text ends with. The slowest takes a third of a second.
#[track_caller]
fn outcome(text: &[u8]) -> Result<(), String> {
    let start = Instant::now();
    let parsed = parse("demo", Path::new("demo.yaml"), text);
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    assert!(env::var_os(ALONE).is_none() || peak() < MEMORY, "{} bytes", peak());
    let outcome = parsed.map(|_| ()).map_err(|error| format!("{error:#}"));
    assert!(outcome.as_ref().err().is_none_or(|error| error.len() < 400), "{outcome:?}");
    outcome
}

/// Most memory that this process had so far.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("read");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[track_caller]
fn refused(text: impl AsRef<[u8]>, expected: &str) {
    assert_eq!(outcome(text.as_ref()), Err(expected.to_owned()));
}

/// A text of the largest size that is parsed: `head`, then `part` again and again.
fn full(head: &str, part: &str) -> String {
    let size = usize::try_from(BYTES).expect("it fits");
    let mut text = head.to_owned();
    text.push_str(&part.repeat((size - head.len()) / part.len()));
    text
}

#[test]
fn bytes_that_are_no_text() {
    refused(b"metrics:\n  counters: []\n# \xff\n", "demo.yaml:3: byte 0xff is not UTF-8");
    refused(b"\xff\xfem\0", "demo.yaml:1: byte 0xff is not UTF-8");
    refused(b"\x7fELF\x02\x01\x01\0\x80", "demo.yaml:1: byte 0x80 is not UTF-8");
    for text in ["\x7fELF\x02\x01\x01\0", "\0\0\0\0", "metrics: \x01", "\u{feff}\u{feff}"] {
        let error = outcome(text.as_bytes()).expect_err(text);
        assert!(error.starts_with("demo.yaml:1: "), "{error}");
    }
}

#[test]
fn large_files() {
    refused(vec![b'a'; 10 << 20], "demo.yaml: larger than 4 MiB: this is not a config");
    let blocks = ["- a\n", "a: b\n", "? a\n", "- &a\n", "- |\n a\n"].map(|part| full("", part));
    let flows = ["a, ", "[],", "{a},", "&a b, ", "a: b, ", "'', "].map(|part| full("[", part));
    for text in blocks.iter().chain(&flows) {
        let error = outcome(text.as_bytes()).expect_err("no config");
        assert!(error.ends_with(": more than 200000 values in one file"), "{}: {error}", &text[..9]);
    }
    let parts = [
        "a", " ", "\n", "\t", "#", "'", "\"", "\\", "-", "- ", "? ", ": ", "[", "{", "!a ", "&a ", "*a ",
        "%a\n", "---\n", "...\n", "| ", "\u{e9}", "a\n", "a \n\n", "# a\n", "\r",
    ];
    for head in ["", "\"", "["] {
        for part in parts {
            outcome(full(head, part).as_bytes()).expect_err("no config");
        }
    }
}

#[test]
fn deep_nesting() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("- ", ""), ("? ", "")] {
        let text = |depth| format!("{}a{}", open.repeat(depth), close.repeat(depth));
        for depth in [256, 10_000, 500_000] {
            refused(text(depth), "demo.yaml:1: recursion limit exceeded");
        }
        outcome(text(200).as_bytes()).expect_err("no config");
    }
    let indented = (0..300).fold(String::new(), |mut text, depth| {
        _ = writeln!(text, "{:depth$}a:", "");
        text
    });
    refused(indented, "demo.yaml:256: recursion limit exceeded");
}

#[test]
fn anchor_bombs() {
    // Each list has the one before ten times; who reads all of the last reads 10^9 items.
    let bomb = (1..10).fold("a0: &a0 [lol]\n".to_owned(), |mut text, level| {
        _ = writeln!(text, "a{level}: &a{level} [{}]", vec![format!("*a{}", level - 1); 10].join(", "));
        text
    });
    // Nobody reads the values of unknown keys.
    outcome(format!("metrics: {{counters: []}}\n{bomb}").as_bytes()).expect("valid");
    refused(format!("{bomb}kaddrs: *a9\n"), "demo.yaml:9: kaddrs[0]: expected text, found a list");

    // Counters with labels with decoders with words, a thousand of each.
    let times = |alias: &str| vec![alias; 1000].join(", ");
    let words = (0..1000).map(|word| format!("{word}: w")).collect::<Vec<_>>().join(", ");
    let text = format!(
        "a: &decoder {{name: static_map, static_map: {{{words}}}}}
b: &label {{name: l, size: 4, decoders: [{}]}}
c: &counter {{name: c_total, help: C, labels: [{}]}}
metrics: {{counters: [{}]}}",
        times("*decoder"),
        times("*label"),
        times("*counter")
    );
    let error = outcome(text.as_bytes()).expect_err("too much");
    assert!(error.ends_with(": aliases repeat too much: write fewer values"), "{error}");

    // One long text, many times.
    let text = format!("name: &a {}\nkaddrs: [{}]\nmetrics: {{}}", "a".repeat(1 << 20), times("*a"));
    refused(text, "demo.yaml:1: kaddrs[14]: aliases repeat too much: write fewer values");

    // A mapping that is merged into the next one, and so on.
    let chain = (1..50_000).fold("a0: &a0 {b: c}\n".to_owned(), |mut text, level| {
        _ = writeln!(text, "a{level}: &a{level} {{<<: *a{}}}", level - 1);
        text
    });
    outcome(format!("metrics: {{counters: []}}\n{chain}").as_bytes()).expect("valid");
    let error = outcome(format!("{chain}<<: *a49999\n").as_bytes()).expect_err("too deep");
    assert!(error.ends_with(": merges (<<) are nested too deeply"), "{error}");

    // A mapping that merges the one before ten times, and so on.
    let bomb = (1..10).fold("a0: &a0 {b: c}\n".to_owned(), |mut text, level| {
        let alias = format!("*a{}", level - 1);
        _ = writeln!(text, "a{level}: &a{level} {{<<: [{}]}}", vec![alias; 10].join(", "));
        text
    });
    let error = outcome(format!("{bomb}<<: *a9\n").as_bytes()).expect_err("too much");
    assert!(error.ends_with(": aliases repeat too much: write fewer values"), "{error}");
}
