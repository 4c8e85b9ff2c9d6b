// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page that an exporter serves: what it is, where its metrics are, and its headlines.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::headline::{Headline, Text};

/// Where exporters serve it.
pub const PATH: &str = "/headlines";

/// What an exporter says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Page {
    /// NAME of `ebpf-NAME-exporter`.
    pub exporter: Text,
    /// Its version.
    pub version: Text,
    /// The question that it answers.
    pub summary: Text,
    /// Path of its metrics.
    pub metrics: Text,
    /// The answer.
    pub headlines: Vec<Headline>,
}

/// As it comes from an exporter of any version.
#[derive(Deserialize)]
struct Foreign {
    exporter: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    summary: String,
    metrics: String,
    #[serde(default)]
    headlines: Vec<Value>,
}

impl Page {
    /// As JSON.
    ///
    /// # Errors
    /// When a number is not finite.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// Reads the page of an exporter of any version. Headlines that this version does not understand
    /// are left out.
    ///
    /// # Errors
    /// When it is not such a page.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        let page: Foreign = serde_json::from_str(text)?;
        let known = |value: Value| serde_json::from_value(value).ok();
        Ok(Self {
            exporter: page.exporter.into(),
            version: page.version.into(),
            summary: page.summary.into(),
            metrics: page.metrics.into(),
            headlines: page.headlines.into_iter().filter_map(known).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_can_be_read() {
        let page = Page {
            exporter: "diskio".into(),
            version: "1.2.3".into(),
            summary: "how long?".into(),
            metrics: "/metrics".into(),
            headlines: vec![
                Headline::quantile("read p99 {value} on {device}", 0.99, "a_microseconds")
                    .only("operation", "read")
                    .or("no reads")
                    .alias("device", "info", "name"),
                Headline::rate("{value} calls/s", "b_total").or("no calls"),
                Headline::ratio("hits {value}", "hits_total", &["hits_total", "misses_total"]),
            ],
        };
        let text = page.to_json().expect("finite");
        assert!(text.contains(
            r#"{"text":"{value} calls/s","none":"no calls","measure":{"rate":{"of":{"metric":"b_total"}}},"unit":"number"}"#
        ), "{text}");
        assert_eq!(Page::from_json(&text).expect("a page"), page);
    }

    #[test]
    fn headlines_of_another_version_are_left_out() {
        let text = r#"{"exporter":"x","metrics":"/m","later":1,"headlines":[
            {"text":"{value}","none":"","measure":{"median":{}},"unit":"number"},
            {"text":"{value}","none":"","measure":{"rate":{"of":{"metric":"a_total"}}},"unit":"furlongs"},
            {"text":"{value}","none":"","measure":{"rate":{"of":{"metric":"a_total"}}},"unit":"number","negate":true},
            7,
            {"text":"{value}","none":"","measure":{"rate":{"of":{"metric":"a_total"}}},"unit":"number"}]}"#;
        let page = Page::from_json(text).expect("a page");
        assert_eq!((page.exporter.as_ref(), page.headlines.len()), ("x", 1));
        assert!(Page::from_json("{}").is_err() && Page::from_json("<html>").is_err());
    }
}
