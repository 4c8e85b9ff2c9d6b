// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random chains of decoders over random bytes: nothing may panic. [`Chains::run`] is the entry for
//! a fuzzer; the test below drives it with numbers that are the same each time.
//!
//! `FUZZ_SECONDS=60 cargo test -p ebpf-custom-exporter steps::fuzz` runs for so long, with numbers
//! that differ each time. If it fails, it shows the bytes: make them a test.

use std::collections::BTreeMap;
use std::env;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::cache::Cache;
use super::labels::LabelSet;
use super::tests::Made;
use super::{DECODERS, Stop};
use crate::config::{Decoder, Label};

/// Pieces of patterns.
const PIECES: [&str; 40] = [
    "a",
    "b",
    ".",
    "*",
    "+",
    "?",
    "|",
    "(",
    ")",
    "(?:",
    "(?P<n>",
    "(?i)",
    "(?s-m:",
    "[",
    "]",
    "[^",
    "-",
    "^",
    "$",
    "{",
    "}",
    "{2}",
    "{1,3}",
    ",",
    "\\",
    "\\d",
    "\\W",
    "\\b",
    "\\Q",
    "\\E",
    "\\x{",
    "\\pL",
    "\\p{Greek}",
    "[:alpha:]",
    "&&",
    "~~",
    "1",
    "\u{e9}",
    "/",
    "\\.",
];

/// What makes choices of a fuzzer's bytes.
struct Choices<'b>(&'b [u8]);

impl<'b> Choices<'b> {
    fn byte(&mut self) -> usize {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        usize::from(*first)
    }

    fn one_in(&mut self, choices: usize) -> bool {
        self.byte().is_multiple_of(choices)
    }

    fn take(&mut self, bytes: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn text(&mut self) -> String {
        let length = self.byte() % 12;
        String::from_utf8_lossy(self.take(length)).into_owned()
    }

    fn pattern(&mut self) -> String {
        if self.one_in(4) {
            return self.text();
        }
        (0..self.byte() % 10).map(|_| PIECES[self.byte() % PIECES.len()]).collect()
    }

    fn decoder(&mut self) -> Decoder {
        let list = |choices: &mut Self| (0..choices.byte() % 4).map(|_| choices.pattern()).collect();
        let words = |choices: &mut Self| {
            (0..choices.byte() % 4).map(|_| (choices.text(), choices.text())).collect::<BTreeMap<_, _>>()
        };
        let name = DECODERS[self.byte() % DECODERS.len()];
        Decoder {
            name: name.to_owned(),
            static_map: (name == "static_map" && !self.one_in(8)).then(|| words(self)),
            regexps: (name == "regexp" && !self.one_in(8)).then(|| list(self)),
            allow_unknown: self.one_in(2),
            line: 1,
        }
    }

    fn label(&mut self) -> Label {
        let size = match self.byte() % 8 {
            0 => self.byte() as u64,
            1 => 16,
            n => [4, 8][n % 2],
        };
        let padding = if self.one_in(8) { self.byte() as u64 } else { 0 };
        let decoders = (0..=self.byte() % 4).map(|_| self.decoder()).collect();
        Label { name: "l".to_owned(), size, padding, decoders, line: 1 }
    }
}

/// What chains look names up in.
pub struct Chains(Made);

impl Chains {
    /// Makes the files. `name` is the test's own.
    pub fn new(name: &str) -> Self {
        Self(Made::new(name))
    }

    /// Makes labels, chains of decoders and a key of `bytes`, and decodes it. Returns whether it had
    /// label values.
    pub fn run(&self, bytes: &[u8]) -> bool {
        let mut choices = Choices(bytes);
        let labels: Vec<Label> = (0..choices.byte() % 4).map(|_| choices.label()).collect();
        let Ok(set) = LabelSet::new(&labels, &self.0.world) else { return false };
        let mut key = choices.take(set.size()).to_owned();
        if !choices.one_in(8) {
            key.resize(if labels.is_empty() { 4 } else { set.size() }, 0);
        }
        let mut cache = Cache::default();
        cache.begin();
        let values = cache.labels(&set, &key);
        cache.end();
        if set.names().len() > 0 {
            assert_eq!(set.decode_prefix(&key).is_ok(), values.is_ok(), "{labels:?} {key:?}");
        }
        match values {
            Ok(values) => assert_eq!(values.len(), labels.len()),
            Err(Stop::Wrong(why)) => {
                assert!(!why.is_empty() && why.len() < 1000);
                return false;
            }
            Err(Stop::Skip) => return false,
        }
        true
    }
}

/// Numbers that look random: xorshift64*.
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Shows the bytes with which a test fails.
struct Shown<'b>(&'b [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("Chains::run({:?})", self.0);
        }
    }
}

#[test]
fn random_chains_over_random_bytes_do_not_panic() {
    const ROUNDS: usize = 20_000;
    let seconds = env::var("FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut state = end.map_or(1, |_| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1);
    let (chains, mut rounds, mut decoded) = (Chains::new("fuzz"), 0, 0);
    while rounds < ROUNDS || end.is_some_and(|end| Instant::now() < end) {
        let length = random(&mut state) % 200;
        let bytes: Vec<u8> = (0..length).map(|_| (random(&mut state) >> 56) as u8).collect();
        let _shown = Shown(&bytes);
        decoded += usize::from(chains.run(&bytes));
        rounds += 1;
    }
    assert!(decoded > rounds / 10, "{decoded} of {rounds} had values");
}
