// SPDX-License-Identifier: MIT OR Apache-2.0
//! `bpf/hist.bpf.h`, compiled for this machine, against exact arithmetic: at every
//! boundary, beside it, at random values, at 0 and at `u64::MAX`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use common::exposition::hist::{OCTAVES, PER_OCTAVE, SLOTS, Unit};
use num_bigint::BigUint;

mod harness;

const HARNESS: &str = r#"
#include <stdio.h>
#include <stdbool.h>
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#include "hist.bpf.h"
int main(void)
{
	u64 v;
	while (scanf("%llu", &v) == 1) {
		struct hist h = {};
		hist_observe_us(&h, v);
		printf("%u %u %u %d\n", (u32)hist_slot_us(v), (u32)hist_slot_s(v),
		       (u32)hist_slot_long_s(v), h.slots[hist_slot_us(v)] == 1 && h.sum == v);
	}
	printf("slots %d\n", HIST_SLOTS);
	return 0;
}
"#;

/// Whether `ns` is within bound `k`, which is `2^(k/8)` times the smallest bound. Compares eighth
/// powers, because these are whole numbers.
fn within(ns: u64, k: usize, unit: Unit) -> bool {
    let down = -unit.bound(0).log2() as usize;
    let value = BigUint::from(ns).pow(8) << (8 * down);
    value <= BigUint::from(unit.scale()).pow(8) << k
}

/// The greatest whole number of nanoseconds within bound `k`.
fn greatest(k: usize, unit: Unit) -> u64 {
    let (mut low, mut high) = (0u64, 1 << 50);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if within(middle, k, unit) { low = middle } else { high = middle - 1 }
    }
    low
}

/// The slot by definition: that of the first bound that is not below the value.
struct Definition(Vec<u64>);

impl Definition {
    fn of(unit: Unit) -> Self {
        Self((0..SLOTS - 1).map(|k| greatest(k, unit)).collect())
    }

    fn slot(&self, ns: u64) -> usize {
        self.0.iter().position(|bound| ns <= *bound).unwrap_or(SLOTS - 1)
    }
}

fn values() -> Vec<u64> {
    let mut values = vec![0, 1, 2, u64::MAX, u64::MAX - 1, 1 << 62, (1 << 63) - 1, 1 << 63];
    for unit in [Unit::Microseconds, Unit::Seconds, Unit::LongSeconds] {
        for bound in Definition::of(unit).0 {
            values.extend([bound - 1, bound, bound + 1]);
        }
    }
    // A fixed sequence (Knuth's MMIX multiplier), spread over all magnitudes.
    let mut state = 42u64;
    for n in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values.push(state >> (n % 64));
    }
    values
}

fn compiled(values: &[u64]) -> Vec<String> {
    let input = values.iter().map(|v| format!("{v}\n")).collect::<String>();
    let output = harness::run(HARNESS, &[], input.into_bytes());
    String::from_utf8(output).expect("text").lines().map(ToOwned::to_owned).collect()
}

#[test]
fn every_value_lands_in_the_slot_of_the_definition() {
    let values = values();
    let lines = compiled(&values);
    assert_eq!(lines.len(), values.len() + 1);
    assert_eq!(lines[values.len()], format!("slots {SLOTS}"), "the header and hist.rs agree");
    let slots = [Unit::Microseconds, Unit::Seconds, Unit::LongSeconds].map(Definition::of);
    for (value, line) in values.iter().zip(&lines) {
        let [us, s, long_s] = slots.each_ref().map(|unit| unit.slot(*value));
        let expected = format!("{us} {s} {long_s} 1");
        assert_eq!(*line, expected, "{value} ns");
    }
}

#[test]
fn a_value_equal_to_a_power_of_two_is_in_that_bucket() {
    let microseconds = Definition::of(Unit::Microseconds);
    for octave in 0..=OCTAVES {
        let ns = 1000u64 << octave;
        assert_eq!(microseconds.slot(ns), octave * PER_OCTAVE);
        assert_eq!(microseconds.slot(ns + 1), octave * PER_OCTAVE + 1);
    }
}
