// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes metric families from a spec and the contents of maps. The maps are those of the kernel or
//! those of a test's fixture.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use crate::exposition::hist::{Unit, cumulative, steps};
use crate::exposition::metric::{Families, FamilyKind, Histogram, Labels, Sample, Scale, Value};
use crate::exposition::native::{Native, Schema};
use crate::read::decode::{Decoder, is_folded};
use crate::read::layout::{Field, Layout, Layouts, number};
use crate::read::maps::MapSource;
use crate::read::roster::{Roster, Rosters};
use crate::spec::{Decode, Kind, Label, MapSpec, Side, Spec, Text};

/// A spec whose names are resolved in an object.
#[derive(Debug, Default)]
pub struct Renderer {
    maps: Vec<BoundMap>,
    decoder: Decoder,
    /// Values of entries that [`Renderer::sweep`] removed, by map and labels.
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    map: Text,
    labels: Labels,
    value: Vec<u8>,
}

#[derive(Debug)]
struct BoundMap {
    spec: MapSpec,
    /// Bytes of a value.
    size: usize,
    labels: Vec<Field>,
    metrics: Vec<BoundMetric>,
}

/// The source of a metric, by offset in the value.
#[derive(Debug)]
enum BoundMetric {
    Counter(Field),
    Seconds(Field),
    Gauge(Field),
    Steps(Field),
    Tally(Option<Field>),
    Histogram { slots: Field, sum: Field, unit: Unit },
}

impl Renderer {
    /// Resolves every member that `spec` names, except the maps and members (`MAP.MEMBER`) in
    /// `without`.
    ///
    /// # Errors
    /// When a map or member is not in the object.
    pub fn new(spec: &Spec, layouts: &Layouts, without: &BTreeSet<String>) -> Result<Self> {
        let maps = spec.maps.iter().filter(|map| !without.contains(&*map.map)).map(|map| {
            let mut map = map.clone();
            map.metrics.retain(|metric| {
                metric.kind.member().is_none_or(|member| !without.contains(&format!("{}.{member}", map.map)))
            });
            map
        });
        let maps = maps.map(|map| {
            let name = map.map.clone();
            bind(map, layouts).with_context(|| format!("map `{name}`"))
        });
        Ok(Self { maps: maps.collect::<Result<_>>()?, ..Self::default() })
    }

    /// Reads all maps into `families`, and records in `unknown` what could not be decoded. With `schema`,
    /// histograms have native buckets too.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn render(
        &self,
        source: &dyn MapSource,
        rosters: &Rosters,
        schema: Option<Schema>,
        families: &mut Families,
        unknown: &mut Unknown,
    ) -> Result<()> {
        let nobody = Roster::default();
        let mut kept = self.kept();
        for map in &self.maps {
            let watched = kept.iter().any(|kept| kept.map == map.spec.map);
            let mut present = BTreeMap::new();
            // A metric without samples still gets its HELP and TYPE lines.
            let mut samples: Vec<Vec<Sample>> = map.metrics.iter().map(|_| Vec::new()).collect();
            let roster = rosters.get(&*map.spec.map).unwrap_or(&nobody);
            source.for_each(&map.spec.map, &mut |key, value| {
                if watched {
                    present.insert(map.labels_of(key, value, &self.decoder, unknown), 0u64);
                }
                if map.is_idle(key, value) || map.metrics.iter().all(|metric| metric.is_silent(value)) {
                    return;
                }
                let labels = if map.spec.named {
                    let Some(labels) = roster.entries.get(key) else { return };
                    labels.clone()
                } else {
                    map.labels_of(key, value, &self.decoder, unknown)
                };
                map.sample(&labels, value, schema, &mut samples, unknown);
            })?;
            let zero = vec![0; map.size];
            for labels in &roster.idle {
                map.sample(labels, &zero, schema, &mut samples, unknown);
            }
            // What was removed is shown once more, and as long as there is an entry with the same labels.
            kept.retain(|kept| {
                if kept.map != map.spec.map {
                    return true;
                }
                map.sample(&kept.labels, &kept.value, schema, &mut samples, unknown);
                present.contains_key(&kept.labels)
            });
            for (metric, samples) in map.spec.metrics.iter().zip(samples) {
                let kind = match metric.kind {
                    Kind::Counter(_) | Kind::Seconds(_) => FamilyKind::Counter,
                    Kind::Gauge(_) | Kind::Tally(_) => FamilyKind::Gauge,
                    Kind::Histogram(..) | Kind::Steps(_) => FamilyKind::Histogram,
                };
                families.family(&metric.name, &metric.help, kind).samples.extend(samples);
            }
        }
        self.decoder.forget_unused();
        Ok(())
    }

    /// Removes the entries of removed cgroups by `delete`, which gets the map and the key. `cgroups` are all that there
    /// are. What the entries counted is shown once more. A cgroup of the same path may still be there, or come before
    /// that, as that of a service that was restarted: then it goes on from there.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn sweep(
        &self,
        source: &dyn MapSource,
        cgroups: impl FnOnce() -> Option<BTreeSet<u64>>,
        delete: impl Fn(&str, &[u8]) -> Result<bool>,
        unknown: &mut Unknown,
    ) -> Result<()> {
        let cgroup_of = |map: &BoundMap, key: &[u8]| map.cgroup().map(|cgroup| number(cgroup.bytes(key)));
        // Read the entries before the cgroups. Then the entry of a cgroup that is created in between is not removed.
        // Values, which may be megabytes, are kept only of those that are removed.
        let mut removed = BTreeSet::new();
        for map in self.maps.iter().filter(|map| map.cgroup().is_some()) {
            source.for_each(&map.spec.map, &mut |key, _| removed.extend(cgroup_of(map, key)))?;
        }
        removed.remove(&0);
        if removed.is_empty() {
            return Ok(());
        }
        let Some(cgroups) = cgroups() else { return Ok(()) };
        removed.retain(|id| !cgroups.contains(id));
        let mut entries = Vec::new();
        for map in self.maps.iter().filter(|map| map.cgroup().is_some() && !removed.is_empty()) {
            source.for_each(&map.spec.map, &mut |key, value| {
                if cgroup_of(map, key).is_some_and(|id| removed.contains(&id)) {
                    entries.push((map, key.to_owned(), value.to_owned()));
                }
            })?;
        }
        let mut kept = self.kept();
        for (map, key, value) in entries {
            if !delete(&map.spec.map, &key)? {
                continue;
            }
            let labels = map.labels_of(&key, &value, &self.decoder, unknown);
            let same = kept.iter_mut().find(|kept| kept.map == map.spec.map && kept.labels == labels);
            let Some(Kept { value: sum, .. }) = same else {
                kept.push(Kept { map: map.spec.map.clone(), labels, value });
                continue;
            };
            for (sum, more) in sum.chunks_exact_mut(8).zip(value.chunks_exact(8)) {
                sum.copy_from_slice(&number(sum).wrapping_add(number(more)).to_ne_bytes());
            }
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys and values that could not be decoded, each counted once.
#[derive(Debug, Default)]
pub struct Unknown(BTreeSet<String>);

impl Unknown {
    /// Maximum number to remember; more are not counted.
    const MOST: usize = 1024;

    fn note(&mut self, what: String) {
        if self.0.len() < Self::MOST {
            self.0.insert(what);
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

fn bind(map: MapSpec, layouts: &Layouts) -> Result<BoundMap> {
    let layout = layouts.get(&*map.map).context("the object has none of that name")?;
    let place = |label: &Label| match label.side {
        Side::Key => layout.key.field(&label.member),
        Side::Value => layout.value.field(&label.member),
    };
    let labels = map.labels.iter().map(place).collect::<Result<_>>()?;
    let metrics = map.metrics.iter().map(|metric| {
        bind_metric(&metric.kind, &layout.value).with_context(|| format!("metric {}", metric.name))
    });
    let metrics = metrics.collect::<Result<_>>()?;
    Ok(BoundMap { size: layout.value.size, labels, metrics, spec: map })
}

fn bind_metric(kind: &Kind, value: &Layout) -> Result<BoundMetric> {
    Ok(match kind {
        Kind::Counter(member) => BoundMetric::Counter(value.field(member)?),
        Kind::Seconds(member) => BoundMetric::Seconds(value.field(member)?),
        Kind::Gauge(member) => BoundMetric::Gauge(value.field(member)?),
        Kind::Steps(member) => BoundMetric::Steps(value.field(member)?),
        Kind::Tally(member) => {
            BoundMetric::Tally(member.as_ref().map(|member| value.field(member)).transpose()?)
        }
        Kind::Histogram(member, unit) => BoundMetric::Histogram {
            slots: value.field(&format!("{member}.slots"))?,
            sum: value.field(&format!("{member}.sum"))?,
            unit: *unit,
        },
    })
}

impl BoundMap {
    /// Where keys have the id of a cgroup.
    fn cgroup(&self) -> Option<&Field> {
        let mut labels = self.spec.labels.iter().zip(&self.labels);
        let is_cgroup = |label: &Label| matches!(label.decode, Decode::Cgroup) && label.side == Side::Key;
        labels.find_map(|(label, field)| is_cgroup(label).then_some(field))
    }

    /// Whether to leave out an entry because it is all zero: in a sparse map, or the entry that counts
    /// events whose key did not fit. That entry is inserted before there are such events.
    fn is_idle(&self, key: &[u8], value: &[u8]) -> bool {
        let mut labels = self.spec.labels.iter().zip(&self.labels);
        let is_fold = labels.any(|(label, field)| {
            let is_text = matches!(label.decode, Decode::Text) && label.side == Side::Key;
            is_text && is_folded(field.bytes(key))
        });
        (is_fold || self.spec.sparse) && value.iter().all(|byte| *byte == 0)
    }

    /// Adds the samples of an entry to `samples`.
    fn sample(
        &self,
        labels: &Labels,
        value: &[u8],
        schema: Option<Schema>,
        samples: &mut [Vec<Sample>],
        unknown: &mut Unknown,
    ) {
        let metrics = self.metrics.iter().zip(&self.spec.metrics).zip(samples);
        for ((metric, spec), samples) in metrics.filter(|((metric, _), _)| !metric.is_silent(value)) {
            let mut labels = labels.clone();
            spec.labels.iter().for_each(|(name, value)| labels.push(name, value));
            match metric.value(value, schema) {
                Some(value) => samples.push(Sample { labels, value }),
                None => unknown.note(format!("{} {}", spec.name, labels.as_str())),
            }
        }
    }

    fn labels_of(&self, key: &[u8], value: &[u8], decoder: &Decoder, unknown: &mut Unknown) -> Labels {
        let mut labels = Labels::none();
        for (label, field) in self.spec.labels.iter().zip(&self.labels) {
            let bytes = match label.side {
                Side::Key => field.bytes(key),
                Side::Value => field.bytes(value),
            };
            let text = decoder.label(&label.decode, bytes).unwrap_or_else(|instead| {
                unknown.note(format!("{}.{} {bytes:?}", self.spec.map, label.name));
                instead
            });
            labels.push(&label.name, &text);
        }
        labels
    }
}

impl BoundMetric {
    /// Whether this is a tally that does not count the entry.
    fn is_silent(&self, value: &[u8]) -> bool {
        matches!(self, Self::Tally(Some(field)) if field.bytes(value).iter().all(|byte| *byte == 0))
    }

    fn value(&self, value: &[u8], schema: Option<Schema>) -> Option<Value> {
        match self {
            Self::Counter(field) => {
                Some(Value::Integer(numbers(field, value).iter().fold(0, |a, b| a.wrapping_add(*b))))
            }
            Self::Seconds(field) => Some(Value::Nanoseconds(number(field.bytes(value)))),
            Self::Gauge(field) => Some(Value::Integer(number(field.bytes(value)))),
            Self::Tally(field) => Some(Value::Integer(field.is_some().into())),
            Self::Histogram { slots, sum, unit } => {
                let slots = numbers(slots, value);
                let buckets = cumulative(&slots)?;
                let sum = number(sum.bytes(value));
                let native = schema.and_then(|schema| Native::new(&slots, *unit, schema)).map(Box::new);
                Some(Value::Histogram(Box::new(Histogram {
                    scale: Scale::Unit(*unit),
                    buckets,
                    sum,
                    native,
                })))
            }
            Self::Steps(slots) => {
                let (buckets, sum) = steps(&numbers(slots, value));
                let scale = Scale::Unit(Unit::Whole);
                Some(Value::Histogram(Box::new(Histogram { scale, buckets, sum, native: None })))
            }
        }
    }
}

fn numbers(field: &Field, value: &[u8]) -> Vec<u64> {
    field.bytes(value).chunks_exact(field.width).map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::encode::{Format, encode};
    use crate::fixture::Fixture;
    use crate::read::layout::MapLayout;

    /// A map with a counter for each name of 16 bytes and error number.
    fn renderer() -> (Renderer, Fixture) {
        let field = |offset, width, length| Field { offset, width, length, is_signed: false };
        let layout = |size, fields: &[(&str, Field)]| Layout {
            size,
            fields: fields.iter().map(|(name, field)| ((*name).to_owned(), *field)).collect(),
            ..Layout::default()
        };
        let key = layout(24, &[("comm", field(0, 1, 16)), ("errno", field(16, 8, 1))]);
        let value = layout(8, &[("value", field(0, 8, 1))]);
        let layouts = Layouts::from([("m".to_owned(), MapLayout { key, value })]);
        let map =
            MapSpec::new("m").label("process", "comm", Decode::Text).label("errno", "errno", Decode::Errno);
        let spec = Spec::new("x", 1, "what?").map(map.counter("a_total", "value", "A."));
        let renderer = Renderer::new(&spec, &layouts, &BTreeSet::new()).expect("bound");
        (renderer, Fixture::new(layouts))
    }

    /// The output after some scrapes, and the number of undecodable values.
    fn scrapes(n: u32, entries: &[(&[u8], u64, u64)]) -> (String, u64) {
        let (renderer, mut fixture) = renderer();
        for (name, errno, value) in entries {
            let mut key = [&[0; 16][..], &errno.to_ne_bytes()].concat();
            key[..name.len()].copy_from_slice(name);
            fixture.insert("m", key, value.to_ne_bytes().to_vec());
        }
        let (mut text, mut unknown) = (String::new(), Unknown::default());
        for _ in 0..n {
            let mut families = Families::default();
            renderer.render(&fixture, &Rosters::new(), None, &mut families, &mut unknown).expect("rendered");
            text = encode(families, Format::Text);
        }
        (text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"), unknown.count())
    }

    #[test]
    fn names_cut_inside_a_character_are_shown_and_added_up() {
        // The first byte of three, of two different characters.
        let (text, unknown) = scrapes(4, &[(b"batch-jobs-\xe6", 2, 3), (b"batch-jobs-\xe8", 2, 4)]);
        assert_eq!(text, "a_total{process=\"batch-jobs-\u{fffd}\",errno=\"ENOENT\"} 7");
        assert_eq!(unknown, 0);
    }

    #[test]
    fn a_name_that_is_other_has_a_series_beside_what_found_no_room() {
        let (text, _) = scrapes(1, &[(b"\0other", 2, 3), (b"other", 2, 4)]);
        let lines: BTreeSet<&str> = text.lines().collect();
        let [folded, own] = [r"other", r"\\other"];
        let line = |name: &str, n: u32| format!("a_total{{process=\"{name}\",errno=\"ENOENT\"}} {n}");
        assert_eq!(lines, BTreeSet::from([&*line(folded, 3), &*line(own, 4)]));
        // Only the shared entry is hidden while it is zero.
        assert_eq!(scrapes(1, &[(b"\0other", 2, 0), (b"other", 2, 0)]).0, line(own, 0));
    }

    /// Counters of two cgroups that have no path, and so the same labels.
    #[test]
    fn a_counter_goes_on_when_one_of_two_cgroups_of_a_path_is_removed() {
        let field = |offset| Field { offset, width: 8, length: 1, is_signed: false };
        let layout = |name: &str| Layout {
            size: 8,
            fields: [(name.to_owned(), field(0))].into_iter().collect(),
            ..Layout::default()
        };
        let layouts =
            || Layouts::from([("m".to_owned(), MapLayout { key: layout("id"), value: layout("value") })]);
        let map = MapSpec::new("m").sparse().label("cgroup", "id", Decode::Cgroup);
        let spec = Spec::new("x", 1, "what?").map(map.counter("a_total", "value", "A."));
        let renderer = Renderer::new(&spec, &layouts(), &BTreeSet::new()).expect("bound");
        let mut unknown = Unknown::default();
        let of = |n: u64| n.to_ne_bytes().to_vec();
        let mut shown = |fixture: &Fixture| {
            let mut families = Families::default();
            renderer.render(fixture, &Rosters::new(), None, &mut families, &mut unknown).expect("rendered");
            let text = encode(families, Format::Text);
            text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
        };
        let sweep = |fixture: &Fixture, cgroups: Option<&[u64]>| {
            let cgroups = || cgroups.map(|ids| ids.iter().copied().collect());
            let removed = std::cell::RefCell::new(Vec::new());
            let delete = |_: &str, key: &[u8]| {
                removed.borrow_mut().push(number(key));
                Ok(true)
            };
            renderer.sweep(fixture, cgroups, delete, &mut Unknown::default()).expect("swept");
            removed.into_inner()
        };
        let [old, new] = [u64::MAX - 1, u64::MAX - 2];
        let entries = |entries: &[(u64, u64)]| {
            let mut fixture = Fixture::new(layouts());
            entries.iter().for_each(|(id, n)| fixture.insert("m", of(*id), of(*n)));
            fixture
        };
        let fixture = entries(&[(0, 5), (old, 900), (new, 100)]);
        let both = "a_total{cgroup=\"gone\"} 1000";
        assert!(shown(&fixture).contains(both));
        // In a container.
        assert_eq!(sweep(&fixture, None), Vec::<u64>::new());
        assert_eq!(sweep(&fixture, Some(&[1, new])), [old]);
        assert!(shown(&entries(&[(new, 101)])).contains("} 1001"));
        // Of the same labels, and nothing counted.
        assert_eq!(shown(&entries(&[(new, 0)])), "a_total{cgroup=\"gone\"} 900");
        let fixture = entries(&[(new, 102)]);
        assert_eq!(sweep(&fixture, Some(&[1])), [new]);
        assert_eq!(shown(&entries(&[])), "a_total{cgroup=\"gone\"} 1002", "what it had last");
        assert_eq!(shown(&entries(&[])), "");
        assert_eq!(shown(&entries(&[(new, 3)])), "a_total{cgroup=\"gone\"} 3");
    }

    #[test]
    fn values_without_meaning_are_counted_once() {
        let (text, unknown) = scrapes(4, &[(b"a", 4000, 3), (b"a", 2, 1), (b"b", 4000, 1), (b"b", 4001, 1)]);
        assert!(text.contains("a_total{process=\"a\",errno=\"unknown:4000\"} 3"), "{text}");
        assert_eq!(unknown, 2, "4000 and 4001");
    }
}
