// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes families as protobuf: messages `MetricFamily`, each after its length.
//!
//! Each sample becomes a message only while it is written. Numbers are those that a reader of the text gets.

use std::borrow::Cow;

use prost::Message;

use crate::exposition::encode;
use crate::exposition::message::{Bucket, Histogram, LabelPair, Metric, MetricFamily, MetricType, Number};
use crate::exposition::metric::{self, Families, Family, FamilyKind, Labels, Scale, Value};

/// Media type of this exposition, without parameters.
pub const MEDIA_TYPE: &str = "application/vnd.google.protobuf";
/// Name of the message, the parameter `proto` of the media type.
pub const MESSAGE: &str = "io.prometheus.client.MetricFamily";
/// How messages follow each other, the parameter `encoding` of the media type.
pub const ENCODING: &str = "delimited";
/// Content type of a response.
pub const CONTENT_TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// The exposition of `families`. Those without samples are left out.
///
/// ```
/// use common::exposition::message::MetricFamily;
/// use common::exposition::metric::{Families, Labels, Value};
/// use common::exposition::protobuf::encode;
/// use prost::Message;
/// let mut families = Families::default();
/// families.counter("a_total", "All of them.", Labels::of(&[("b", "c")]), Value::Integer(3));
/// let family = MetricFamily::decode_length_delimited(&*encode(families)).unwrap();
/// assert_eq!(family.name(), "a_total");
/// assert_eq!(family.metric[0].counter.unwrap().value(), 3.0);
/// ```
pub fn encode(families: Families) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 << 10);
    let mut body = Vec::new();
    for family in families.into_sorted().into_iter().filter(|family| !family.samples.is_empty()) {
        body.clear();
        write_family(&mut body, family);
        // A Vec has room.
        let _ = prost::encode_length_delimiter(body.len(), &mut out);
        out.extend_from_slice(&body);
    }
    out
}

/// Writes a family as several messages of it in a row, which a reader merges: its head, and one for each
/// sample.
fn write_family(body: &mut Vec<u8>, family: Family) {
    let kind = match family.kind {
        FamilyKind::Counter => MetricType::Counter,
        FamilyKind::Gauge => MetricType::Gauge,
        FamilyKind::Histogram => MetricType::Histogram,
    };
    let (name, help) = (Some(family.name), Some(family.help));
    let head = MetricFamily { name, help, r#type: Some(kind.into()), metric: Vec::new() };
    // A Vec has room, here and below.
    let _ = head.encode(body);
    for sample in family.samples {
        let mut metric = Metric { label: labels(&sample.labels), ..Metric::default() };
        match (&sample.value, family.kind) {
            (Value::Histogram(value), _) => metric.histogram = Some(histogram(value)),
            (value, FamilyKind::Gauge) => metric.gauge = Some(Number { value: Some(encode::number(value)) }),
            (value, _) => metric.counter = Some(Number { value: Some(encode::number(value)) }),
        }
        let _ = MetricFamily { metric: vec![metric], ..MetricFamily::default() }.encode(body);
    }
}

fn labels(labels: &Labels) -> Vec<LabelPair> {
    let pair = |(name, value): (&str, Cow<'_, str>)| LabelPair {
        name: Some(name.to_owned()),
        value: Some(value.into_owned()),
    };
    labels.pairs().map(pair).collect()
}

/// The classic histogram, and beside it the native one if there is one.
fn histogram(value: &metric::Histogram) -> Histogram {
    let count = value.buckets.last().copied().unwrap_or_default();
    let bound = |at: usize| match &value.scale {
        Scale::Unit(unit) => unit.bound(at),
        Scale::Bounds { bounds, .. } => bounds.get(at).copied().unwrap_or(f64::INFINITY),
    };
    let finite = value.buckets.len().saturating_sub(1);
    let bucket =
        |(at, count): (usize, &u64)| Bucket { cumulative_count: Some(*count), upper_bound: Some(bound(at)) };
    let mut histogram = Histogram {
        sample_count: Some(count),
        sample_sum: Some(encode::sum(value)),
        bucket: value.buckets.iter().enumerate().take(finite).map(bucket).collect(),
        ..Histogram::default()
    };
    // Prometheus refuses a whole scrape in which they differ.
    if let Some(native) = value.native.as_ref().filter(|native| native.total() == count) {
        histogram.schema = Some(native.schema.number().into());
        histogram.zero_threshold = Some(native.zero_threshold);
        histogram.zero_count = Some(native.zero_count());
        (histogram.positive_span, histogram.positive_delta) = native.spans();
    }
    histogram
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use live::exposition::Exposition;

    use super::*;
    use crate::exposition::encode::{Format, encode as text};
    use crate::exposition::hist::{OCTAVES, SLOTS, Unit, cumulative};
    use crate::exposition::metric::Sample;
    use crate::exposition::native::{Native, Schema};

    /// Values in whole numbers of `ns`, more of them in some slots than in others.
    const SUM: u64 = 12_345_678_901_234_567_891;

    fn slots() -> Vec<u64> {
        (0..SLOTS as u64).map(|slot| if (30..90).contains(&slot) { slot * slot % 97 } else { 0 }).collect()
    }

    fn sample(slots: &[u64], unit: Unit, schema: u8) -> Sample {
        let native = Schema::new(schema).and_then(|schema| Native::new(slots, unit, schema)).map(Box::new);
        let buckets = cumulative(slots).expect("right length");
        let value = metric::Histogram { scale: Scale::Unit(unit), buckets, sum: SUM, native };
        Sample { labels: Labels::of(&[("device", "a\"b\\c\nd,e=\"")]), value: Value::Histogram(value.into()) }
    }

    /// One family of each kind, and labels that need escapes.
    fn families(schema: u8) -> Families {
        let mut families = Families::default();
        let odd = Labels::of(&[("a", "\\"), ("b", ""), ("c", "ü \n\\n\"}"), ("d", "le=\"1\"")]);
        families.counter("b_total", "B.\nWith \"quotes\".", odd, Value::Integer(u64::MAX - 1));
        families.counter("b_total", "B.", Labels::none(), Value::Integer(0));
        families.counter("c_total", "C.", Labels::none(), Value::Nanoseconds(SUM));
        families.gauge("d", "D.", Labels::of(&[("x", "y")]), Value::Float(-0.1));
        families.gauge("e", "E.", Labels::none(), Value::Float(0.0));
        families.family("f", "Without samples.", FamilyKind::Gauge);
        for (name, unit) in [("us", Unit::Microseconds), ("s", Unit::Seconds), ("long", Unit::LongSeconds)] {
            let sample = sample(&slots(), unit, schema);
            families.family(name, "H.", FamilyKind::Histogram).samples.push(sample);
        }
        let bounds = Scale::Bounds { bounds: [0.1, 2.5].into(), multiplier: 1e-6 };
        let value = metric::Histogram { scale: bounds, buckets: vec![1, 3, 8], sum: 77, native: None };
        let value = Value::Histogram(Box::new(value));
        let samples = &mut families.family("z", "Z.", FamilyKind::Histogram).samples;
        samples.push(Sample { labels: Labels::none(), value });
        families
    }

    fn decode(mut bytes: &[u8]) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        while !bytes.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut bytes).expect("a message"));
        }
        families
    }

    /// Name and labels of a sample in text, with what its value is.
    type Flat = BTreeMap<(String, BTreeMap<String, String>), f64>;

    /// The samples that a scraper makes of classic protobuf.
    fn flat(families: &[MetricFamily]) -> Flat {
        let mut flat = Flat::new();
        for (family, metric) in families.iter().flat_map(|f| f.metric.iter().map(move |metric| (f, metric))) {
            let pairs = metric.label.iter().map(|pair| (pair.name().to_owned(), pair.value().to_owned()));
            let labels: BTreeMap<String, String> = pairs.collect();
            let mut add = |end: &str, le: Option<String>, value: f64| {
                let mut labels = labels.clone();
                labels.extend(le.map(|le| ("le".to_owned(), le)));
                assert_eq!(flat.insert((format!("{}{end}", family.name()), labels), value), None);
            };
            match family.r#type() {
                MetricType::Counter => add("", None, metric.counter.expect("a counter").value()),
                MetricType::Gauge => add("", None, metric.gauge.expect("a gauge").value()),
                MetricType::Histogram => {
                    let histogram = metric.histogram.as_ref().expect("a histogram");
                    for bucket in &histogram.bucket {
                        let le = bucket.upper_bound().to_string();
                        add("_bucket", Some(le), bucket.cumulative_count() as f64);
                    }
                    add("_bucket", Some("inf".to_owned()), histogram.sample_count() as f64);
                    add("_sum", None, histogram.sample_sum());
                    add("_count", None, histogram.sample_count() as f64);
                }
            }
        }
        flat
    }

    /// The same of the text, with bounds written in one way.
    fn flat_text(text: &str) -> Flat {
        let exposition = Exposition::parse(text);
        let names: Vec<String> = exposition.series().map(|(name, _)| name.to_owned()).collect();
        let samples =
            names.iter().flat_map(|name| exposition.samples(name).map(move |sample| (name, sample)));
        let sample = |(name, (labels, value)): (&String, (&BTreeMap<String, String>, f64))| {
            let mut labels = labels.clone();
            if let Some(le) = labels.get_mut("le") {
                *le = le.parse::<f64>().expect("a number").to_string();
            }
            ((name.clone(), labels), value)
        };
        samples.map(sample).collect()
    }

    #[test]
    fn every_sample_is_that_of_the_text() {
        for schema in 0..=3 {
            let decoded = decode(&encode(families(schema)));
            assert_eq!(flat(&decoded), flat_text(&text(families(schema), Format::Text)));
            let names: Vec<&str> = decoded.iter().map(MetricFamily::name).collect();
            assert_eq!(names, ["b_total", "c_total", "d", "e", "long", "s", "us", "z"]);
            assert_eq!(decoded[0].help(), "B.\nWith \"quotes\".");
        }
    }

    #[test]
    fn text_does_not_depend_on_native_buckets() {
        for format in [Format::Text, Format::OpenMetrics] {
            assert_eq!(text(families(3), format), text(families(9), format));
        }
    }

    fn decoded(slots: &[u64], schema: u8) -> Histogram {
        let mut families = Families::default();
        let samples = &mut families.family("h", "H.", FamilyKind::Histogram).samples;
        samples.push(sample(slots, Unit::Seconds, schema));
        decode(&encode(families)).remove(0).metric.remove(0).histogram.expect("a histogram")
    }

    /// Bounds and count of each bucket that is not empty, the zero bucket first.
    fn buckets(histogram: &Histogram) -> Vec<(f64, f64, u64)> {
        let mut buckets = vec![(0.0, histogram.zero_threshold(), histogram.zero_count())];
        let per_octave = 2f64.powi(histogram.schema());
        let (mut index, mut count) = (0, 0);
        let mut deltas = histogram.positive_delta.iter();
        for span in &histogram.positive_span {
            index += span.offset();
            for _ in 0..span.length() {
                count += deltas.next().expect("one for each bucket");
                let bound = |index: i32| (f64::from(index) / per_octave).exp2();
                buckets.push((bound(index - 1), bound(index), u64::try_from(count).expect("positive")));
                index += 1;
            }
        }
        buckets.retain(|(_, _, count)| *count > 0);
        buckets
    }

    /// The bucket in which a quantile lies.
    fn bucket_of(quantile: f64, buckets: &[(f64, f64, u64)]) -> (f64, f64) {
        let total: u64 = buckets.iter().map(|(_, _, count)| count).sum();
        let rank = quantile * total as f64;
        let mut below = 0;
        let holds = |(_, _, count): &&(f64, f64, u64)| {
            below += count;
            below as f64 >= rank
        };
        let (lower, upper, _) = buckets.iter().find(holds).expect("values");
        (*lower, *upper)
    }

    #[test]
    fn quantiles_lie_within_the_classic_bucket() {
        let mut slots = slots();
        (slots[0], slots[SLOTS - 1]) = (50, 20);
        for schema in 0..=3 {
            let histogram = decoded(&slots, schema);
            let native = buckets(&histogram);
            let mut classic = vec![(0.0, 0)];
            classic.extend(histogram.bucket.iter().map(|b| (b.upper_bound(), b.cumulative_count())));
            classic.push((f64::INFINITY, histogram.sample_count()));
            let classic: Vec<(f64, f64, u64)> =
                classic.windows(2).map(|two| (two[0].0, two[1].0, two[1].1 - two[0].1)).collect();
            for percent in 0..=100 {
                let quantile = f64::from(percent) / 100.0;
                let (from, to) = bucket_of(quantile, &native);
                let (least, most) = bucket_of(quantile, &classic);
                assert!(least <= from * 1.000_001 && to <= most * 1.000_001, "{percent} {from} {to}");
                assert!(from == 0.0 || to / from < 2f64.powf(1.0 / f64::from(1 << schema)) * 1.000_001);
            }
        }
    }

    #[test]
    fn an_empty_histogram_is_native_too() {
        for schema in 0..=3 {
            let histogram = decoded(&[0; SLOTS], schema);
            assert_eq!((histogram.schema, histogram.sample_count), (Some(schema.into()), Some(0)));
            assert_eq!(histogram.zero_threshold, Some(Unit::Seconds.bound(0)));
            assert_eq!(histogram.bucket.len(), OCTAVES + 1);
            assert_eq!((histogram.positive_span.len(), histogram.positive_delta.len()), (0, 0));
        }
    }

    #[test]
    fn native_buckets_that_do_not_add_up_are_left_out() {
        let mut sample = sample(&slots(), Unit::Seconds, 3);
        let Value::Histogram(value) = &mut sample.value else { panic!("a histogram") };
        value.buckets[OCTAVES + 1] += 1;
        assert_eq!(histogram(value).schema, None);
    }
}
