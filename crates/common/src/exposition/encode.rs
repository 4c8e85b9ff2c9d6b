// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes families as text: Prometheus 0.0.4 and OpenMetrics 1.0.

use std::fmt::{self, Write};

use crate::exposition::hist::Unit;
use crate::exposition::metric::{Families, Family, FamilyKind, Histogram, Scale, Value};

/// An exposition format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`
    Text,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl Format {
    /// Content type of a response.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The exposition of `families`.
///
/// ```
/// use common::exposition::encode::{Format, encode};
/// use common::exposition::metric::{Families, Labels, Value};
/// let mut families = Families::default();
/// families.counter("a_total", "All of them.", Labels::of(&[("b", "c")]), Value::Integer(3));
/// assert_eq!(
///     encode(families, Format::Text),
///     "# HELP a_total All of them.\n# TYPE a_total counter\na_total{b=\"c\"} 3\n",
/// );
/// ```
pub fn encode(families: Families, format: Format) -> String {
    let mut out = String::with_capacity(16 << 10);
    for family in families.into_sorted() {
        // Writing to a String cannot fail.
        let _ = write_family(&mut out, &family, format);
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn write_family(out: &mut String, family: &Family, format: Format) -> fmt::Result {
    let (kind, name) = match family.kind {
        // OpenMetrics has no counters with other names.
        FamilyKind::Counter if format == Format::OpenMetrics && !family.name.ends_with("_total") => {
            ("unknown", family.name.as_str())
        }
        FamilyKind::Counter => ("counter", family_name(&family.name, format)),
        FamilyKind::Gauge => ("gauge", family.name.as_str()),
        FamilyKind::Histogram => ("histogram", family.name.as_str()),
    };
    write!(out, "# HELP {name} ")?;
    for c in family.help.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if format == Format::OpenMetrics => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    write!(out, "\n# TYPE {name} {kind}\n")?;
    for sample in &family.samples {
        let labels = sample.labels.as_str();
        if let Value::Histogram(histogram) = &sample.value {
            write_histogram(out, &family.name, labels, histogram, format)?;
            continue;
        }
        write_name(out, &family.name, labels)?;
        match &sample.value {
            Value::Integer(n) => write!(out, "{n}")?,
            Value::Nanoseconds(n) => write_scaled(out, *n, Unit::Seconds)?,
            Value::Float(n) => write_float(out, *n, Format::Text)?,
            Value::Histogram(_) => {}
        }
        out.push('\n');
    }
    Ok(())
}

/// `name{labels} `, without braces where there are no labels.
fn write_name(out: &mut String, name: &str, labels: &str) -> fmt::Result {
    match labels {
        "" => write!(out, "{name} "),
        labels => write!(out, "{name}{{{labels}}} "),
    }
}

/// OpenMetrics names the family of a counter without `_total`.
fn family_name(name: &str, format: Format) -> &str {
    match format {
        Format::Text => name,
        Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
    }
}

/// Writes a line for each bucket, with its upper bound as `le`, then the sum and the count.
fn write_histogram(
    out: &mut String,
    name: &str,
    labels: &str,
    histogram: &Histogram,
    format: Format,
) -> fmt::Result {
    let comma = if labels.is_empty() { "" } else { "," };
    let last = histogram.buckets.len().saturating_sub(1);
    for (at, count) in histogram.buckets.iter().enumerate() {
        write!(out, "{name}_bucket{{{labels}{comma}le=\"")?;
        if at == last {
            out.push_str("+Inf");
        } else {
            match &histogram.scale {
                Scale::Unit(unit) => write_float(out, unit.bound(at), format)?,
                Scale::Bounds { bounds, .. } => {
                    let bound = bounds.get(at).copied().unwrap_or(f64::INFINITY);
                    write_shortest(out, bound, SHORTEST, format)?;
                }
            }
        }
        writeln!(out, "\"}} {count}")?;
    }
    write_name(out, &format!("{name}_sum"), labels)?;
    match histogram.scale {
        Scale::Unit(unit) => write_scaled(out, histogram.sum, unit)?,
        Scale::Bounds { multiplier: 1.0, .. } => write!(out, "{}", histogram.sum)?,
        Scale::Bounds { multiplier, .. } => {
            write_shortest(out, histogram.sum as f64 * multiplier, SHORTEST, Format::Text)?;
        }
    }
    out.push('\n');
    write_name(out, &format!("{name}_count"), labels)?;
    writeln!(out, "{}", histogram.buckets.last().copied().unwrap_or_default())
}

/// The number that a reader of the text of `value` gets; NaN for a histogram.
pub(super) fn number(value: &Value) -> f64 {
    match value {
        Value::Integer(n) => *n as f64,
        Value::Nanoseconds(n) => scaled(*n, Unit::Seconds),
        Value::Float(n) => *n,
        Value::Histogram(_) => f64::NAN,
    }
}

/// The number that a reader of the text of a histogram's sum gets.
pub(super) fn sum(histogram: &Histogram) -> f64 {
    match histogram.scale {
        Scale::Unit(unit) => scaled(histogram.sum, unit),
        Scale::Bounds { multiplier, .. } => histogram.sum as f64 * multiplier,
    }
}

/// The number nearest to what [`write_scaled`] writes. A quotient of two floats is not always: a sum of
/// more than 104 days has more nanoseconds than a float has digits.
fn scaled(ns: u64, unit: Unit) -> f64 {
    let mut text = String::new();
    // Writing to a String cannot fail, and the text is a number.
    let _ = write_scaled(&mut text, ns, unit);
    text.parse().unwrap_or(f64::NAN)
}

/// Writes a sum in `unit` as an exact decimal fraction.
fn write_scaled(out: &mut String, ns: u64, unit: Unit) -> fmt::Result {
    let scale = unit.scale();
    let (whole, rest) = (ns / scale, ns % scale);
    if rest == 0 {
        return write!(out, "{whole}");
    }
    let digits = scale.ilog10() as usize;
    write!(out, "{whole}.{rest:0digits$}")?;
    out.truncate(out.trim_end_matches('0').len());
    Ok(())
}

/// Numbers from here on have an exponent in the text of Go's `strconv.FormatFloat(n, 'g', -1, 64)`.
const SHORTEST: f64 = 1e6;

/// Writes a number in the way of Go's `strconv`, which users of Prometheus are used to, but with an
/// exponent only where it is very large or small.
fn write_float(out: &mut String, n: f64, format: Format) -> fmt::Result {
    write_shortest(out, n, 1e21, format)
}

/// Writes a number in the way of Go's `strconv`: the fewest digits that give the same number, and an
/// exponent below 0.0001 and from `exponent_from` on. OpenMetrics requires a fraction or an exponent.
fn write_shortest(out: &mut String, n: f64, exponent_from: f64, format: Format) -> fmt::Result {
    if n.is_nan() {
        return write!(out, "NaN");
    }
    if n.is_infinite() {
        return write!(out, "{}Inf", if n > 0.0 { '+' } else { '-' });
    }
    if n != 0.0 && !(1e-4..exponent_from).contains(&n.abs()) {
        let text = format!("{n:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        return write!(out, "{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let fraction = if format == Format::OpenMetrics && n.fract() == 0.0 { ".0" } else { "" };
    write!(out, "{n}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::hist::{SLOTS, cumulative};
    use crate::exposition::metric::{Labels, Sample};

    fn float(n: f64, format: Format) -> String {
        let mut out = String::new();
        write_float(&mut out, n, format).expect("a String takes it");
        out
    }

    #[test]
    fn floats_look_like_gos() {
        assert_eq!(float(9.5367431640625e-7, Format::Text), "9.5367431640625e-07");
        assert_eq!(float(1.0, Format::Text), "1");
        assert_eq!(float(1.0, Format::OpenMetrics), "1.0");
        assert_eq!(float(0.5, Format::OpenMetrics), "0.5");
        assert_eq!(float(f64::INFINITY, Format::Text), "+Inf");
        assert_eq!(float(1e21, Format::Text), "1e+21");
        assert_eq!(float(-0.00001, Format::Text), "-1e-05");
    }

    #[test]
    fn sums_are_exact_to_the_nanosecond() {
        let scaled = |ns, unit| {
            let mut out = String::new();
            write_scaled(&mut out, ns, unit).expect("a String takes it");
            out
        };
        assert_eq!(scaled(u64::MAX, Unit::Seconds), "18446744073.709551615");
        assert_eq!(scaled(u64::MAX, Unit::Microseconds), "18446744073709551.615");
        assert_eq!(scaled(1_500_000_000, Unit::Seconds), "1.5");
        assert_eq!(scaled(10, Unit::Seconds), "0.00000001");
        assert_eq!(scaled(20_000, Unit::Microseconds), "20");
        assert_eq!(scaled(0, Unit::Seconds), "0");
    }

    #[test]
    fn open_metrics_differs_where_it_must() {
        let mut families = Families::default();
        families.counter("a_total", "A \"quoted\\\" one.", Labels::none(), Value::Integer(1));
        let mut slots = [0; SLOTS];
        slots[0] = 2;
        let buckets = cumulative(&slots).expect("right length");
        families.family("h", "H.", FamilyKind::Histogram).samples.push(Sample {
            labels: Labels::none(),
            value: Value::Histogram(Box::new(Histogram {
                scale: Scale::Unit(Unit::Microseconds),
                buckets,
                sum: 7,
                native: None,
            })),
        });
        let text = encode(families.clone(), Format::Text);
        assert!(text.contains("# TYPE a_total counter\n"), "{text}");
        assert!(text.contains("h_bucket{le=\"1\"} 2\n"), "{text}");
        assert!(text.contains("h_sum 0.007\nh_count 2\n"), "{text}");
        let open = encode(families, Format::OpenMetrics);
        assert!(open.contains("# HELP a A \\\"quoted\\\\\\\" one.\n# TYPE a counter\na_total 1\n"), "{open}");
        assert!(open.contains("h_bucket{le=\"1.0\"} 2\n"), "{open}");
        assert!(open.ends_with("# EOF\n"));
    }
}
