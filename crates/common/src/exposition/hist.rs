// SPDX-License-Identifier: MIT OR Apache-2.0
//! The userland part of `bpf/hist.bpf.h`: converts slots to cumulative classic buckets.
//!
//! ```
//! use common::exposition::hist::{SLOTS, Unit, cumulative};
//! let mut slots = [0u64; SLOTS];
//! slots[8] = 3; // (2^(7/8), 2] us
//! slots[9] = 1; // (2, 2^(9/8)] us
//! let buckets = cumulative(&slots).unwrap();
//! assert_eq!(buckets[0], 0); // le="1"
//! assert_eq!(buckets[1], 3); // le="2": the bound itself is inside
//! assert_eq!(buckets[2], 4); // le="4"
//! assert_eq!(Unit::Microseconds.bound(1), 2.0);
//! ```

/// Octaves between the smallest and the greatest bound.
pub const OCTAVES: usize = 24;
/// Sub-buckets of an octave: those of a native histogram of schema 3.
pub const PER_OCTAVE: usize = 8;
/// Slots of a `struct hist`: one for each bound, and one above the last.
pub const SLOTS: usize = OCTAVES * PER_OCTAVE + 2;
/// Classic buckets: a bound for each power of two, and `+Inf`.
pub const BUCKETS: usize = OCTAVES + 2;

/// The unit a histogram is shown in; slots were chosen by the matching
/// `hist_observe_*` in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bounds 1 us to 2^24 us.
    Microseconds,
    /// Bounds 2^-20 s to 2^4 s.
    Seconds,
    /// Bounds 2^-10 s to 2^14 s, for long durations.
    LongSeconds,
    /// Small integers: bounds 0, 1, 2, ...
    Whole,
}

impl Unit {
    /// Divisor of a sum: nanoseconds per unit, for times.
    pub const fn scale(self) -> u64 {
        match self {
            Self::Microseconds => 1_000,
            Self::Seconds | Self::LongSeconds => 1_000_000_000,
            Self::Whole => 1,
        }
    }

    /// The exponent of the smallest bound, which is a power of two; `None` if bounds are not powers of two.
    pub const fn first_octave(self) -> Option<i32> {
        match self {
            Self::Microseconds => Some(0),
            Self::Seconds => Some(-20),
            Self::LongSeconds => Some(-10),
            Self::Whole => None,
        }
    }

    /// The upper bound, inclusive, of classic bucket `at`.
    pub fn bound(self, at: usize) -> f64 {
        self.first_octave().map_or(at as f64, |first| 2f64.powi(at as i32 + first))
    }
}

/// Cumulative counts of the classic buckets, the last being `+Inf`; `None` when
/// there are not [`SLOTS`] slots.
pub fn cumulative(slots: &[u64]) -> Option<Vec<u64>> {
    if slots.len() != SLOTS {
        return None;
    }
    let mut buckets = vec![0; BUCKETS];
    let mut total = 0u64;
    for (slot, count) in slots.iter().enumerate() {
        total = total.wrapping_add(*count);
        if slot % PER_OCTAVE == 0 {
            buckets[slot / PER_OCTAVE] = total;
        }
    }
    buckets[BUCKETS - 1] = total;
    Some(buckets)
}

/// Cumulative counts and the sum if slot N counts the value N. The last slot, `+Inf`, also counts
/// all larger values.
pub fn steps(slots: &[u64]) -> (Vec<u64>, u64) {
    let mut total = 0u64;
    let cumulative = |count: &u64| {
        total = total.wrapping_add(*count);
        total
    };
    (slots.iter().map(cumulative).collect(), slots.iter().zip(0..).map(|(count, value)| count * value).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_in_the_bucket_of_its_own_octave() {
        for slot in 0..SLOTS {
            let mut slots = [0; SLOTS];
            slots[slot] = 1;
            let buckets = cumulative(&slots).expect("right length");
            let first = buckets.iter().position(|n| *n == 1).expect("counted");
            assert_eq!(first, slot.div_ceil(PER_OCTAVE).min(BUCKETS - 1), "slot {slot}");
            assert!(buckets[first..].iter().all(|n| *n == 1), "cumulative from slot {slot} on");
        }
    }

    #[test]
    fn wrong_length_is_refused() {
        assert_eq!(cumulative(&[0; SLOTS - 1]), None);
        assert_eq!(cumulative(&[]), None);
    }

    #[test]
    fn bounds_are_powers_of_two_of_the_unit() {
        assert_eq!((Unit::Seconds.bound(0), Unit::Seconds.bound(OCTAVES)), (1.0 / 1_048_576.0, 16.0));
        assert_eq!(Unit::Microseconds.bound(OCTAVES), 16_777_216.0);
        assert_eq!((Unit::LongSeconds.bound(0), Unit::LongSeconds.bound(OCTAVES)), (1.0 / 1024.0, 16384.0));
    }

    #[test]
    fn steps_count_their_own_number() {
        assert_eq!(steps(&[5, 0, 2, 1]), (vec![5, 5, 7, 8], 7));
    }
}
