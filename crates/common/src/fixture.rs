// SPDX-License-Identifier: MIT OR Apache-2.0
//! Map contents for tests: golden tests render these instead of a kernel's maps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::Resettable;
use headlines::{Interval, Scrape};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use crate::exposition::encode::{Format, encode};
use crate::exposition::metric::{Families, Labels, Value};
use crate::kernel::{hook, probes};
use crate::process::cli;
use crate::process::exporter::Exporter;
use crate::read::layout::{self, Contents, Layouts};
use crate::read::maps::{Fill, MapSource};
use crate::read::ratio::Window;
use crate::read::render::{Renderer, Unknown};
use crate::read::roster::Rosters;
use crate::read::top::Ranking;
use crate::serve::{ports, textfile};
use crate::spec::{Spec, Text};

/// The contents of an object's maps. They are empty at first.
#[derive(Debug)]
pub struct Fixture {
    layouts: Layouts,
    maps: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Fixture {
    /// Empty maps of the object with these layouts.
    pub fn new(layouts: Layouts) -> Self {
        Self { layouts, maps: BTreeMap::new() }
    }

    /// The bytes of a key, from its members.
    ///
    /// # Errors
    /// When there is no such map or member, or contents do not fit.
    pub fn key(&self, map: &str, members: &[(&str, Contents<'_>)]) -> Result<Vec<u8>> {
        self.layouts.get(map).with_context(|| format!("no map `{map}`"))?.key.bytes(members)
    }

    /// Sets members of the value under a key, which is given by its members. Members that are not
    /// named are zero, or keep their value.
    ///
    /// # Errors
    /// When a map or member is not in the object, or contents do not fit.
    pub fn set(
        &mut self,
        map: &str,
        key: &[(&str, Contents<'_>)],
        value: &[(&str, Contents<'_>)],
    ) -> Result<&mut Self> {
        let layout = self.layouts.get(map).with_context(|| format!("no map `{map}`"))?;
        let entries = self.maps.entry(map.to_owned()).or_default();
        let bytes = entries.entry(layout.key.bytes(key)?).or_insert_with(|| vec![0; layout.value.size]);
        layout.value.write(bytes, value)?;
        Ok(self)
    }

    /// Inserts an entry, given as the bytes of its key and value.
    pub fn insert(&mut self, map: &str, key: Vec<u8>, value: Vec<u8>) {
        self.maps.entry(map.to_owned()).or_default().insert(key, value);
    }
}

impl MapSource for Fixture {
    fn for_each(&self, map: &str, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        if !self.layouts.contains_key(map) {
            bail!("no map `{map}`");
        }
        for (key, value) in self.maps.get(map).into_iter().flatten() {
            f(key, value);
        }
        Ok(())
    }

    fn fill(&self) -> Result<Vec<Fill>> {
        Ok(Vec::new())
    }
}

/// The metrics that exporter `E` exports with these flags and the map contents that `fill` sets, as
/// text and without self metrics. Needs no kernel and no privileges.
///
/// # Errors
/// When `fill` fails, or the spec names something that the object does not have.
pub fn render<E: Exporter>(
    flags: &E::Flags,
    fill: impl FnOnce(&mut Fixture) -> Result<()>,
) -> Result<String> {
    render_named::<E>(flags, |fixture| fill(fixture).map(|()| Rosters::new()))
}

/// Like [`render`], but `fill` also returns the labels of entries.
///
/// # Errors
/// As there.
pub fn render_named<E: Exporter>(
    flags: &E::Flags,
    fill: impl FnOnce(&mut Fixture) -> Result<Rosters>,
) -> Result<String> {
    let spec = E::spec(flags);
    let mut storage = MaybeUninit::uninit();
    let open = E::Builder::default().open(&mut storage).context("failed to open the BPF object")?;
    let layouts = layout::of(open.open_object())?;
    probes::validate(&spec, &hook::hooks(open.open_object()))?;
    probes::check_atomics(open.open_object())?;
    let renderer = Renderer::new(&spec, &layouts, &BTreeSet::new())?;
    let mut fixture = Fixture::new(layouts);
    let rosters = fill(&mut fixture)?;
    let mut families = Families::default();
    renderer.render(&fixture, &rosters, None, &mut families, &mut Unknown::default())?;
    add_ratios(&spec, &mut families);
    for top in &spec.tops {
        Ranking::new(top.clone()).apply(&mut families);
    }
    Ok(encode(families, Format::Text))
}

/// Adds the ratios, as if their counters had been 0 at the start of the window.
fn add_ratios(spec: &Spec, families: &mut Families) {
    for ratio in &spec.ratios {
        let mut window = Window::new(ratio.clone());
        let mut before = Families::default();
        for name in [&ratio.part, &ratio.rest] {
            before.counter(name, "", Labels::none(), Value::Integer(0));
        }
        window.remember(&before, Instant::now());
        window.add(families);
    }
}

/// Compares the metrics of exporter `E`, its headlines of them and its manual page with the files in
/// `tests/golden` of its crate. Rewrites these files if `UPDATE_GOLDEN` is set in the environment.
///
/// # Errors
/// When a file differs; the error names the first such line. When [`Spec::events`] is empty or lists
/// a family that is not in `metrics`, or when there are not two to five headlines of such families.
pub fn golden<E: Exporter>(crate_folder: &str, metrics: &str) -> Result<()> {
    let folder = Path::new(crate_folder).join("tests/golden");
    same(&folder.join("metrics.prom"), metrics)?;
    let spec = E::spec(&E::Flags::default());
    let has = |kind: &str, name: &str| metrics.contains(&format!("# TYPE {name} {kind}\n"));
    let lacks = |name: &&Text| !has("counter", name) && !has("histogram", name);
    if let Some(name) = spec.events.iter().find(lacks) {
        bail!("{name} is listed in Spec::events and is neither a counter nor a histogram");
    }
    if spec.events.is_empty() {
        bail!("{} lists no metrics in Spec::events", spec.name);
    }
    same(&folder.join("headlines.txt"), &headlines(&spec, metrics)?)?;
    golden_manual::<E::Flags>(crate_folder, &spec)
}

/// Headlines for golden tests, one a line: what each says when all these metrics came about within two
/// seconds, and after a bar what it says when nothing grew.
///
/// # Errors
/// When there are not two to five, or one is not of these metrics and their labels.
pub fn headlines(spec: &Spec, metrics: &str) -> Result<String> {
    if !(2..=5).contains(&spec.headlines.len()) {
        bail!("{} has {} headlines instead of two to five", spec.name, spec.headlines.len());
    }
    let (empty, scrape) = (Scrape::default(), Scrape::parse(metrics)?);
    let busy = Interval::new(Some(&empty), &scrape, 2.0);
    let quiet = Interval::new(Some(&scrape), &scrape, 2.0);
    let mut lines = String::new();
    for headline in &spec.headlines {
        if !headline.text.contains("{value}") {
            bail!("{:?} lacks {{value}}", headline.text);
        }
        for selector in headline.selectors() {
            let known = scrape.labels(&selector.metric);
            let known = &known | &scrape.labels(&format!("{}_bucket", selector.metric));
            if !scrape.has(&selector.metric) {
                bail!("{:?}: no metric {}", headline.text, selector.metric);
            }
            let wanted = headline.labels().into_iter().chain(selector.labels.keys().map(AsRef::as_ref));
            if let Some(label) = wanted.into_iter().find(|label| !known.contains(label)) {
                bail!("{:?}: {} has no label {label}", headline.text, selector.metric);
            }
        }
        if let Some(alias) = &headline.alias
            && !scrape.labels(&alias.metric).is_superset(&BTreeSet::from([&*alias.label, &*alias.name]))
        {
            bail!("{:?}: {} does not have the labels of the alias", headline.text, alias.metric);
        }
        let said = |interval: Interval<'_>| interval.text(headline).unwrap_or_default();
        lines += format!("{} | {}", said(busy), said(quiet)).trim_end();
        lines.push('\n');
    }
    Ok(lines)
}

/// Compares the manual page of an exporter with its own flags `F` with the file in `tests/golden` of its
/// crate, as [`golden`] does: for an exporter without metrics of its own.
///
/// # Errors
/// When the file differs; the error names the first such line.
pub fn golden_manual<F: Args>(crate_folder: &str, spec: &Spec) -> Result<()> {
    let path = Path::new(crate_folder).join(format!("tests/golden/ebpf-{}-exporter.8", spec.name));
    same(&path, &manual::<F>(spec)?)
}

/// Compares the metrics of exporter `E` without eBPF with the file `tests/golden/fallback.prom`, as
/// [`golden`] does, and with its metrics with eBPF: they must be a subset with the same help.
///
/// # Errors
/// When the file differs, or a HELP or TYPE line is not in `metrics.prom`.
pub fn golden_fallback<E: Exporter>(crate_folder: &str, mut families: Families) -> Result<()> {
    add_ratios(&E::spec(&E::Flags::default()), &mut families);
    let folder = Path::new(crate_folder).join("tests/golden");
    let text = encode(families, Format::Text);
    same(&folder.join("fallback.prom"), &text)?;
    let metrics = fs::read_to_string(folder.join("metrics.prom"))?;
    let known: BTreeSet<&str> = metrics.lines().filter(|line| line.starts_with("# ")).collect();
    match text.lines().find(|line| line.starts_with("# ") && !known.contains(line)) {
        Some(line) => bail!("differs from metrics.prom: {line}"),
        None => Ok(()),
    }
}

/// The manual page, without version and date, which the package adds.
fn manual<F: Args>(spec: &Spec) -> Result<String> {
    let mut page = Vec::new();
    let command = cli::command::<F>(spec).after_help(Resettable::Reset);
    let manual =
        clap_mangen::Man::new(command).section("8").source("ebpf-exporters").manual("System Administration");
    manual.render(&mut page).context("failed to write a manual page")?;
    let mut page = String::from_utf8(page).context("a manual page that is not UTF-8")?;
    page += &format!(
        ".SH FILES\n.TP\n/etc/default/ebpf\\-{name}\\-exporter\n\
         Read by the unit: ARGS=\\-\\-log.level=debug adds flags.\n\
         .TP\n/etc/default/ebpf\\-exporters\n\
         Read before it by the units of all exporters: ARGS in the file above replaces ARGS in this one.\n\
         .SH ENVIRONMENT\n.TP\n{base}\n\
         A number that the ports of all exporters count from instead of 9100, where no address is given: with\n\
         {example} this one listens on port {moved}. Units read it from /etc/default/ebpf\\-exporters.\n\
         .SH PATHS\n.TP\n/\nA page that draws the metrics, for a browser.\n\
         .TP\n/metrics\nThe metrics: see \\-\\-web.telemetry\\-path.\n\
         .TP\n/headlines\nThe two to five numbers that answer the question, as JSON.\n\
         .TP\n/\\-/healthy, /\\-/ready\nWhether the process answers, and whether it counts.\n\
         .SH EXIT STATUS\n0: good. 1: cannot run here; the last message says why and what to do. 2: wrong usage.\n\
         .SH SEE ALSO\nThe exporter listens on port {port} by default. Its metrics are described in\n\
         /usr/share/doc/ebpf\\-exporters/METRICS.md; alerts, scrape jobs and a dashboard are in\n\
         /usr/share/ebpf\\-exporters.\n",
        name = spec.name.replace('-', "\\-"),
        port = spec.port,
        base = ports::BASE,
        example = ports::EXAMPLE,
        moved = ports::moved(spec, ports::EXAMPLE).context("no port")?,
    );
    Ok(page)
}

/// Compares a text with a file, which `UPDATE_GOLDEN` in the environment makes it replace.
///
/// # Errors
/// When they differ; the error names the first such line.
pub fn same(path: &Path, text: &str) -> Result<()> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        // Replaces the file atomically: another test may be reading it.
        return textfile::write(path, text);
    }
    let expected = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let lines = |text: &str| text.lines().map(ToOwned::to_owned).collect::<Vec<String>>();
    let (got, want) = (lines(text), lines(&expected));
    if let Some(at) = (0..got.len().max(want.len())).find(|at| got.get(*at) != want.get(*at)) {
        bail!(
            "{}:{}: expected {:?}, got {:?}; UPDATE_GOLDEN=1 rewrites the file",
            path.display(),
            at + 1,
            want.get(at),
            got.get(at),
        );
    }
    Ok(())
}
