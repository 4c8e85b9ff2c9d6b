// SPDX-License-Identifier: MIT OR Apache-2.0
//! Userland's half of `bpf/hist.bpf.h`: slots to cumulative classic buckets.
//!
//! ```
//! use common::hist::{SLOTS, Unit, cumulative};
//! let mut slots = [0u64; SLOTS];
//! slots[8] = 3; // (2^(7/8), 2] us
//! slots[9] = 1; // (2, 2^(9/8)] us
//! let buckets = cumulative(&slots).unwrap();
//! assert_eq!(buckets[0], 0); // le="1"
//! assert_eq!(buckets[1], 3); // le="2": the bound itself is inside
//! assert_eq!(buckets[2], 4); // le="4"
//! assert_eq!(Unit::Microseconds.bounds().nth(1), Some(2.0));
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
}

impl Unit {
    /// Nanoseconds in one.
    pub const fn nanoseconds(self) -> u64 {
        match self {
            Self::Microseconds => 1_000,
            Self::Seconds => 1_000_000_000,
        }
    }

    /// Exponent of two of the smallest bound.
    pub const fn first_exponent(self) -> i32 {
        match self {
            Self::Microseconds => 0,
            Self::Seconds => -20,
        }
    }

    /// The classic bounds, upper and inclusive, without `+Inf`.
    pub fn bounds(self) -> impl Iterator<Item = f64> {
        (0..=OCTAVES as i32).map(move |octave| 2f64.powi(self.first_exponent() + octave))
    }
}

/// Cumulative counts of the classic buckets, the last being `+Inf`; `None` when
/// there are not [`SLOTS`] slots.
pub fn cumulative(slots: &[u64]) -> Option<[u64; BUCKETS]> {
    if slots.len() != SLOTS {
        return None;
    }
    let mut buckets = [0; BUCKETS];
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
        let seconds: Vec<f64> = Unit::Seconds.bounds().collect();
        assert_eq!(seconds.len(), BUCKETS - 1);
        assert_eq!(seconds[0], 1.0 / 1_048_576.0);
        assert_eq!(seconds[OCTAVES], 16.0);
        assert_eq!(Unit::Microseconds.bounds().last(), Some(16_777_216.0));
    }
}
