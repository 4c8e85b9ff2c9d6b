// SPDX-License-Identifier: MIT OR Apache-2.0
//! The messages of `io.prometheus.client`, as far as exporters need them: what a scrape in protobuf is
//! made of. Summaries, exemplars, timestamps and histograms of floats are not among them.
//!
//! Every member has presence, because a 0 is a value here. Numbers in a row are not packed. Both are as in
//! the schema that Prometheus publishes, which has the syntax of version 2.

use prost::{Enumeration, Message};

/// All samples of one metric name.
#[derive(Clone, PartialEq, Message)]
pub struct MetricFamily {
    /// Full name, with `_total` of a counter.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Help, not escaped.
    #[prost(string, optional, tag = "2")]
    pub help: Option<String>,
    /// Type.
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    pub r#type: Option<i32>,
    /// Samples.
    #[prost(message, repeated, tag = "4")]
    pub metric: Vec<Metric>,
}

/// Types of families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum MetricType {
    /// Has [`Metric::counter`].
    Counter = 0,
    /// Has [`Metric::gauge`].
    Gauge = 1,
    /// Has [`Metric::histogram`].
    Histogram = 4,
}

/// One label set and its value.
#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    /// Labels.
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<LabelPair>,
    /// Value of a gauge.
    #[prost(message, optional, tag = "2")]
    pub gauge: Option<Number>,
    /// Value of a counter.
    #[prost(message, optional, tag = "3")]
    pub counter: Option<Number>,
    /// Value of a histogram.
    #[prost(message, optional, tag = "7")]
    pub histogram: Option<Histogram>,
}

/// A label.
#[derive(Clone, PartialEq, Message)]
pub struct LabelPair {
    /// Name.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Value, not escaped.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// The message `Gauge`, and `Counter` without exemplars, which has the same member.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Number {
    /// Value.
    #[prost(double, optional, tag = "1")]
    pub value: Option<f64>,
}

/// A classic histogram, a native one, or both of the same values.
#[derive(Clone, PartialEq, Message)]
pub struct Histogram {
    /// Number of values.
    #[prost(uint64, optional, tag = "1")]
    pub sample_count: Option<u64>,
    /// Sum of the values.
    #[prost(double, optional, tag = "2")]
    pub sample_sum: Option<f64>,
    /// Classic buckets with ascending bounds. `+Inf` is left out: it is `sample_count`.
    #[prost(message, repeated, tag = "3")]
    pub bucket: Vec<Bucket>,
    /// Native: each power of two is divided into `2^schema` buckets.
    #[prost(sint32, optional, tag = "5")]
    pub schema: Option<i32>,
    /// Native: upper bound, inclusive, of the zero bucket.
    #[prost(double, optional, tag = "6")]
    pub zero_threshold: Option<f64>,
    /// Native: number of values in the zero bucket.
    #[prost(uint64, optional, tag = "7")]
    pub zero_count: Option<u64>,
    /// Native: which buckets of positive values are listed.
    #[prost(message, repeated, tag = "12")]
    pub positive_span: Vec<BucketSpan>,
    /// Native: the count of each listed bucket, less that of the one before.
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub positive_delta: Vec<i64>,
}

/// A classic bucket.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Bucket {
    /// Number of values up to the bound.
    #[prost(uint64, optional, tag = "1")]
    pub cumulative_count: Option<u64>,
    /// Upper bound, inclusive.
    #[prost(double, optional, tag = "2")]
    pub upper_bound: Option<f64>,
}

/// Buckets in a row.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct BucketSpan {
    /// Index of the first bucket for the first span; for others the number of buckets left out.
    #[prost(sint32, optional, tag = "1")]
    pub offset: Option<i32>,
    /// Number of buckets.
    #[prost(uint32, optional, tag = "2")]
    pub length: Option<u32>,
}
