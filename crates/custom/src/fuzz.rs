// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests with generated inputs. `make fuzz` runs them for a minute each, at the same time; `cargo test`
//! runs a few hundred inputs of each.
//!
//! A target is a test whose name begins with `fuzz_`, and that calls [`run`] with a strategy and a check
//! that panics when something is wrong. What it finds is made as small as possible and printed; it then
//! becomes a test of its own.

use std::env;
use std::fmt::{self, Debug, Formatter};
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};

/// Seconds that each target runs, set by `make fuzz`.
const SECONDS: &str = "EBPF_FUZZ_SECONDS";

/// Inputs that are generated before the clock is looked at.
const INPUTS: u32 = 256;

/// Checks generated inputs for as long as the environment says, at least [`INPUTS`].
///
/// # Panics
/// When the check does, with the smallest input that makes it panic.
#[track_caller]
pub fn run<S: Strategy>(inputs: &S, check: impl Fn(S::Value)) {
    let seconds = env::var(SECONDS).ok().map(|seconds| seconds.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let mut count: u64 = 0;
    loop {
        let config = Config { cases: INPUTS, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(inputs, |input| {
            check(input);
            Ok(())
        });
        if let Err(error) = result {
            panic!("after {count} inputs: {error}");
        }
        count += u64::from(INPUTS);
        if Instant::now() >= until {
            // Shown by `make fuzz`.
            println!("{count} inputs");
            return;
        }
    }
}

/// Bytes that are printed as text, with escapes.
#[derive(Clone)]
pub struct Bytes(pub Vec<u8>);

impl Debug for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

#[test]
#[should_panic(expected = "minimal failing input: b\"aaa\"")]
fn the_smallest_input_is_printed() {
    let inputs = proptest::collection::vec(b'a'..=b'z', 0..100).prop_map(Bytes);
    run(&inputs, |Bytes(bytes)| assert!(bytes.len() < 3));
}
