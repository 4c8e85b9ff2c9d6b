// SPDX-License-Identifier: MIT OR Apache-2.0
//! Quantiles of a classic histogram.

use std::collections::BTreeMap;

/// How many observations are in which bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Observations up to each upper bound, by the order of bounds. The bits of a number from 0 on are
    /// ordered as the numbers are.
    cumulative: BTreeMap<u64, (f64, f64)>,
}

impl Distribution {
    /// Adds observations up to a bound, inclusive, in the unit of the metric. Bounds below 0 are left out.
    pub fn add(&mut self, bound: f64, count: f64) {
        if bound >= 0.0 {
            self.cumulative.entry(bound.to_bits()).or_insert((bound, 0.0)).1 += count;
        }
    }

    /// Number of observations.
    pub fn count(&self) -> f64 {
        self.cumulative.last_key_value().map_or(0.0, |(_, (_, count))| *count)
    }

    /// Upper bound of each bucket, and how many observations are in it.
    pub fn buckets(&self) -> Vec<(f64, f64)> {
        let mut below = 0.0;
        let of = |(bound, count): &(f64, f64)| {
            let within = (count - below).max(0.0);
            below = *count;
            (*bound, within)
        };
        self.cumulative.values().map(of).collect()
    }

    /// A quantile, interpolated linearly in its bucket as by PromQL's `histogram_quantile`: in the last
    /// bucket it is the greatest finite bound. `None` without observations.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total.is_nan() || total <= 0.0 {
            return None;
        }
        let rank = q * total;
        let (mut bound_below, mut below) = (0.0, 0.0);
        for (bound, count) in self.cumulative.values() {
            if *count >= rank && *count > below {
                if !bound.is_finite() {
                    return Some(bound_below);
                }
                return Some(
                    bound_below + (bound - bound_below) * ((rank - below) / (count - below)).max(0.0),
                );
            }
            (bound_below, below) = (*bound, *count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(buckets: &[(f64, f64)]) -> Distribution {
        let mut distribution = Distribution::default();
        for (bound, count) in buckets {
            distribution.add(*bound, *count);
        }
        distribution
    }

    #[test]
    fn quantiles_are_interpolated_as_by_prometheus() {
        // histogram_quantile() of Prometheus for these buckets.
        let d = distribution(&[(1.0, 0.0), (2.0, 10.0), (4.0, 90.0), (8.0, 100.0), (f64::INFINITY, 100.0)]);
        assert_eq!(d.quantile(0.5), Some(3.0));
        assert_eq!(d.quantile(0.9), Some(4.0));
        assert_eq!(d.quantile(0.99), Some(7.6));
        assert_eq!(d.quantile(0.0), Some(1.0));
        assert_eq!(d.quantile(1.0), Some(8.0));
        let over = distribution(&[(1.0, 1.0), (2.0, 1.0), (f64::INFINITY, 10.0)]);
        assert_eq!(over.quantile(0.99), Some(2.0));
        assert_eq!(over.buckets(), [(1.0, 1.0), (2.0, 0.0), (f64::INFINITY, 9.0)]);
    }

    #[test]
    fn without_observations_there_is_no_quantile() {
        assert_eq!(Distribution::default().quantile(0.5), None);
        assert_eq!(distribution(&[(1.0, 0.0), (f64::INFINITY, 0.0)]).quantile(0.5), None);
        assert_eq!(distribution(&[(1.0, f64::NAN)]).quantile(0.5), None);
    }
}
