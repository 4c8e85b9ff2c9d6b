// SPDX-License-Identifier: MIT OR Apache-2.0
//! `grafana/dashboard.json`: the panels of all exporters (`grafana/rows/NAME.json`), laid out in
//! rows. A row's file has a panel's title, description and queries; the options that Grafana needs to
//! draw it depend only on the panel's type and are set here.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::workspace::{files, output, root, run};

/// Path of the dashboard.
pub const FILE: &str = "grafana/dashboard.json";

/// Rows in the order in which operators need them; others follow by name.
const ROWS: &[&str] = &["System Health", "ZFS Health", "Network", "Application"];

/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

/// Height of a panel in the grid.
const HEIGHT: u64 = 8;

/// The part of one exporter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    row: String,
    panels: Vec<Panel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    description: String,
    #[serde(rename = "type")]
    kind: Kind,
    /// Unit, by Grafana's name.
    unit: String,
    width: u64,
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

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

impl Panel {
    fn json(&self, id: u64, x: u64, y: u64) -> Value {
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

/// Panels by row. Rows are in their order.
fn rows() -> Result<Vec<(String, Vec<Panel>)>> {
    let mut rows: BTreeMap<(usize, String), Vec<Panel>> = BTreeMap::new();
    for path in files("grafana/rows", ".json")? {
        let text = fs::read_to_string(&path)?;
        let row: Row = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let place = ROWS.iter().position(|name| *name == row.row).unwrap_or(ROWS.len());
        rows.entry((place, row.row)).or_default().extend(row.panels);
    }
    Ok(rows.into_iter().map(|((_, name), panels)| (name, panels)).collect())
}

fn panels() -> Result<Vec<Value>> {
    let mut panels = Vec::new();
    let mut y = 0;
    let mut id = 0;
    let mut next = || {
        id += 1;
        id
    };
    for (name, of_row) in rows()? {
        panels.push(json!({
            "collapsed": false, "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y }, "id": next(),
            "panels": [], "title": name, "type": "row",
        }));
        y += 1;
        let mut x = 0;
        for panel in of_row {
            if x + panel.width > COLUMNS {
                (x, y) = (0, y + HEIGHT);
            }
            panels.push(panel.json(next(), x, y));
            x += panel.width;
        }
        y += HEIGHT;
    }
    Ok(panels)
}

/// A dashboard variable with the values of a label as its choices.
fn variable(name: &str, label: &str, metric: &str) -> Value {
    json!({
        "allValue": ".*",
        "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
        "datasource": datasource(),
        "includeAll": true,
        "label": label,
        "multi": true,
        "name": name,
        "options": [],
        "query": { "qryType": 1, "query": format!("label_values({metric},{name})"), "refId": "StandardVariableQuery" },
        "refresh": 2,
        "sort": 1,
        "type": "query",
    })
}

/// Text of the dashboard.
///
/// # Errors
/// When a row's file cannot be read or has an unknown member.
pub fn text() -> Result<String> {
    let dashboard = json!({
        "annotations": { "list": [] },
        "description": "What the kernel does, event by event, as the exporters ebpf-*-exporter count it.",
        "editable": true,
        "graphTooltip": 1,
        "links": [],
        "panels": panels()?,
        "refresh": "30s",
        "schemaVersion": 41,
        "tags": ["ebpf", "linux", "zfs", "wireguard"],
        "templating": { "list": [
            { "label": "Data source", "name": "datasource", "options": [], "query": "prometheus",
              "refresh": 1, "type": "datasource" },
            variable("instance", "Instance", "ebpf_exporter_build_info"),
            variable("device", "Device", r#"ebpf_disk_io_bytes_total{instance=~"$instance"}"#),
            variable("pool", "Pool", r#"ebpf_zfs_txg_syncs_total{instance=~"$instance"}"#),
        ] },
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "browser",
        "title": "eBPF Kernel Metrics",
        "uid": "ebpf-kernel-metrics",
    });
    Ok(serde_json::to_string_pretty(&dashboard)? + "\n")
}

/// A panel's query with every variable set to match everything.
pub fn filled(query: &str) -> String {
    let query = query.replace("$__rate_interval", "1m");
    ["$instance", "$device", "$pool"].iter().fold(query, |query, name| query.replace(name, ".*"))
}

/// Checks the dashboard against Grafana's schema, which is published as TypeScript types: it is
/// compiled as a constant of its type, in which an unknown member is an error.
///
/// # Errors
/// When it does not compile.
pub fn check_schema() -> Result<()> {
    let folder = &root().join("target/grafana");
    fs::create_dir_all(folder)?;
    for path in files("grafana/schema", "")? {
        fs::copy(&path, folder.join(path.file_name().context("a file without name")?))?;
    }
    let dashboard = fs::read_to_string(root().join(FILE))?;
    fs::write(
        folder.join("dashboard.ts"),
        format!(
            "import type {{ Strict }} from \"./schema\";\nexport const dashboard: Strict = {dashboard};\n"
        ),
    )?;
    output(
        Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"])
            .current_dir(folder),
    )?;
    run(Command::new("node_modules/.bin/tsc").arg("--project").arg(".").current_dir(folder))
}
