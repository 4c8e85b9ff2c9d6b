// SPDX-License-Identifier: MIT OR Apache-2.0
//! The specification of an exporter, as data. A built-in exporter states it in code; one that is
//! loaded at run time may read it from a file.
//!
//! Members have the names of the BPF object's C code. The engine finds their offsets in the
//! object's own BTF, so that no struct is written twice.

use std::borrow::Cow;
use std::collections::BTreeMap;

use caps::Capability;

use crate::exposition::hist::Unit;

pub use headlines::Headline;

/// A string, mostly a static one.
pub type Text = Cow<'static, str>;

/// An exporter.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// NAME of `ebpf-NAME-exporter`, also the `config` label.
    pub name: Text,
    /// TCP port of the default listen address.
    pub port: u16,
    /// The question that the exporter answers, for `--help` and the landing page.
    pub summary: Text,
    /// The kernel module that the probes attach to. The exporter waits until it is loaded.
    pub module: Option<Text>,
    /// Capabilities that the exporter needs at every scrape.
    pub keeps: Vec<Capability>,
    /// Probes to attach.
    pub probes: Vec<Probe>,
    /// Maps to read.
    pub maps: Vec<MapSpec>,
    /// Kernel enumerators to look up for [`crate::kernel::facts::Facts`].
    pub enumerators: Vec<Text>,
    /// Required shape of a program's hook, by program.
    pub shapes: BTreeMap<Text, Shape>,
    /// Programs at hooks that tasks pass with interrupts on, and interrupts too: see [`Spec::interrupted`].
    pub interrupted: Vec<Text>,
    /// Ratios of two counters.
    pub ratios: Vec<Ratio>,
    /// Families that show only their largest series.
    pub tops: Vec<Top>,
    /// Paths of pages for whoever looks for a fault: see [`crate::read::part::Source::page`].
    pub pages: Vec<Text>,
    /// Whether scrapes are not answered in OpenMetrics. It spells some bounds of buckets differently
    /// (`1.0`), which makes other series of them.
    pub without_open_metrics: bool,
    /// Full names of the counters and histograms that together count each event once. Lost events
    /// are compared with their sum.
    pub events: Vec<Text>,
    /// Two to five numbers that answer the question. Whoever shows them computes them of two scrapes.
    pub headlines: Vec<Headline>,
}

/// Ratio of one counter to the sum of two over the last [`crate::read::ratio::WINDOW`], independent
/// of scrape times. Absent if neither counter grew.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// Full name.
    pub name: Text,
    /// One sentence.
    pub help: Text,
    /// The numerator, such as hits.
    pub part: Text,
    /// The counter that is added for the denominator, such as misses.
    pub rest: Text,
}

/// A family whose smaller series are added up under [`crate::read::decode::OTHER`].
#[derive(Clone, Debug)]
pub struct Top {
    /// Full name of a family. All of its series have the same labels.
    pub family: Text,
    /// Number of series that a scrape shows separately.
    pub n: usize,
}

/// A required property of a function or tracepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Number of arguments.
    Arguments(usize),
    /// Whether it returns a value.
    Returns(bool),
    /// The first argument is a pointer to this struct.
    First(Text),
}

/// One source of events, and the programs that can observe it, best first.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Name in `--check` and messages: the kernel's name of the hook.
    pub name: Text,
    /// Candidates; the first that the kernel accepts is used. Each is a set of programs that are
    /// attached together, such as those at the entry and exit of a function.
    pub candidates: Vec<Vec<Text>>,
    /// What the exporter itself must be able to see. For programs, the hook tells this.
    pub view: Option<View>,
    /// What to do if no candidate can be used.
    pub need: Need,
}

/// What may be hidden from a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// Tasks, as iterators walk them.
    Tasks,
    /// Processes, as /proc shows them.
    Processes,
}

/// Whether an exporter can do without a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// The exporter does not start without it.
    Required,
    /// Its metrics are not exported without it.
    Optional {
        /// Maps, or members of their values (`MAP.MEMBER`), that would be wrong without this probe.
        /// Empty if the probe adds something that most machines do not use.
        feeds: Vec<Text>,
    },
    /// For kernels that have this hook. On others, another probe sees the same events.
    WherePresent,
}

/// A map, the labels in its key and the metrics in its value.
#[derive(Clone, Debug)]
pub struct MapSpec {
    /// Name of the map in the object.
    pub map: Text,
    /// Whether `--max-series` sets its size.
    pub bounded: bool,
    /// Whether to leave out entries that are all zero.
    pub sparse: bool,
    /// Whether the exporter supplies the labels of its entries: see [`crate::read::roster`].
    pub named: bool,
    /// Labels of all metrics of the map, from members of the key or the value.
    pub labels: Vec<Label>,
    /// Metrics from members of the value.
    pub metrics: Vec<Metric>,
}

/// A label, and the member that it is decoded from.
#[derive(Clone, Debug)]
pub struct Label {
    /// Label name.
    pub name: Text,
    /// Key or value.
    pub side: Side,
    /// Member of that struct.
    pub member: Text,
    /// How to decode it.
    pub decode: Decode,
}

/// Key or value of a map entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The key.
    Key,
    /// The value. Not for a per-CPU map, whose values are added up.
    Value,
}

/// How to decode the bytes of a member into a label value.
#[derive(Clone, Debug)]
pub enum Decode {
    /// Bytes up to the first NUL.
    Text,
    /// An unsigned number, written in decimal.
    Number,
    /// An unsigned number that indexes these words; others become `unknown:N`.
    Words(Vec<Text>),
    /// The slot of a syscall, see `bpf/syscall.bpf.c`: its name, or `sys_N`.
    Syscall,
    /// The same slot: `native` or `compat`.
    SyscallAbi,
    /// An error number, positive: `ENOENT`.
    Errno,
    /// Like [`Decode::Errno`], with other names for some numbers.
    ErrnoOr(Vec<(u32, Text)>),
    /// A cgroup id, shown as its path.
    Cgroup,
    /// Sixteen bytes: an IPv6 address, or an IPv4-mapped one.
    Address,
}

/// A metric.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Full name, with unit and `_total`.
    pub name: Text,
    /// What one increment means, and when it is not incremented.
    pub help: Text,
    /// Constant labels, in addition to those of the map.
    pub labels: Vec<(Text, Text)>,
    /// Type and origin.
    pub kind: Kind,
}

/// Type of a metric and where in the value it comes from.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A member that only grows; the elements of an array are added up.
    Counter(Text),
    /// A member that only grows, in nanoseconds; shown in seconds.
    Seconds(Text),
    /// A member that holds the current value. Not for a per-CPU map, whose values are added up.
    Gauge(Text),
    /// A gauge: the number of entries in which a member is not zero. Without a member the number is
    /// 0. Then a series to which another map adds starts at 0.
    Tally(Option<Text>),
    /// A member that is a `struct hist`.
    Histogram(Text, Unit),
    /// A histogram of small integers: element N of an array counts the value N; the last element
    /// also counts all larger values.
    Steps(Text),
}

impl Kind {
    /// The member that the metric is read from.
    pub fn member(&self) -> Option<&str> {
        match self {
            Self::Counter(member)
            | Self::Seconds(member)
            | Self::Gauge(member)
            | Self::Histogram(member, _)
            | Self::Steps(member) => Some(member),
            Self::Tally(member) => member.as_deref(),
        }
    }
}

impl Spec {
    /// An exporter without probes or maps.
    pub fn new(name: &'static str, port: u16, summary: &'static str) -> Self {
        Self { name: name.into(), port, summary: summary.into(), ..Self::default() }
    }

    /// Sets the kernel module to wait for, see [`Spec::module`].
    #[must_use]
    pub fn of_module(mut self, module: &'static str) -> Self {
        self.module = Some(module.into());
        self
    }

    /// Adds a capability that is needed at every scrape.
    #[must_use]
    pub fn keep(mut self, capability: Capability) -> Self {
        self.keeps.push(capability);
        self
    }

    /// Adds a required probe. Programs of one candidate are joined by `+`.
    #[must_use]
    pub fn required(self, name: &'static str, programs: &[&'static str]) -> Self {
        self.probe(name, programs, Need::Required)
    }

    /// Adds a probe without which `feeds` are not exported.
    #[must_use]
    pub fn optional(self, name: &'static str, programs: &[&'static str], feeds: &[&'static str]) -> Self {
        self.probe(name, programs, Need::Optional { feeds: texts(feeds) })
    }

    /// Adds a probe for kernels that have it.
    #[must_use]
    pub fn where_present(self, name: &'static str, programs: &[&'static str]) -> Self {
        self.probe(name, programs, Need::WherePresent)
    }

    fn probe(mut self, name: &'static str, candidates: &[&'static str], need: Need) -> Self {
        let candidates = candidates.iter().map(|set| set.split('+').map(Text::from).collect()).collect();
        self.probes.push(Probe { name: name.into(), candidates, view: None, need });
        self
    }

    /// Adds something that the exporter reads without a program and that may be hidden from it.
    #[must_use]
    pub fn sees(mut self, name: &'static str, view: View) -> Self {
        let need = Need::Optional { feeds: Vec::new() };
        self.probes.push(Probe { name: name.into(), candidates: Vec::new(), view: Some(view), need });
        self
    }

    /// Uses `program` only if its hook has that shape.
    #[must_use]
    pub fn shape(mut self, program: &'static str, shape: Shape) -> Self {
        self.shapes.insert(program.into(), shape);
        self
    }

    /// Attaches `programs` several times where the kernel would not run one that the interrupted task is in.
    /// For rare events of which none may be lost: each costs some 100 ns more.
    #[must_use]
    pub fn interrupted(mut self, programs: &[&'static str]) -> Self {
        self.interrupted.extend(programs.iter().map(|program| (*program).into()));
        self
    }

    /// Adds a [`Ratio`].
    #[must_use]
    pub fn ratio(
        mut self,
        name: &'static str,
        part: &'static str,
        rest: &'static str,
        help: &'static str,
    ) -> Self {
        let (name, help, part, rest) = (name.into(), help.into(), part.into(), rest.into());
        self.ratios.push(Ratio { name, help, part, rest });
        self
    }

    /// Shows only the `n` largest series of a family: see [`Top`].
    #[must_use]
    pub fn top(mut self, family: &'static str, n: usize) -> Self {
        self.tops.push(Top { family: family.into(), n });
        self
    }

    /// Sets the families that count each event once, see [`Spec::events`].
    #[must_use]
    pub fn events(mut self, families: &[&'static str]) -> Self {
        self.events.extend(families.iter().map(|&family| Text::from(family)));
        self
    }

    /// Adds numbers that answer the question, see [`Spec::headlines`].
    #[must_use]
    pub fn headlines(mut self, headlines: impl IntoIterator<Item = Headline>) -> Self {
        self.headlines.extend(headlines);
        self
    }

    /// Adds a kernel enumerator to look up.
    #[must_use]
    pub fn enumerator(mut self, name: &'static str) -> Self {
        self.enumerators.push(name.into());
        self
    }

    /// Adds a map.
    #[must_use]
    pub fn map(mut self, map: MapSpec) -> Self {
        self.maps.push(map);
        self
    }
}

impl MapSpec {
    /// A map of fixed size, without labels or metrics.
    pub fn new(map: &'static str) -> Self {
        Self {
            map: map.into(),
            bounded: false,
            sparse: false,
            named: false,
            labels: Vec::new(),
            metrics: Vec::new(),
        }
    }

    /// Leaves out entries that are all zero, as in an array with a slot for every possible value.
    #[must_use]
    pub fn sparse(mut self) -> Self {
        self.sparse = true;
        self
    }

    /// Takes labels from the exporter's [`crate::read::roster`] instead of the key.
    #[must_use]
    pub fn named(mut self) -> Self {
        self.named = true;
        self
    }

    /// Lets `--max-series` set the number of entries.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.bounded = true;
        self
    }

    /// Adds a label from the key.
    #[must_use]
    pub fn label(self, name: &'static str, member: &'static str, decode: Decode) -> Self {
        self.label_from(Side::Key, name, member, decode)
    }

    /// Adds a label from key or value.
    #[must_use]
    pub fn label_from(
        mut self,
        side: Side,
        name: &'static str,
        member: &'static str,
        decode: Decode,
    ) -> Self {
        self.labels.push(Label { name: name.into(), side, member: member.into(), decode });
        self
    }

    /// Adds a counter.
    #[must_use]
    pub fn counter(self, name: &'static str, member: &'static str, help: &'static str) -> Self {
        self.metric(name, help, &[], Kind::Counter(member.into()))
    }

    /// Adds a counter with labels of its own.
    #[must_use]
    pub fn counter_of(
        self,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
        member: &'static str,
        help: &'static str,
    ) -> Self {
        self.metric(name, help, labels, Kind::Counter(member.into()))
    }

    /// Adds a counter of nanoseconds, shown in seconds.
    #[must_use]
    pub fn seconds(self, name: &'static str, member: &'static str, help: &'static str) -> Self {
        self.metric(name, help, &[], Kind::Seconds(member.into()))
    }

    /// Adds a histogram of small whole numbers, see [`Kind::Steps`].
    #[must_use]
    pub fn steps(self, name: &'static str, member: &'static str, help: &'static str) -> Self {
        self.metric(name, help, &[], Kind::Steps(member.into()))
    }

    /// Adds a gauge, see [`Kind::Gauge`].
    #[must_use]
    pub fn gauge(self, name: &'static str, member: &'static str, help: &'static str) -> Self {
        self.gauge_of(name, &[], member, help)
    }

    /// Adds a gauge with labels of its own.
    #[must_use]
    pub fn gauge_of(
        self,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
        member: &'static str,
        help: &'static str,
    ) -> Self {
        self.metric(name, help, labels, Kind::Gauge(member.into()))
    }

    /// Adds a gauge that counts entries, see [`Kind::Tally`].
    #[must_use]
    pub fn tally(self, name: &'static str, nonzero: Option<&'static str>, help: &'static str) -> Self {
        self.metric(name, help, &[], Kind::Tally(nonzero.map(Into::into)))
    }

    /// Adds a histogram.
    #[must_use]
    pub fn histogram(self, name: &'static str, member: &'static str, unit: Unit, help: &'static str) -> Self {
        self.histogram_of(name, &[], member, unit, help)
    }

    /// Adds a histogram with labels of its own.
    #[must_use]
    pub fn histogram_of(
        self,
        name: &'static str,
        labels: &[(&'static str, &'static str)],
        member: &'static str,
        unit: Unit,
        help: &'static str,
    ) -> Self {
        self.metric(name, help, labels, Kind::Histogram(member.into(), unit))
    }

    fn metric(
        mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &'static str)],
        kind: Kind,
    ) -> Self {
        let labels = labels.iter().map(|(name, value)| (Text::from(*name), Text::from(*value))).collect();
        self.metrics.push(Metric { name: name.into(), help: help.into(), labels, kind });
        self
    }
}

impl Decode {
    /// [`Decode::Words`] of static words.
    pub fn words(words: &[&'static str]) -> Self {
        Self::Words(texts(words))
    }
}

fn texts(words: &[&'static str]) -> Vec<Text> {
    words.iter().map(|word| Text::from(*word)).collect()
}
