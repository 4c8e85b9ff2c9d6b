// SPDX-License-Identifier: MIT OR Apache-2.0
//! Histograms of maps that have a row for each bucket, as ebpf_exporter makes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::exposition::metric::{Histogram, Scale, Value};

use crate::config::Buckets;

/// Counts by the number of the bucket.
pub type Rows = BTreeMap<u64, u64>;

/// What the numbers of buckets mean.
#[derive(Debug)]
pub struct Bounds {
    /// Numbers of buckets, in the order in which they are added up.
    numbers: Vec<Option<u64>>,
    /// Place of each of these in `bounds`.
    places: Vec<usize>,
    /// Upper bounds, ascending.
    bounds: Arc<[f64]>,
    /// The bucket whose row is the sum of the observed values.
    sum: Option<u64>,
    multiplier: f64,
}

impl Bounds {
    /// The bounds that a config states; a multiplier of 0 means 1.
    pub fn new(buckets: &Buckets, multiplier: f64) -> Self {
        let multiplier = if multiplier == 0.0 { 1.0 } else { multiplier };
        let range = |min: &i64, max: &i64, bound: &dyn Fn(i64) -> f64| {
            (*min..=*max).map(|i| (u64::try_from(i).ok(), bound(i) * multiplier)).collect::<Vec<_>>()
        };
        let exp2 = |i: i64| (i as f64).exp2();
        let (steps, last) = match buckets {
            Buckets::Exp2 { min, max } => (range(min, max, &exp2), Some(*max)),
            Buckets::Exp2Zero { min, max } => {
                (range(min, max, &|i| if i == 0 { 0.0 } else { exp2(i - 1) }), Some(*max))
            }
            // The bound is the lower edge of the bucket's values, as there.
            Buckets::Linear { min, max } => (range(min, max, &|i| i as f64), Some(*max)),
            Buckets::Fixed(keys) => {
                let whole = |key: f64| (key >= 0.0 && key.fract() == 0.0).then_some(key as u64);
                let steps = keys.iter().map(|key| (whole(*key), key * multiplier)).collect();
                (steps, keys.last().and_then(|key| whole(*key)).and_then(|key| i64::try_from(key).ok()))
            }
        };
        let mut bounds: Vec<f64> = steps.iter().map(|(_, bound)| *bound).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let place = |bound: &f64| bounds.iter().position(|other| other == bound).unwrap_or_default();
        Self {
            numbers: steps.iter().map(|(number, _)| *number).collect(),
            places: steps.iter().map(|(_, bound)| place(bound)).collect(),
            sum: last.and_then(|last| u64::try_from(last.checked_add(1)?).ok()),
            bounds: bounds.into(),
            multiplier,
        }
    }

    /// The histogram of these rows. Rows of other numbers are not counted, as in ebpf_exporter.
    pub fn histogram(&self, rows: &Rows) -> Value {
        let mut buckets = vec![0; self.bounds.len() + 1];
        let mut count = 0u64;
        for (number, place) in self.numbers.iter().zip(&self.places) {
            let row = number.and_then(|number| rows.get(&number)).copied().unwrap_or_default();
            count = count.wrapping_add(row);
            buckets[*place] = count;
        }
        if let Some(last) = buckets.last_mut() {
            *last = count;
        }
        let sum = self.sum.and_then(|sum| rows.get(&sum)).copied().unwrap_or_default();
        let scale = Scale::Bounds { bounds: Arc::clone(&self.bounds), multiplier: self.multiplier };
        Value::Histogram(Box::new(Histogram { scale, buckets, sum, native: None }))
    }
}

/// The number of a bucket from its label's text: unsigned, with the bases of Go (`0x10`, `0b1`, `0o17`,
/// `017`, `1_000`).
pub fn number(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    if digits.starts_with(['+', '-']) || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    // A decimal number does not begin with an underscore; after a prefix it may.
    if base == 10 && digits.starts_with('_') {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), base).ok()
}

#[cfg(test)]
mod tests {
    use common::exposition::encode::{Format, encode};
    use common::exposition::metric::{Families, FamilyKind, Labels, Sample};

    use super::*;

    fn text(buckets: &Buckets, multiplier: f64, rows: &[(u64, u64)]) -> Vec<String> {
        let value = Bounds::new(buckets, multiplier).histogram(&rows.iter().copied().collect());
        let mut families = Families::default();
        let samples = &mut families.family("h", "", FamilyKind::Histogram).samples;
        samples.push(Sample { labels: Labels::none(), value });
        let lines = encode(families, Format::Text);
        lines.lines().filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect()
    }

    #[test]
    fn powers_of_two_are_inclusive_at_both_ends_and_the_row_after_is_the_sum() {
        let rows = [(0, 2), (1, 3), (3, 5), (4, 1000), (9, 7)];
        let lines = text(&Buckets::Exp2 { min: 0, max: 3 }, 0.0, &rows);
        let expected = ["1\"} 2", "2\"} 5", "4\"} 5", "8\"} 10", "+Inf\"} 10"];
        let expected: Vec<String> = expected.iter().map(|rest| format!("h_bucket{{le=\"{rest}")).collect();
        assert_eq!(lines[..5], expected);
        assert_eq!(lines[5..], ["h_sum 1000", "h_count 10"]);
    }

    #[test]
    fn bounds_are_written_as_go_writes_them() {
        let les = |buckets: &Buckets, multiplier| -> Vec<String> {
            let lines = text(buckets, multiplier, &[]);
            let le = |line: &String| line.split('"').nth(1).map(ToOwned::to_owned);
            lines.iter().filter_map(le).collect()
        };
        assert_eq!(les(&Buckets::Exp2 { min: 19, max: 20 }, 1.0), ["524288", "1.048576e+06", "+Inf"]);
        assert_eq!(
            les(&Buckets::Exp2 { min: 0, max: 7 }, 0.000_001)[..],
            ["1e-06", "2e-06", "4e-06", "8e-06", "1.6e-05", "3.2e-05", "6.4e-05", "0.000128", "+Inf"]
        );
        assert_eq!(les(&Buckets::Exp2 { min: -3, max: -2 }, 0.0), ["0.125", "0.25", "+Inf"]);
        assert_eq!(les(&Buckets::Exp2 { min: 27, max: 27 }, 0.0), ["1.34217728e+08", "+Inf"]);
    }

    #[test]
    fn zero_has_a_bucket_of_its_own_if_asked() {
        let lines = text(&Buckets::Exp2Zero { min: 0, max: 2 }, 1.0, &[(0, 1), (1, 2), (2, 4), (3, 50)]);
        assert_eq!(lines[0], "h_bucket{le=\"0\"} 1");
        assert_eq!(lines[1], "h_bucket{le=\"1\"} 3");
        assert_eq!(lines[2], "h_bucket{le=\"2\"} 7");
        assert_eq!(lines[4..], ["h_sum 50", "h_count 7"]);
    }

    #[test]
    fn linear_bounds_are_multiples_and_sums_are_scaled() {
        let lines = text(&Buckets::Linear { min: 1, max: 2 }, 50.0, &[(0, 9), (1, 1), (2, 2), (3, 7)]);
        assert_eq!(lines[0], "h_bucket{le=\"50\"} 1", "row 0 is below the first number");
        assert_eq!(lines[1], "h_bucket{le=\"100\"} 3");
        assert_eq!(lines[3..], ["h_sum 350", "h_count 3"]);
        let scaled = text(&Buckets::Exp2 { min: 0, max: 1 }, 0.000_001, &[(2, 1_500_000)]);
        assert_eq!(scaled[3], "h_sum 1.5");
    }

    #[test]
    fn fixed_bounds_count_in_their_order_and_are_shown_sorted() {
        let fixed = Buckets::Fixed(vec![100.0, 10.0, 10.0, 0.5]);
        let lines = text(&fixed, 1.0, &[(100, 1), (10, 2)]);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(
            lines,
            [
                "h_bucket{le=\"0.5\"} 5",
                "h_bucket{le=\"10\"} 5",
                "h_bucket{le=\"100\"} 1",
                "h_bucket{le=\"+Inf\"} 5",
                "h_sum 0",
                "h_count 5"
            ]
        );
        assert_eq!(text(&Buckets::Fixed(vec![1.0, 4.0]), 2.0, &[(5, 9)])[3], "h_sum 18");
    }

    #[test]
    fn numbers_of_buckets_have_the_bases_of_go() {
        for (text, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("010", Some(8)),
            ("0o10", Some(8)),
            ("0x10", Some(16)),
            ("0XfF", Some(255)),
            ("0b11", Some(3)),
            ("1_000", Some(1000)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("08", None),
            ("0x", None),
            ("1_", None),
            ("_1", None),
            ("unknown:7", None),
            ("1.5", None),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
    }
}
