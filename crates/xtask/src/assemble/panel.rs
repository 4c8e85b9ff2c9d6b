// SPDX-License-Identifier: MIT OR Apache-2.0
//! A panel of a dashboard: what a row's file says of it, and the options that Grafana needs to draw it, which
//! depend only on its type.

use serde::Deserialize;
use serde_json::{Value, json};

/// Height of a panel in the grid.
pub const HEIGHT: u64 = 8;

/// What a row's file says of a panel.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Panel {
    title: String,
    description: String,
    #[serde(rename = "type")]
    kind: Kind,
    /// Unit, by Grafana's name.
    unit: String,
    /// Columns of the grid.
    pub width: u64,
    min: Option<f64>,
    max: Option<f64>,
    /// Pairs of a lower bound and a colour; the first has no bound.
    thresholds: Option<Vec<(Option<f64>, String)>>,
    queries: Vec<Query>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    expr: String,
    /// Empty for a heatmap: it shows the buckets' bounds instead.
    #[serde(default)]
    legend: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Timeseries,
    Heatmap,
    Gauge,
    Bargauge,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Timeseries => "timeseries",
            Self::Heatmap => "heatmap",
            Self::Gauge => "gauge",
            Self::Bargauge => "bargauge",
        }
    }

    /// Whether the panel shows only the latest value.
    fn is_instant(self) -> bool {
        matches!(self, Self::Gauge | Self::Bargauge)
    }

    fn options(self, unit: &str) -> Value {
        let reduce = json!({ "calcs": ["lastNotNull"], "fields": "", "values": false });
        match self {
            Self::Timeseries => json!({
                "legend": { "calcs": ["mean", "max"], "displayMode": "table", "placement": "bottom", "showLegend": true },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Self::Heatmap => json!({
                "calculate": false,
                "cellGap": 1,
                "color": { "exponent": 0.5, "fill": "dark-orange", "mode": "scheme", "reverse": false,
                    "scale": "exponential", "scheme": "Oranges", "steps": 64 },
                "exemplars": { "color": "rgba(255,0,255,0.7)" },
                "filterValues": { "le": 1e-9 },
                "legend": { "show": true },
                "rowsFrame": { "layout": "auto" },
                "showValue": "never",
                "tooltip": { "mode": "single", "showColorScale": false, "yHistogram": false },
                "yAxis": { "axisPlacement": "left", "reverse": false, "unit": unit },
            }),
            Self::Gauge => json!({
                "minVizHeight": 75, "minVizWidth": 75, "orientation": "auto", "reduceOptions": reduce,
                "showThresholdLabels": false, "showThresholdMarkers": true, "sizing": "auto",
            }),
            Self::Bargauge => json!({
                "displayMode": "basic",
                "legend": { "calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": false },
                "maxVizHeight": 300, "minVizHeight": 16, "minVizWidth": 8, "namePlacement": "auto",
                "orientation": "horizontal", "reduceOptions": reduce, "showUnfilled": true, "sizing": "auto",
                "valueMode": "color",
            }),
        }
    }

    fn custom(self, has_thresholds: bool) -> Value {
        match self {
            Self::Timeseries => json!({
                "drawStyle": "line", "fillOpacity": 10, "lineWidth": 1, "showPoints": "never",
                "thresholdsStyle": { "mode": if has_thresholds { "dashed" } else { "off" } },
            }),
            Self::Heatmap => json!({ "scaleDistribution": { "type": "linear" } }),
            Self::Gauge | Self::Bargauge => json!({}),
        }
    }
}

/// The data source that the user chose.
pub fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

impl Panel {
    /// Whether each of its series is of one host.
    fn is_of_hosts(&self) -> bool {
        self.queries.iter().all(|query| query.legend.contains("{{instance}}"))
    }

    /// The panel as Grafana reads it, at a place in its grid. `link` is where a click on a host leads.
    pub fn json(&self, id: u64, (x, y): (u64, u64), link: Option<&str>) -> Value {
        let targets = self.queries.iter().zip('A'..).map(|(query, letter)| {
            json!({
                "datasource": datasource(),
                "editorMode": "code",
                "expr": query.expr,
                "format": if self.kind == Kind::Heatmap { "heatmap" } else { "time_series" },
                "instant": self.kind.is_instant(),
                "legendFormat": if self.kind == Kind::Heatmap { "{{le}}" } else { &query.legend },
                "range": !self.kind.is_instant(),
                "refId": letter.to_string(),
            })
        });
        let green = [(None, "green".to_owned())];
        let steps = self.thresholds.as_deref().unwrap_or(&green).iter();
        let steps: Vec<Value> =
            steps.map(|(value, color)| json!({ "color": color, "value": value })).collect();
        let by_threshold = self.kind.is_instant();
        let mut defaults = json!({
            "color": { "mode": if by_threshold { "thresholds" } else { "palette-classic" } },
            "custom": self.kind.custom(self.thresholds.is_some()),
            "thresholds": { "mode": "absolute", "steps": steps },
            "unit": self.unit,
        });
        for (name, value) in [("min", self.min), ("max", self.max)] {
            if let Some(value) = value {
                defaults[name] = json!(value);
            }
        }
        if let Some(url) = link.filter(|_| self.is_of_hosts()) {
            defaults["links"] = json!([{ "title": "This host", "url": url }]);
        }
        json!({
            "datasource": datasource(),
            "description": self.description,
            "fieldConfig": { "defaults": defaults, "overrides": [] },
            "gridPos": { "h": HEIGHT, "w": self.width, "x": x, "y": y },
            "id": id,
            "options": self.kind.options(&self.unit),
            "targets": targets.collect::<Vec<_>>(),
            "title": self.title,
            "type": self.kind.name(),
        })
    }
}
