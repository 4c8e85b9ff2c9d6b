// SPDX-License-Identifier: MIT OR Apache-2.0
//! Native histograms. The slots of a `struct hist` are buckets of schema 3; those of a coarser schema are
//! sums of slots, as every bound of it is one of schema 3.
//!
//! Bucket I of schema S counts `2^((I-1)/2^S) < v <= 2^(I/2^S)`. All bounds between the smallest and the
//! greatest of a `struct hist` are exact. At its ends:
//!
//! - Slot 0, which has all values up to the smallest bound, is the zero bucket, and that bound its threshold.
//! - The last slot has all values above the greatest bound. It is the bucket next to that bound, because
//!   no bucket of a schema reaches from there to infinity. Its upper bound means nothing. A quantile that
//!   lies there is a little above the greatest bound. Classic buckets give the greatest bound itself.

use crate::exposition::hist::{PER_OCTAVE, SLOTS, Unit};
use crate::exposition::message::BucketSpan;

/// Gaps up to this number of empty buckets are listed: they take fewer bytes than another span.
const SMALL_GAP: i32 = 2;

/// The resolution of a native histogram: the number by which Prometheus knows it, from 0 to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Schema(u8);

impl Schema {
    /// That of the slots.
    pub const FINEST: Self = Self(PER_OCTAVE.ilog2() as u8);

    /// The schema of that number, if slots add up to its buckets.
    ///
    /// ```
    /// use common::exposition::native::Schema;
    /// assert_eq!(Schema::new(3), Some(Schema::FINEST));
    /// assert_eq!(Schema::new(4), None);
    /// ```
    pub fn new(number: u8) -> Option<Self> {
        (number <= Self::FINEST.0).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Buckets between two powers of two.
    fn per_octave(self) -> usize {
        1 << self.0
    }
}

/// The buckets of a native histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Native {
    /// Resolution.
    pub schema: Schema,
    /// Upper bound of the zero bucket, inclusive.
    pub zero_threshold: f64,
    /// Index of that bound.
    first: i32,
    /// The zero bucket, and then all others in the order of their bounds.
    counts: Vec<u64>,
}

impl Native {
    /// The native histogram of the slots of a `struct hist`. `None` if their bounds are not those of a
    /// schema, or there are not [`SLOTS`] of them.
    pub fn new(slots: &[u64], unit: Unit, schema: Schema) -> Option<Self> {
        let octave = unit.first_octave()?;
        let (zero, others) = slots.split_first().filter(|_| slots.len() == SLOTS)?;
        let groups = others.chunks(PER_OCTAVE / schema.per_octave());
        let sum = |group: &[u64]| group.iter().fold(0, |sum: u64, count| sum.wrapping_add(*count));
        Some(Self {
            schema,
            zero_threshold: unit.bound(0),
            first: octave * schema.per_octave() as i32,
            counts: std::iter::once(*zero).chain(groups.map(sum)).collect(),
        })
    }

    /// Number of values in the zero bucket.
    pub fn zero_count(&self) -> u64 {
        self.counts.first().copied().unwrap_or_default()
    }

    /// Number of values in all buckets.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// Changes each count by that of the same bucket in `other`. `None` if the buckets are others.
    pub fn combine(&self, other: &Self, change: impl Fn(u64, u64) -> u64) -> Option<Self> {
        let alike = (self.schema, self.first) == (other.schema, other.first);
        let counts = self.counts.iter().zip(&other.counts).map(|(a, b)| change(*a, *b));
        alike.then(|| Self { counts: counts.collect(), ..self.clone() })
    }

    /// The buckets other than the zero bucket, as spans and as what each count is more than the one before.
    pub fn spans(&self) -> (Vec<BucketSpan>, Vec<i64>) {
        let (mut spans, mut deltas): (Vec<(i32, u32)>, Vec<i64>) = (Vec::new(), Vec::new());
        let (mut next, mut before) = (0, 0u64);
        for (index, count) in (self.first..).zip(&self.counts).skip(1).filter(|(_, count)| **count != 0) {
            let gap = index - next;
            match spans.last_mut() {
                Some((_, length)) if gap <= SMALL_GAP => {
                    *length += gap.unsigned_abs() + 1;
                    for _ in 0..gap {
                        deltas.push(0u64.wrapping_sub(before).cast_signed());
                        before = 0;
                    }
                }
                _ => spans.push((gap, 1)),
            }
            deltas.push(count.wrapping_sub(before).cast_signed());
            (next, before) = (index + 1, *count);
        }
        let span = |(offset, length)| BucketSpan { offset: Some(offset), length: Some(length) };
        (spans.into_iter().map(span).collect(), deltas)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::exposition::hist::{OCTAVES, cumulative};

    fn schemas() -> impl Iterator<Item = Schema> {
        (0..=3).map(|number| Schema::new(number).expect("0 to 3"))
    }

    const UNITS: [Unit; 3] = [Unit::Microseconds, Unit::Seconds, Unit::LongSeconds];

    /// The counts by index, from spans and deltas, as the specification reads them.
    fn read((spans, deltas): &(Vec<BucketSpan>, Vec<i64>)) -> BTreeMap<i32, u64> {
        let (mut counts, mut index, mut count) = (BTreeMap::new(), 0, 0);
        let mut deltas = deltas.iter();
        for span in spans {
            index += span.offset.expect("present");
            for _ in 0..span.length.expect("present") {
                count += deltas.next().expect("one for each bucket of a span");
                counts.insert(index, u64::try_from(count).expect("no count is negative"));
                index += 1;
            }
        }
        assert_eq!(deltas.next(), None);
        counts
    }

    /// Upper bound of a bucket, by the definition.
    fn bound(index: i32, schema: Schema) -> f64 {
        (f64::from(index) / 2f64.powi(schema.number().into())).exp2()
    }

    fn native(slots: &[u64], unit: Unit, schema: Schema) -> Native {
        Native::new(slots, unit, schema).expect("right length and exact bounds")
    }

    #[test]
    fn the_bucket_of_a_slot_has_its_bounds() {
        for unit in UNITS {
            for slot in 1..SLOTS {
                let mut slots = [0; SLOTS];
                slots[slot] = 5;
                let upper = unit.bound(0) * (slot as f64 / PER_OCTAVE as f64).exp2();
                let lower = unit.bound(0) * ((slot - 1) as f64 / PER_OCTAVE as f64).exp2();
                for schema in schemas() {
                    let counts = read(&native(&slots, unit, schema).spans());
                    let [(index, 5)] = counts.iter().map(|(i, n)| (*i, *n)).collect::<Vec<_>>()[..] else {
                        panic!("{unit:?} slot {slot}: {counts:?}");
                    };
                    let (from, to) = (bound(index - 1, schema), bound(index, schema));
                    assert!(from <= lower * 1.000_001, "{unit:?} slot {slot}: {from} {lower}");
                    assert!(to >= upper * 0.999_999, "{unit:?} slot {slot}: {to} {upper}");
                    // No wider than the schema asks for.
                    let octaves = 1.0 / f64::from(1 << schema.number());
                    assert!((to / from).log2() < octaves + 1e-9, "{unit:?} slot {slot}");
                }
            }
        }
    }

    #[test]
    fn every_schema_agrees_with_the_classic_buckets_at_powers_of_two() {
        // Some slots are empty, in gaps of one to three.
        let slots: Vec<u64> = (0..SLOTS as u64).map(|n| if n % 7 < 4 { n * n + 1 } else { 0 }).collect();
        let classic = cumulative(&slots).expect("right length");
        for unit in UNITS {
            for schema in schemas() {
                let native = native(&slots, unit, schema);
                assert_eq!(native.total(), classic[OCTAVES + 1]);
                assert_eq!((native.zero_count(), native.zero_threshold), (classic[0], unit.bound(0)));
                let counts = read(&native.spans());
                for (octave, expected) in classic.iter().enumerate().take(OCTAVES + 1) {
                    let index = (unit.bound(octave).log2() * f64::from(1 << schema.number())) as i32;
                    let below: u64 = counts.range(..=index).map(|(_, count)| count).sum();
                    assert_eq!(native.zero_count() + below, *expected, "{unit:?} {schema:?} {octave}");
                }
            }
        }
    }

    #[test]
    fn spans_are_right_at_both_ends_and_at_gaps() {
        let mut slots = [0; SLOTS];
        let spans = |slots: &[u64], schema| {
            let (spans, deltas) = native(slots, Unit::Seconds, schema).spans();
            let span = |span: &BucketSpan| (span.offset.expect("present"), span.length.expect("present"));
            (spans.iter().map(span).collect::<Vec<_>>(), deltas)
        };
        assert_eq!(spans(&slots, Schema::FINEST), (vec![], vec![]));
        slots[0] = 9;
        assert_eq!(spans(&slots, Schema::FINEST), (vec![], vec![]), "only in the zero bucket");
        // 2^-20 s is bound -160 of schema 3, and 2^4 s bound 32.
        (slots[1], slots[SLOTS - 2], slots[SLOTS - 1]) = (3, 4, 1);
        assert_eq!(spans(&slots, Schema::FINEST), (vec![(-159, 1), (190, 2)], vec![3, 1, -3]));
        assert_eq!(spans(&slots, Schema(0)), (vec![(-19, 1), (22, 2)], vec![3, 1, -3]));
        // A gap of two is filled, one of three is not.
        slots = [0; SLOTS];
        (slots[160], slots[161], slots[164], slots[168]) = (1, 5, 2, u64::MAX >> 1);
        let (listed, deltas) = spans(&slots, Schema::FINEST);
        assert_eq!(listed, [(0, 5), (3, 1)]);
        assert_eq!(deltas, [1, 4, -5, 0, 2, i64::MAX - 2]);
        assert_eq!(spans(&slots, Schema(0)).0, [(0, 2)]);
    }

    #[test]
    fn any_slots_are_listed_once_and_tightly() {
        // A fixed sequence (Knuth's MMIX multiplier). Its highest bits say which slots are empty.
        let mut state = 42u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        for round in 0..400 {
            let filled = 1 + round % 16;
            let slots: Vec<u64> = (0..SLOTS).map(|_| if next() % 16 < filled { next() } else { 0 }).collect();
            for schema in schemas() {
                let native = native(&slots, Unit::LongSeconds, schema);
                let listed = native.spans();
                let mut counts = read(&listed);
                // At both ends of a span there is a bucket with values, and no small gap between two.
                let (mut index, mut after_gap) = (0, false);
                for span in &listed.0 {
                    let (offset, length) = (span.offset(), span.length().cast_signed());
                    assert!(!after_gap || offset > SMALL_GAP, "{listed:?}");
                    index += offset;
                    assert!(counts[&index] > 0 && counts[&(index + length - 1)] > 0, "{listed:?}");
                    (index, after_gap) = (index + length, true);
                }
                counts.retain(|_, count| *count > 0);
                let width = PER_OCTAVE as i32 >> schema.number();
                let mut expected = BTreeMap::new();
                for (slot, count) in (0..).zip(&slots).skip(1).filter(|(_, count)| **count > 0) {
                    // Bound `slot` of schema 3, counted from 2^0, and the next bound of the schema from there.
                    let bound: i32 = slot - 10 * PER_OCTAVE as i32;
                    *expected
                        .entry(bound.div_euclid(width) + i32::from(bound.rem_euclid(width) > 0))
                        .or_default() += count;
                }
                assert_eq!(counts, expected);
            }
        }
    }

    #[test]
    fn what_has_other_bounds_is_not_native() {
        assert_eq!(Native::new(&[0; SLOTS], Unit::Whole, Schema::FINEST), None);
        assert_eq!(Native::new(&[0; SLOTS - 1], Unit::Seconds, Schema::FINEST), None);
    }

    #[test]
    fn only_like_buckets_combine() {
        let slots: Vec<u64> = (0..SLOTS as u64).collect();
        let doubled: Vec<u64> = slots.iter().map(|n| n * 2).collect();
        let [once, twice] = [&slots, &doubled].map(|slots| native(slots, Unit::Seconds, Schema(1)));
        assert_eq!(once.combine(&once, u64::wrapping_add), Some(twice.clone()));
        assert_eq!(twice.combine(&once, u64::saturating_sub), Some(once.clone()));
        assert_eq!(once.combine(&native(&slots, Unit::Seconds, Schema(2)), u64::max), None);
        assert_eq!(once.combine(&native(&slots, Unit::LongSeconds, Schema(1)), u64::max), None);
    }
}
