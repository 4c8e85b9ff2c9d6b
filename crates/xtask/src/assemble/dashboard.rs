// SPDX-License-Identifier: MIT OR Apache-2.0
//! The dashboards: the panels of all exporters (`grafana/rows/NAME.json`), laid out in rows.
//! `grafana/dashboard.json` is about one host, or a few; `grafana/fleet.json` asks recording rules about all hosts,
//! and leads to the other one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::assemble::panel::{HEIGHT, Panel, datasource};
use crate::workspace::{files, root};

/// Path of the dashboard of a host.
pub const HOST: &str = "grafana/dashboard.json";

/// Path of the dashboard of all hosts.
pub const FLEET: &str = "grafana/fleet.json";

/// The dashboard of a host at that host: what a click on a host in the other one opens.
const ONE_HOST: &str = "/d/ebpf-kernel-metrics?${datasource:queryparam}&${job:queryparam}\
     &var-cluster=${__field.labels.cluster}&var-instance=${__field.labels.instance}&${__url_time_range}";

/// Rows in the order in which operators need them; others follow by name.
const ROWS: &[&str] = &["System Health", "ZFS Health", "Network", "Application"];

/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;

/// The part of one exporter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    row: String,
    panels: Vec<Panel>,
    /// About all hosts, from recording rules.
    fleet: Vec<Panel>,
}

/// Which of the dashboards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dashboard {
    Host,
    Fleet,
}

impl Dashboard {
    fn panels_of(self, row: Row) -> Vec<Panel> {
        match self {
            Self::Host => row.panels,
            Self::Fleet => row.fleet,
        }
    }
}

/// Panels by row. Rows are in their order.
fn rows(dashboard: Dashboard) -> Result<Vec<(String, Vec<Panel>)>> {
    let mut rows: BTreeMap<(usize, String), Vec<Panel>> = BTreeMap::new();
    for path in files("grafana/rows", ".json")? {
        let text = fs::read_to_string(&path)?;
        let row: Row = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let place = ROWS.iter().position(|name| *name == row.row).unwrap_or(ROWS.len());
        rows.entry((place, row.row.clone())).or_default().extend(dashboard.panels_of(row));
    }
    rows.retain(|_, panels| !panels.is_empty());
    Ok(rows.into_iter().map(|((_, name), panels)| (name, panels)).collect())
}

fn panels(dashboard: Dashboard) -> Result<Vec<Value>> {
    let mut panels = Vec::new();
    let link = Some(ONE_HOST).filter(|_| dashboard == Dashboard::Fleet);
    let mut y = 0;
    let mut id = 0;
    let mut next = || {
        id += 1;
        id
    };
    for (name, of_row) in rows(dashboard)? {
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
            panels.push(panel.json(next(), (x, y), link));
            x += panel.width;
        }
        y += HEIGHT;
    }
    Ok(panels)
}

/// A dashboard variable with the values of a label as its choices. All of them are `all`, a regular expression.
fn variable(name: &str, label: &str, metric: &str, all: &str) -> Value {
    json!({
        "allValue": all,
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

/// Variables of both dashboards. A Prometheus of one cluster has no label `cluster`, so all of them are also none.
fn variables() -> Vec<Value> {
    let of = |selector| format!("ebpf_exporter_build_info{selector}");
    vec![
        json!({ "label": "Data source", "name": "datasource", "options": [], "query": "prometheus",
            "refresh": 1, "type": "datasource" }),
        variable("cluster", "Cluster", &of(""), ".*"),
        variable("job", "Job", &of(r#"{cluster=~"$cluster"}"#), ".+"),
        variable("instance", "Instance", &of(r#"{cluster=~"$cluster",job=~"$job"}"#), ".+"),
    ]
}

/// A link from one dashboard to the other.
fn link(title: &str, uid: &str) -> Value {
    json!({
        "asDropdown": false, "icon": "dashboard", "includeVars": true, "keepTime": true, "tags": [],
        "targetBlank": false, "title": title, "tooltip": "", "type": "link", "url": format!("/d/{uid}"),
    })
}

/// Text of the dashboard of a host.
///
/// # Errors
/// When a row's file cannot be read or has an unknown member.
pub fn host() -> Result<String> {
    let hosts = r#"cluster=~"$cluster",job=~"$job",instance=~"$instance""#;
    let mut variables = variables();
    variables.push(variable("device", "Device", &format!("ebpf_disk_io_bytes_total{{{hosts}}}"), ".+"));
    variables.push(variable("pool", "Pool", &format!("ebpf_zfs_txg_syncs_total{{{hosts}}}"), ".+"));
    text(&json!({
        "annotations": { "list": [] },
        "description": "What the kernel does, event by event, as the exporters ebpf-*-exporter count it.",
        "editable": false,
        "graphTooltip": 1,
        "links": [link("All hosts", "ebpf-fleet")],
        "panels": panels(Dashboard::Host)?,
        "refresh": "30s",
        "schemaVersion": 41,
        "tags": ["ebpf", "linux", "zfs", "wireguard"],
        "templating": { "list": variables },
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "browser",
        "title": "eBPF Kernel Metrics",
        "uid": "ebpf-kernel-metrics",
    }))
}

/// Text of the dashboard of all hosts.
///
/// # Errors
/// Those of [`host`].
pub fn fleet() -> Result<String> {
    text(&json!({
        "annotations": { "list": [] },
        "description": "All hosts: each cluster, and the hosts that are worst. It asks recording rules. A click on a host opens the dashboard of that host.",
        "editable": false,
        "graphTooltip": 1,
        "links": [link("One host", "ebpf-kernel-metrics")],
        "panels": panels(Dashboard::Fleet)?,
        "refresh": "1m",
        "schemaVersion": 41,
        "tags": ["ebpf", "linux", "zfs", "wireguard"],
        "templating": { "list": variables() },
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "browser",
        "title": "eBPF Fleet",
        "uid": "ebpf-fleet",
    }))
}

fn text(dashboard: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(dashboard)? + "\n")
}

/// A panel's query with every variable set to match everything.
pub fn filled(query: &str) -> String {
    let query = query.replace("$__rate_interval", "1m").replace("$cluster", ".*");
    ["$job", "$instance", "$device", "$pool"].iter().fold(query, |query, name| query.replace(name, ".+"))
}

/// Writes a TypeScript project that compiles if the dashboards agree with Grafana's schema, which is
/// published as TypeScript types: they are constants of its type, in which an unknown member is an error.
///
/// # Errors
/// When files cannot be read or written.
pub fn write_schema_check(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for path in files("grafana/schema", "")? {
        fs::copy(&path, folder.join(path.file_name().context("a file without name")?))?;
    }
    let mut constants = "import type { Strict } from \"./schema\";\n".to_owned();
    for (name, path) in [("host", HOST), ("fleet", FLEET)] {
        let dashboard = fs::read_to_string(root().join(path))?;
        constants += &format!("export const {name}: Strict = {dashboard};\n");
    }
    fs::write(folder.join("dashboard.ts"), constants)?;
    Ok(())
}
