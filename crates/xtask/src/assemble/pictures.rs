// SPDX-License-Identifier: MIT OR Apache-2.0
//! `docs/pictures`: pictures of the dashboard's rows, drawn from the data of a Prometheus. Grafana is
//! not involved; titles, positions and queries of the panels are those of the dashboard.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use plotters::coord::Shift;
use plotters::prelude::*;
use serde_json::Value;

use crate::assemble::dashboard;
use crate::workspace::{output, root};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Pixels per unit of the dashboard's grid.
const GRID: (i64, i64) = (50, 34);

/// Columns of the grid.
const COLUMNS: i64 = 24;

/// Range and step of the queries, in seconds.
const BACK: u64 = 420;
const STEP: u64 = 5;

/// Maximum number of series in a legend.
const NAMED: usize = 5;

/// A series: its text in the legend, and its samples by minutes before now.
struct Series {
    legend: String,
    /// The label `le`, for a heatmap.
    bound: String,
    samples: Vec<(f64, f64)>,
}

/// Draws every row of the dashboard into a file.
///
/// # Errors
/// When Prometheus at `url` does not answer, or a file cannot be written.
pub fn draw(url: &str) -> Result<()> {
    let folder = root().join("docs/pictures");
    fs::create_dir_all(&folder)?;
    let dashboard: Value = serde_json::from_str(&dashboard::host()?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    for row in panels.iter().filter(|panel| panel["type"] == "row") {
        let title = row["title"].as_str().context("a row without title")?;
        let top = place(row, "y");
        let next = panels.iter().filter(|panel| panel["type"] == "row").map(|row| place(row, "y"));
        let bottom = next.filter(|y| *y > top).min().unwrap_or(i64::MAX);
        let inside = panels.iter().filter(|panel| (top + 1..bottom).contains(&place(panel, "y")));
        let path = folder.join(format!("{}.svg", title.to_lowercase().replace(' ', "-")));
        draw_row(url, &path, top + 1, &inside.collect::<Vec<_>>())
            .with_context(|| format!("failed to draw {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn place(panel: &Value, coordinate: &str) -> i64 {
    panel["gridPos"][coordinate].as_i64().unwrap_or_default()
}

fn draw_row(url: &str, path: &Path, top: i64, panels: &[&Value]) -> Result<()> {
    let height = panels.iter().map(|panel| place(panel, "y") - top + place(panel, "h")).max().unwrap_or(1);
    let size = ((COLUMNS * GRID.0) as u32, (height * GRID.1) as u32);
    let picture = SVGBackend::new(path, size).into_drawing_area();
    picture.fill(&WHITE)?;
    for panel in panels {
        let (x, y) = (place(panel, "x") * GRID.0, (place(panel, "y") - top) * GRID.1);
        let size = ((place(panel, "w") * GRID.0) as u32, (place(panel, "h") * GRID.1) as u32);
        let area = picture.clone().shrink((x as i32, y as i32), size);
        let title = panel["title"].as_str().unwrap_or_default();
        let area = area.margin(4, 4, 4, 20).titled(title, ("sans-serif", 15)).map_err(|e| anyhow!("{e}"))?;
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
        let mut series = Vec::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            series.extend(ask(url, target)?);
        }
        match panel["type"].as_str() {
            Some("timeseries") => lines(&area, &series, unit),
            Some("heatmap") => heat(&area, &series, unit),
            Some("gauge" | "bargauge") => bars(&area, &series, unit),
            other => bail!("{title}: cannot draw a {other:?}"),
        }
        .with_context(|| title.to_owned())?;
    }
    picture.present()?;
    Ok(())
}

/// The result of a panel's query.
fn ask(url: &str, target: &Value) -> Result<Vec<Series>> {
    let query = target["expr"].as_str().context("a target without query")?;
    let query = dashboard::filled(query);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut curl = Command::new("curl");
    curl.args(["-sfG", &format!("{url}/api/v1/query_range"), "--data-urlencode", &format!("query={query}")])
        .args(["-d", &format!("start={}&end={now}&step={STEP}", now - BACK)]);
    let answer: Value = serde_json::from_str(&output(&mut curl)?)?;
    let legend = target["legendFormat"].as_str().unwrap_or_default();
    let results = answer["data"]["result"].as_array().context("no result")?;
    results.iter().map(|result| series(result, legend, now)).collect()
}

fn series(result: &Value, legend: &str, now: u64) -> Result<Series> {
    let labels: BTreeMap<String, String> = serde_json::from_value(result["metric"].clone())?;
    // All series are of the same host, and of no cluster.
    let mut legend = legend.replace("{{cluster}} {{instance}}", "");
    for (name, value) in &labels {
        legend = legend.replace(&format!("{{{{{name}}}}}"), value);
    }
    let sample = |sample: &Value| {
        let value: f64 = sample[1].as_str()?.parse().ok()?;
        value.is_finite().then_some(((sample[0].as_f64()? - now as f64) / 60.0, value))
    };
    Ok(Series {
        legend: legend.trim().to_owned(),
        bound: labels.get("le").cloned().unwrap_or_default(),
        samples: result["values"].as_array().into_iter().flatten().filter_map(sample).collect(),
    })
}

/// A value as shown on an axis.
fn shown(value: f64, unit: &str) -> String {
    let scaled = |step: f64, prefixes: &[&str], unit: &str| {
        let mut value = value;
        let mut prefix = prefixes[0];
        for next in &prefixes[1..] {
            if value.abs() < step {
                break;
            }
            value /= step;
            prefix = next;
        }
        let digits = if value.abs() < 1.0 { 100.0 } else { 10.0 };
        format!("{} {prefix}{unit}", (value * digits).round() / digits)
    };
    match unit {
        "percentunit" => format!("{} %", (value * 1000.0).round() / 10.0),
        "µs" => scaled(1000.0, &["µ", "m", ""], "s"),
        "s" if value > 0.0 && value < 1.0 => format!("{} ms", (value * 1e4).round() / 10.0),
        "s" => scaled(f64::MAX, &[""], "s"),
        "bytes" => scaled(1024.0, &["", "Ki", "Mi", "Gi"], "B"),
        "Bps" => scaled(1000.0, &["", "k", "M", "G"], "B/s"),
        "ops" | "pps" => scaled(1000.0, &["", "k", "M"], "/s"),
        _ => scaled(1000.0, &["", "k", "M"], ""),
    }
}

fn lines(area: &Area<'_>, series: &[Series], unit: &str) -> Result<()> {
    let most = series.iter().flat_map(|one| &one.samples).map(|(_, value)| *value).fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.15 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(18)
        .y_label_area_size(62)
        .build_cartesian_2d(-(BACK as f64) / 60.0..0.0, 0.0..most)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(4)
        .y_labels(4)
        .x_label_formatter(&|minutes| format!("{minutes:.0} min"))
        .y_label_formatter(&|value| shown(*value, unit))
        .draw()?;
    for (place, one) in series.iter().enumerate() {
        let color = Palette99::pick(place).to_rgba();
        let line = chart.draw_series(LineSeries::new(one.samples.iter().copied(), color))?;
        if place < NAMED && !one.legend.is_empty() {
            line.label(&one.legend)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 10, y)], color.stroke_width(2)));
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.7))
        .label_font(("sans-serif", 11))
        .draw()?;
    Ok(())
}

/// Draws a heatmap. Buckets are cumulative: each row is the difference of two of them.
fn heat(area: &Area<'_>, series: &[Series], unit: &str) -> Result<()> {
    let bound = |one: &Series| one.bound.parse::<f64>().unwrap_or(f64::INFINITY);
    let mut buckets: Vec<&Series> = series.iter().collect();
    buckets.sort_by(|a, b| bound(a).total_cmp(&bound(b)));
    let mut cells = Vec::new();
    let mut below: BTreeMap<i64, f64> = BTreeMap::new();
    for (row, bucket) in buckets.iter().enumerate() {
        for (minutes, value) in &bucket.samples {
            let column = (minutes * 60.0 / STEP as f64).round() as i64;
            let between = value - below.insert(column, *value).unwrap_or(0.0);
            cells.push((*minutes, row, between));
        }
    }
    let most = cells.iter().map(|(_, _, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let name = |bucket: &&Series| match bound(bucket) {
        f64::INFINITY => "more".to_owned(),
        bound => shown(bound, unit),
    };
    let names: Vec<String> = buckets.iter().map(name).collect();
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(18)
        .y_label_area_size(62)
        .build_cartesian_2d(-(BACK as f64) / 60.0..0.0, 0.0..names.len().max(1) as f64)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_labels(4)
        .x_label_formatter(&|minutes| format!("{minutes:.0} min"))
        .y_label_formatter(&|row| names.get(*row as usize).cloned().unwrap_or_default())
        .draw()?;
    let width = STEP as f64 / 60.0;
    chart.draw_series(cells.iter().filter(|(_, _, value)| *value > 0.0).map(|(minutes, row, value)| {
        let row = *row as f64;
        let color = RGBColor(178, 24, 43).mix((value / most).sqrt().max(0.05));
        Rectangle::new([(minutes - width, row), (*minutes, row + 1.0)], color.filled())
    }))?;
    Ok(())
}

/// Draws the last value of each series as a bar.
fn bars(area: &Area<'_>, series: &[Series], unit: &str) -> Result<()> {
    let last: Vec<(&str, f64)> =
        series.iter().filter_map(|one| Some((&*one.legend, one.samples.last()?.1))).collect();
    let most = if unit == "percentunit" { 1.0 } else { last.iter().map(|bar| bar.1).fold(1e-9, f64::max) };
    let mut chart = ChartBuilder::on(area).build_cartesian_2d(0.0..most, 0.0..last.len().max(1) as f64)?;
    chart.draw_series(last.iter().enumerate().map(|(place, (_, value))| {
        let bottom = place as f64;
        Rectangle::new([(0.0, bottom + 0.3), (*value, bottom + 0.7)], RGBColor(26, 152, 80).mix(0.6).filled())
    }))?;
    chart.draw_series(last.iter().enumerate().map(|(place, (legend, value))| {
        let text = format!("{legend} {}", shown(*value, unit));
        Text::new(text.trim().to_owned(), (most * 0.02, place as f64 + 0.6), ("sans-serif", 15))
    }))?;
    Ok(())
}
