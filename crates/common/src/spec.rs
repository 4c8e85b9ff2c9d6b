// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an exporter is, as data: a built-in one states it in code, one that is
//! loaded at run time may read it from a file.
//!
//! Members are named as in the BPF object's C: the engine finds their offsets in
//! the object's own BTF, so that no struct is written twice.

use std::borrow::Cow;
use std::collections::BTreeMap;

use caps::Capability;

use crate::exposition::hist::Unit;

/// Text that is mostly known when compiling.
pub type Text = Cow<'static, str>;

/// An exporter.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// NAME of `ebpf-NAME-exporter`, also the `config` label.
    pub name: Text,
    /// TCP port of the default listen address.
    pub port: u16,
    /// The question it answers, for `--help` and the landing page.
    pub summary: Text,
    /// The kernel module without which there is nothing to attach to: the exporter waits
    /// for it.
    pub module: Option<Text>,
    /// Capabilities that it needs for as long as it runs.
    pub keeps: Vec<Capability>,
    /// What is attached.
    pub probes: Vec<Probe>,
    /// What is read.
    pub maps: Vec<MapSpec>,
    /// Kernel enumerators whose values [`crate::kernel::facts::Facts`] shall hold.
    pub enumerators: Vec<Text>,
    /// What a program's hook must be like for the program to fit, by program.
    pub shapes: BTreeMap<Text, Shape>,
    /// Gauges made of two counters.
    pub ratios: Vec<Ratio>,
    /// Families of which only the greatest series are shown.
    pub tops: Vec<Top>,
    /// Counters and histograms, full names, that have each event once: what lost ones are
    /// compared with.
    pub events: Vec<Text>,
}

/// A gauge: the share of one counter in the sum of two, over the last
/// [`crate::read::ratio::WINDOW`] whoever scrapes; absent when neither grew.
#[derive(Clone, Debug)]
pub struct Ratio {
    /// Full name.
    pub name: Text,
    /// One sentence.
    pub help: Text,
    /// The counter whose share it is, such as hits.
    pub part: Text,
    /// The other counter, such as misses.
    pub rest: Text,
}

/// A family whose small series are added up under [`crate::read::decode::OTHER`].
#[derive(Clone, Debug)]
pub struct Top {
    /// Full name of a family with one label.
    pub family: Text,
    /// How many series of each scrape have a place of their own.
    pub n: usize,
}

/// A demand on a function or tracepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It has so many arguments.
    Arguments(usize),
    /// It returns something, or nothing.
    Returns(bool),
    /// Its first argument is a pointer to that struct.
    First(Text),
}

/// One question to the kernel, and the programs that can ask it, best first.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Name in `--check` and messages: the kernel's name of the hook.
    pub name: Text,
    /// Candidates; the first that the kernel takes is used. Each is a set of programs
    /// that are attached together, such as those at a function's entry and exit.
    pub candidates: Vec<Vec<Text>>,
    /// What the exporter itself has to be let see; programs' hooks say that by themselves.
    pub view: Option<View>,
    /// What it means when none can be used.
    pub need: Need,
}

/// What of a machine may be hidden from a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// Tasks, over which iterators walk.
    Tasks,
    /// Processes, as /proc shows them.
    Processes,
}

/// What the lack of a probe means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing true can be said without it: the exporter does not start.
    Required,
    /// What the probe feeds is not exported; the rest is.
    Optional {
        /// Maps that would be wrong without this probe, or members of their values
        /// (`MAP.MEMBER`); none when it adds what most do not use.
        feeds: Vec<Text>,
    },
    /// For kernels that have it; others do the same in another way, which is seen anyway.
    WherePresent,
}

/// A map, the labels in its key and the metrics in its value.
#[derive(Clone, Debug)]
pub struct MapSpec {
    /// Name of the map in the object.
    pub map: Text,
    /// Whether `--max-series` sets its size.
    pub bounded: bool,
    /// Whether entries that are zero throughout are left out.
    pub sparse: bool,
    /// Whether the exporter knows who its entries are: see [`crate::read::roster`].
    pub named: bool,
    /// Labels of every metric below, from members of the key.
    pub labels: Vec<Label>,
    /// Metrics from members of the value.
    pub metrics: Vec<Metric>,
}

/// A label and where in the key it comes from.
#[derive(Clone, Debug)]
pub struct Label {
    /// Label name.
    pub name: Text,
    /// Where it is.
    pub side: Side,
    /// Member of that struct.
    pub member: Text,
    /// How its bytes become a value.
    pub decode: Decode,
}

/// A half of a map's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The key.
    Key,
    /// The value; not of a per-CPU map, whose values are added up.
    Value,
}

/// How the bytes of a member become a label value.
#[derive(Clone, Debug)]
pub enum Decode {
    /// Bytes up to the first NUL.
    Text,
    /// An unsigned number, written in decimal.
    Number,
    /// An unsigned number that indexes these words; others become `unknown:N`.
    Words(Vec<Text>),
    /// A system call's slot, see `bpf/syscall.bpf.h`: its name, or `sys_N`.
    Syscall,
    /// The same slot: `native` or `compat`.
    SyscallAbi,
    /// An error number, positive: `ENOENT`.
    Errno,
    /// As [`Decode::Errno`], with other names for some.
    ErrnoOr(Vec<(u32, Text)>),
    /// The id of a control group: its path.
    Cgroup,
    /// Sixteen bytes: an IPv6 address, or an IPv4 one mapped into it.
    Address,
}

/// A metric.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Full name, with unit and `_total`.
    pub name: Text,
    /// One sentence: what is counted, and what is not.
    pub help: Text,
    /// Labels that are the same in every series, beside those of the map.
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
    /// A member that is what it is now; not of a per-CPU map, whose values are added up.
    Gauge(Text),
    /// A gauge: how many entries have a member other than zero. Without a member none
    /// do, which makes a series that another map adds to start at 0.
    Tally(Option<Text>),
    /// A member that is a `struct hist`.
    Histogram(Text, Unit),
    /// A histogram of small whole numbers: element N of an array counts the value N, the
    /// last one also all that is greater.
    Steps(Text),
}

impl Kind {
    /// The member of the value that it is made of.
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

    /// Waits for a kernel module, see [`Spec::module`].
    #[must_use]
    pub fn of_module(mut self, module: &'static str) -> Self {
        self.module = Some(module.into());
        self
    }

    /// Keeps a capability that is needed at every scrape.
    #[must_use]
    pub fn keep(mut self, capability: Capability) -> Self {
        self.keeps.push(capability);
        self
    }

    /// Adds a probe that must be there. Programs of one candidate are joined by `+`.
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

    /// Adds something that the exporter looks at without a program, and that may be hidden from it.
    #[must_use]
    pub fn sees(mut self, name: &'static str, view: View) -> Self {
        let need = Need::Optional { feeds: Vec::new() };
        self.probes.push(Probe { name: name.into(), candidates: Vec::new(), view: Some(view), need });
        self
    }

    /// Lets `program` be used only where its hook has that shape.
    #[must_use]
    pub fn shape(mut self, program: &'static str, shape: Shape) -> Self {
        self.shapes.insert(program.into(), shape);
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

    /// Shows only the `n` greatest series of a family: see [`Top`].
    #[must_use]
    pub fn top(mut self, family: &'static str, n: usize) -> Self {
        self.tops.push(Top { family: family.into(), n });
        self
    }

    /// Names the families that have each event once, see [`Spec::events`].
    #[must_use]
    pub fn events(mut self, families: &[&'static str]) -> Self {
        self.events.extend(families.iter().map(|&family| Text::from(family)));
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

    /// Leaves out entries that are zero throughout, as of an array with a place for
    /// everything that could be.
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
    /// [`Decode::Words`] of words known when compiling.
    pub fn words(words: &[&'static str]) -> Self {
        Self::Words(texts(words))
    }
}

fn texts(words: &[&'static str]) -> Vec<Text> {
    words.iter().map(|word| Text::from(*word)).collect()
}
