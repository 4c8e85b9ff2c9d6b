// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters that are the difference of members of the map `packets`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use common::exposition::metric::{Families, Value};
use common::read::layout::{Field, number};
use common::read::live::Live;
use common::read::maps::MapSource;
use common::read::roster::Roster;

/// A counter computed as `whole` minus `parts`.
#[derive(Debug)]
pub struct Difference {
    /// Full name.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Labels beside those of the peer.
    pub labels: &'static [(&'static str, &'static str)],
    /// Member of the map `packets`.
    pub whole: &'static str,
    /// Members to subtract.
    pub parts: &'static [&'static str],
}

/// The highest value shown, by entry and `whole`.
#[derive(Debug, Default)]
pub struct Shown(BTreeMap<(Vec<u8>, &'static str), u64>);

impl Shown {
    /// Forgets entries that are not in `ids`.
    pub fn retain(&mut self, ids: &BTreeSet<Vec<u8>>) {
        self.0.retain(|(id, _), _| ids.contains(id));
    }

    /// Adds a difference. Its parts are counted at different moments, so it may seem to go down;
    /// the highest value is shown instead.
    ///
    /// # Errors
    /// When there is no such member, or the map cannot be read.
    pub fn add(
        &mut self,
        live: &Live,
        roster: &Roster,
        families: &mut Families,
        what: &Difference,
    ) -> Result<()> {
        let layout = live.layouts.get("packets").context("no map of packets")?;
        let whole = layout.value.field(what.whole)?;
        let parts: Vec<Field> =
            what.parts.iter().map(|part| layout.value.field(part)).collect::<Result<_>>()?;
        let mut values = BTreeMap::new();
        live.maps.for_each("packets", &mut |id, value| {
            let parts = parts.iter().map(|part| number(part.bytes(value)));
            let rest = parts.fold(number(whole.bytes(value)), u64::saturating_sub);
            values.insert(id.to_owned(), rest);
        })?;
        let entries = roster.entries.iter().map(|(id, labels)| (Some(id), labels));
        for (id, labels) in entries.chain(roster.idle.iter().map(|labels| (None, labels))) {
            let mut labels = labels.clone();
            what.labels.iter().for_each(|(name, value)| labels.push(name, value));
            let mut value = 0;
            if let Some(id) = id {
                let shown = self.0.entry((id.clone(), what.whole)).or_default();
                *shown = (*shown).max(values.get(id).copied().unwrap_or_default());
                value = *shown;
            }
            families.counter(what.name, what.help, labels, Value::Integer(value));
        }
        Ok(())
    }
}
