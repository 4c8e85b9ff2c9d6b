// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an exporter declares: the text of a number, and how it is computed of metrics.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A string, mostly a static one.
pub type Text = Cow<'static, str>;

/// What stands for the number in [`Headline::text`].
pub const VALUE: &str = "value";

/// One number of a headline.
///
/// A member that this version does not know might change the meaning: then the number is not shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headline {
    /// What is shown: `read p99 {value} on {device}`. `{value}` is the number with its unit. Any other
    /// word in braces is a label: series are added up by these labels, and the greatest is shown.
    pub text: Text,
    /// What is shown when there was no event: `no reads`. Empty where another number says so already.
    pub none: Text,
    /// How the number is computed.
    pub measure: Measure,
    /// Unit of the result.
    pub unit: Unit,
    /// Where a better name for a label is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<Alias>,
}

/// How a number is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Measure {
    /// A quantile of the observations between two scrapes, interpolated in its bucket as by
    /// PromQL's `histogram_quantile`.
    Quantile {
        /// The histogram.
        of: Selector,
        /// From 0 to 1.
        q: f64,
    },
    /// Growth of a counter per second.
    Rate {
        /// The counter.
        of: Selector,
    },
    /// Value of a gauge.
    Gauge {
        /// The gauge.
        of: Selector,
    },
    /// Growth of a counter divided by the growth of several.
    Ratio {
        /// Dividend.
        part: Selector,
        /// Counters that are added up for the divisor.
        whole: Vec<Selector>,
    },
    /// Value of a gauge divided by that of several.
    Share {
        /// Dividend.
        part: Selector,
        /// Gauges that are added up for the divisor.
        whole: Vec<Selector>,
    },
}

/// Series of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Name of the metric.
    pub metric: Text,
    /// Labels that the series must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<Text, Text>,
}

/// Another metric whose series have a better name for a label: the one with the same value of that
/// label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alias {
    /// The label that is replaced.
    pub label: Text,
    /// The other metric.
    pub metric: Text,
    /// Its label with the better name; it is not used where it is empty.
    pub name: Text,
}

/// Unit of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Microseconds.
    Microseconds,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// From 0 to 1, shown in percent.
    Ratio,
    /// From 0 to 100.
    Percent,
    /// A number whose unit is in the text.
    Number,
}

impl Unit {
    /// The unit of the values of a metric, as its name tells.
    pub fn of_metric(metric: &str) -> Self {
        let name = metric.trim_end_matches("_total");
        let ends = [
            ("_microseconds", Self::Microseconds),
            ("_seconds", Self::Seconds),
            ("_bytes", Self::Bytes),
            ("_percent", Self::Percent),
            ("_ratio", Self::Ratio),
        ];
        ends.into_iter().find(|(end, _)| name.ends_with(end)).map_or(Self::Number, |(_, unit)| unit)
    }

    /// The unit of the growth of a counter in this unit, per second. That of seconds is a number: of CPUs that
    /// were busy, of tasks that waited.
    #[must_use]
    pub fn per_second(self) -> Self {
        if self == Self::Bytes { Self::BytesPerSecond } else { Self::Number }
    }
}

impl Selector {
    /// All series of a metric.
    pub fn all(metric: &'static str) -> Self {
        Self { metric: metric.into(), labels: BTreeMap::new() }
    }
}

impl Headline {
    /// A quantile of a histogram.
    pub fn quantile(text: &'static str, q: f64, histogram: &'static str) -> Self {
        Self::new(text, Measure::Quantile { of: Selector::all(histogram), q }, Unit::of_metric(histogram))
    }

    /// The growth of a counter per second.
    pub fn rate(text: &'static str, counter: &'static str) -> Self {
        Self::new(text, Measure::Rate { of: Selector::all(counter) }, Unit::of_metric(counter).per_second())
    }

    /// The value of a gauge.
    pub fn gauge(text: &'static str, gauge: &'static str) -> Self {
        Self::new(text, Measure::Gauge { of: Selector::all(gauge) }, Unit::of_metric(gauge))
    }

    /// The share of one counter's growth in that of several.
    pub fn ratio(text: &'static str, part: &'static str, whole: &[&'static str]) -> Self {
        let whole = whole.iter().map(|metric| Selector::all(metric)).collect();
        Self::new(text, Measure::Ratio { part: Selector::all(part), whole }, Unit::Ratio)
    }

    /// The share of one gauge in several.
    pub fn share(text: &'static str, part: &'static str, whole: &[&'static str]) -> Self {
        let whole = whole.iter().map(|metric| Selector::all(metric)).collect();
        Self::new(text, Measure::Share { part: Selector::all(part), whole }, Unit::Ratio)
    }

    fn new(text: &'static str, measure: Measure, unit: Unit) -> Self {
        Self { text: text.into(), none: Text::default(), measure, unit, alias: None }
    }

    /// Takes only series with this label; of a ratio, in the dividend only.
    #[must_use]
    pub fn only(mut self, label: &'static str, value: &'static str) -> Self {
        let (Measure::Quantile { of, .. }
        | Measure::Rate { of }
        | Measure::Gauge { of }
        | Measure::Ratio { part: of, .. }
        | Measure::Share { part: of, .. }) = &mut self.measure;
        of.labels.insert(label.into(), value.into());
        self
    }

    /// Sets the text for no event.
    #[must_use]
    pub fn or(mut self, none: &'static str) -> Self {
        self.none = none.into();
        self
    }

    /// Sets where a better name for a label is found.
    #[must_use]
    pub fn alias(mut self, label: &'static str, metric: &'static str, name: &'static str) -> Self {
        self.alias = Some(Alias { label: label.into(), metric: metric.into(), name: name.into() });
        self
    }

    /// The metrics that the number is computed of.
    pub fn selectors(&self) -> Vec<&Selector> {
        match &self.measure {
            Measure::Quantile { of, .. } | Measure::Rate { of } | Measure::Gauge { of } => vec![of],
            Measure::Ratio { part, whole } | Measure::Share { part, whole } => {
                [part].into_iter().chain(whole).collect()
            }
        }
    }

    /// The labels in [`Headline::text`].
    pub fn labels(&self) -> Vec<&str> {
        let names = self.text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
        names.filter(|name| *name != VALUE).collect()
    }
}
