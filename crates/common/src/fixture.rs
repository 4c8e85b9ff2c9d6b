// SPDX-License-Identifier: MIT OR Apache-2.0
//! Map contents that a test makes up: what golden tests render instead of a kernel's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use crate::encode::{Format, encode};
use crate::exporter::Exporter;
use crate::layout::{self, Contents, Layouts};
use crate::maps::{Fill, MapSource};
use crate::metric::{Families, Labels, Value};
use crate::probes;
use crate::ratio::Window;
use crate::render::Renderer;
use crate::top::Ranking;

/// Maps of an object, empty to begin with.
#[derive(Debug)]
pub struct Fixture {
    layouts: Layouts,
    maps: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Fixture {
    /// No entries in any map of the object with these layouts.
    pub fn new(layouts: Layouts) -> Self {
        Self { layouts, maps: BTreeMap::new() }
    }

    /// Sets members of the value under a key that is given by its members; what is not
    /// named is zero, or stays as it was.
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

/// What exporter `E` would expose with these flags and the map contents that `fill` makes
/// up: its own metrics, as text. Needs no kernel and no privileges.
///
/// # Errors
/// When `fill` fails, or the spec names something that the object does not have.
pub fn render<E: Exporter>(
    flags: &E::Flags,
    fill: impl FnOnce(&mut Fixture) -> Result<()>,
) -> Result<String> {
    let spec = E::spec(flags);
    let mut storage = MaybeUninit::uninit();
    let open = E::Builder::default().open(&mut storage).context("failed to open the BPF object")?;
    let layouts = layout::of(open.open_object())?;
    probes::validate(&spec, &probes::hooks(open.open_object()))?;
    probes::check_atomics(open.open_object())?;
    let renderer = Renderer::new(&spec, &layouts, &BTreeSet::new())?;
    let mut fixture = Fixture::new(layouts);
    fill(&mut fixture)?;
    let mut families = Families::default();
    renderer.render(&fixture, &mut families)?;
    // As if all of it had come since the process started.
    for ratio in &spec.ratios {
        let mut window = Window::new(ratio.clone());
        let mut before = Families::default();
        for name in [&ratio.part, &ratio.rest] {
            before.counter(name, "", Labels::none(), Value::Integer(0));
        }
        window.remember(&before, Instant::now());
        window.add(&mut families);
    }
    for top in &spec.tops {
        Ranking::new(top.clone()).apply(&mut families);
    }
    Ok(encode(families, Format::Text))
}

/// Compares `text` with the file at `path`, which is written anew when the environment
/// has `UPDATE_GOLDEN`.
///
/// # Errors
/// When they differ; names the first line that does.
pub fn golden(path: &Path, text: &str) -> Result<()> {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return fs::write(path, text).with_context(|| format!("failed to write {}", path.display()));
    }
    let expected = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let lines = |text: &str| text.lines().map(ToOwned::to_owned).collect::<Vec<String>>();
    let (got, want) = (lines(text), lines(&expected));
    if let Some(at) = (0..got.len().max(want.len())).find(|at| got.get(*at) != want.get(*at)) {
        bail!(
            "{}:{}: expected {:?}, got {:?}; UPDATE_GOLDEN=1 writes it anew",
            path.display(),
            at + 1,
            want.get(at),
            got.get(at),
        );
    }
    Ok(())
}
