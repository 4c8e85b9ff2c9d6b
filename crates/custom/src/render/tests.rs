// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows of made-up maps, and what is shown of them.

use common::exposition::encode::{Format, encode};

use common::read::maps::EachCpu;

use super::*;
use crate::config::{Buckets, Decoder, Label, Metric, PREFIX};
use crate::steps::labels::LabelSet;
use crate::steps::world::{Needs, Places, World};

/// A key, and the value of each CPU.
type Row = (Vec<u8>, Vec<Vec<u8>>);

/// The rows of maps.
#[derive(Default)]
struct Made(BTreeMap<String, Vec<Row>>);

impl Made {
    fn row(mut self, map: &str, key: &[u8], values: &[u64]) -> Self {
        let values = values.iter().map(|value| value.to_ne_bytes().to_vec()).collect();
        self.0.entry(map.to_owned()).or_default().push((key.to_vec(), values));
        self
    }
}

impl MapSource for Made {
    fn for_each(&self, map: &str, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        self.for_each_cpu(map, &mut |key, values| values.take(1).for_each(|value| f(key, value)))
    }

    fn for_each_cpu(&self, map: &str, f: &mut EachCpu<'_>) -> Result<()> {
        let rows = self.0.get(map).ok_or_else(|| anyhow::anyhow!("failed to read map `{map}`"))?;
        rows.iter().for_each(|(key, values)| f(key, &mut values.iter().map(Vec::as_slice)));
        Ok(())
    }

    fn fill(&self) -> Result<Vec<Fill>> {
        Ok(Vec::new())
    }
}

fn uint(name: &str, size: u64) -> Label {
    let decoders = vec![Decoder { name: "uint".to_owned(), ..Decoder::default() }];
    Label { name: name.to_owned(), size, decoders, ..Label::default() }
}

/// A metric of a map whose key does not have the label `cpu`.
fn bound(name: &str, labels: &[Label], kind: Kind, is_percpu: bool) -> Bound {
    let of_key = labels.iter().filter(|label| !is_percpu || label.name != "cpu");
    let key_size: u64 = of_key.map(|label| label.size + label.padding).sum();
    bound_to_key(name, labels, kind, key_size, is_percpu)
}

fn bound_to_key(name: &str, labels: &[Label], kind: Kind, key_size: u64, is_percpu: bool) -> Bound {
    let metric = Metric { name: name.to_owned(), labels: labels.to_vec(), ..Metric::default() };
    let world = World::new(&Needs::default(), &Places::default());
    let set = LabelSet::new(labels, &world).expect("right");
    Bound::new(&metric, kind, set, WHOLE, key_size as usize, is_percpu)
}

fn map(name: &str, is_percpu: bool, metrics: Vec<Bound>) -> MapOf {
    MapOf { map: name.to_owned(), is_hash: true, capacity: 10, is_percpu, metrics, max_age: None }
}

fn reading(config: &str, maps: Vec<MapOf>, shared: &Arc<Shared>) -> Reading {
    Reading::new(config, maps, None, Arc::clone(shared))
}

fn lines(families: Families) -> Vec<String> {
    let text = encode(families, Format::Text);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.trim_start_matches(PREFIX).to_owned()).collect()
}

fn read(reading: &mut Reading, made: &Made) -> Vec<String> {
    let mut families = Families::default();
    reading.read(made, &mut families);
    lines(families)
}

/// One metric of a map `m`, read once.
fn once(made: &Made, metric: Bound, is_percpu: bool) -> (Vec<String>, u64) {
    let mut reading = reading("c", vec![map("m", is_percpu, vec![metric])], &Arc::default());
    (read(&mut reading, made), reading.decoder_errors())
}

#[test]
fn rows_with_equal_labels_are_added_up() {
    let made = Made::default().row("m", &[1, 0], &[3]).row("m", &[1, 9], &[4]).row("m", &[2, 0], &[5]);
    let mut label = uint("a", 1);
    label.padding = 1;
    let (shown, errors) = once(&made, bound("x", &[label], Kind::Counter, false), false);
    assert_eq!(shown, ["x{a=\"1\"} 7", "x{a=\"2\"} 5"]);
    assert_eq!(errors, 0);
}

#[test]
fn without_labels_the_key_is_four_zero_bytes() {
    let made = Made::default().row("m", &[0; 4], &[3]);
    assert_eq!(once(&made, bound("x", &[], Kind::Counter, false), false), (vec!["x 3".to_owned()], 0));
    let made = made.row("m", &1u32.to_ne_bytes(), &[4]);
    assert_eq!(once(&made, bound("x", &[], Kind::Gauge, false), false), (vec![], 1));
}

#[test]
fn a_last_label_cpu_takes_the_number_of_the_cpu() {
    let made = Made::default().row("m", &[5, 0, 0, 0], &[3, 4]);
    let labels = [uint("slot", 4), uint("cpu", 2)];
    let (shown, _) = once(&made, bound("x", &labels, Kind::Counter, true), true);
    assert_eq!(shown, ["x{slot=\"5\",cpu=\"0\"} 3", "x{slot=\"5\",cpu=\"1\"} 4"]);
    let (shown, _) = once(&made, bound("x", &labels[..1], Kind::Counter, true), true);
    assert_eq!(shown, ["x{slot=\"5\"} 7"]);
    let zero = Made::default().row("m", &[0; 4], &[3, 4]);
    let (shown, _) = once(&zero, bound("x", &labels[1..], Kind::Counter, true), true);
    assert_eq!(shown, ["x{cpu=\"0\"} 3", "x{cpu=\"1\"} 4"]);
    // The key is not zero.
    assert_eq!(once(&made, bound("x", &labels[1..], Kind::Counter, true), true), (vec![], 1));
}

#[test]
fn histograms_may_have_a_label_cpu_before_or_after_the_bucket() {
    let made = Made::default().row("m", &[0], &[3, 4]).row("m", &[1], &[1, 0]).row("m", &[2], &[50, 60]);
    let kind = || Kind::histogram(&Buckets::Exp2 { min: 0, max: 1 }, 1.0);
    let expected = [
        "h_bucket{cpu=\"0\",le=\"1\"} 3",
        "h_bucket{cpu=\"0\",le=\"2\"} 4",
        "h_bucket{cpu=\"0\",le=\"+Inf\"} 4",
        "h_sum{cpu=\"0\"} 50",
        "h_count{cpu=\"0\"} 4",
        "h_bucket{cpu=\"1\",le=\"1\"} 4",
        "h_bucket{cpu=\"1\",le=\"2\"} 4",
        "h_bucket{cpu=\"1\",le=\"+Inf\"} 4",
        "h_sum{cpu=\"1\"} 60",
        "h_count{cpu=\"1\"} 4",
    ];
    for labels in [[uint("bucket", 1), uint("cpu", 2)], [uint("cpu", 2), uint("bucket", 1)]] {
        assert_eq!(once(&made, bound("h", &labels, kind(), true), true).0, expected);
    }
    let summed = once(&made, bound("h", &[uint("bucket", 1)], kind(), true), true).0;
    assert_eq!(
        summed,
        ["h_bucket{le=\"1\"} 7", "h_bucket{le=\"2\"} 8", "h_bucket{le=\"+Inf\"} 8", "h_sum 110", "h_count 8"]
    );
}

#[test]
fn gauges_of_signed_numbers_go_below_zero() {
    let made = Made::default().row("m", &[1], &[7u64.wrapping_sub(9)]).row("m", &[2], &[0xffff_fffe]);
    let metric = |kind, width, is_signed| {
        let mut metric = bound("x", &[uint("a", 1)], kind, false);
        metric.value = Field { width, is_signed, ..WHOLE };
        once(&made, metric, false).0
    };
    assert_eq!(metric(Kind::Gauge, 8, true), ["x{a=\"1\"} -2", "x{a=\"2\"} 4294967294"]);
    assert_eq!(metric(Kind::Gauge, 4, true), ["x{a=\"1\"} -2", "x{a=\"2\"} -2"]);
    assert_eq!(metric(Kind::Gauge, 8, false), ["x{a=\"1\"} 18446744073709551614", "x{a=\"2\"} 4294967294"]);
    assert_eq!(metric(Kind::Counter, 4, false), ["x{a=\"1\"} 4294967294", "x{a=\"2\"} 4294967294"]);
}

#[test]
fn a_label_cpu_before_the_bucket_may_be_a_member_of_the_key() {
    let made = Made::default().row("m", &[7, 0, 0], &[3, 4]).row("m", &[7, 0, 1], &[1, 0]);
    let kind = Kind::histogram(&Buckets::Exp2 { min: 0, max: 1 }, 1.0);
    let metric = bound_to_key("h", &[uint("cpu", 2), uint("bucket", 1)], kind, 3, true);
    assert_eq!(metric.key_size(), 3);
    let (shown, errors) = once(&made, metric, true);
    assert_eq!(
        shown[..3],
        [
            "h_bucket{cpu=\"7\",le=\"1\"} 7",
            "h_bucket{cpu=\"7\",le=\"2\"} 8",
            "h_bucket{cpu=\"7\",le=\"+Inf\"} 8"
        ]
    );
    assert_eq!(errors, 0);
}

#[test]
fn keys_that_cannot_be_decoded_are_not_all_remembered() {
    let numbers = 0..5000u64;
    let made = numbers.fold(Made::default(), |made, n| made.row("m", &n.to_ne_bytes(), &[1]));
    let raw =
        Label { decoders: vec![Decoder { name: "errno".to_owned(), ..Decoder::default() }], ..uint("a", 8) };
    let mut metric = bound("x", &[raw], Kind::Counter, false);
    made.for_each("m", &mut |key, value| metric.add(key, &[value])).expect("read");
    assert_eq!(metric.wrongs.len(), Wrongs::MOST);
    assert_eq!(once(&made, metric, false), (Vec::new(), Wrongs::MOST as u64));
}

#[test]
fn a_dump_has_a_row_for_each_cpu() {
    let made = Made::default().row("m", &[5], &[3, 4]);
    let dump = |labels: &[Label]| {
        let text = bound("x", labels, Kind::Counter, true).dump("m", &made).expect("read");
        let rows = text.lines().filter(|line| line.starts_with('[')).map(ToOwned::to_owned);
        rows.collect::<Vec<String>>()
    };
    assert_eq!(dump(&[uint("a", 1)]), ["[]byte{0x5} (labels: [5]) -> 3", "[]byte{0x5} (labels: [5]) -> 4"]);
    let cpu = u16::to_ne_bytes(1).map(|byte| format!("0x{byte:x}")).join(", ");
    let rows = dump(&[uint("a", 1), uint("cpu", 2)]);
    assert_eq!(rows[0], "[]byte{0x5, 0x0, 0x0} (labels: [5 0]) -> 3");
    assert_eq!(rows[1], format!("[]byte{{0x5, {cpu}}} (labels: [5 1]) -> 4"));
}

#[test]
fn a_histogram_needs_one_label_for_the_bucket() {
    let kind = || Kind::histogram(&Buckets::Exp2 { min: 0, max: 1 }, 1.0);
    let fault = |labels: &[Label], is_percpu| bound("h", labels, kind(), is_percpu).fault();
    assert!(fault(&[uint("cpu", 2)], true).is_some());
    assert_eq!(fault(&[uint("cpu", 2)], false), None, "there it is the bucket");
    assert_eq!(fault(&[uint("bucket", 1), uint("cpu", 2)], true), None);
    assert_eq!(fault(&[uint("le", 1), uint("cpu", 2)], true), None, "there `le` is the bucket");
    assert!(fault(&[uint("le", 1), uint("cpu", 2)], false).is_some_and(|why| why.contains("`le`")));
}

#[test]
fn a_map_that_cannot_be_read_costs_its_own_metrics_and_is_counted_once() {
    let metrics = || bound("x", &[uint("a", 1)], Kind::Counter, false);
    let maps = vec![map("gone", false, vec![metrics()]), map("m", false, vec![metrics()])];
    let mut reading = reading("c", maps, &Arc::default());
    let made = Made::default().row("m", &[1], &[3]);
    for _ in 0..3 {
        assert_eq!(read(&mut reading, &made), ["x{a=\"1\"} 3"]);
        assert_eq!(reading.decoder_errors(), 1);
    }
    let fills = reading.fill().expect("counted while read");
    assert_eq!(fills, [Fill { map: "m".to_owned(), entries: 1, capacity: 10 }]);
}

#[test]
fn of_equal_series_of_two_configs_the_first_is_shown() {
    let shared = Arc::new(Shared::new([format!("{PREFIX}x")].into()));
    let config = |name| {
        let metric = bound("x", &[uint("a", 1)], Kind::Counter, false);
        reading(name, vec![map("m", false, vec![metric])], &shared)
    };
    let (mut first, mut second) = (config("one"), config("two"));
    let one = Made::default().row("m", &[1], &[3]).row("m", &[2], &[4]);
    let two = Made::default().row("m", &[2], &[5]).row("m", &[3], &[6]);
    for _ in 0..2 {
        let mut families = Families::default();
        first.read(&one, &mut families);
        second.read(&two, &mut families);
        assert_eq!(lines(families), ["x{a=\"1\"} 3", "x{a=\"2\"} 4", "x{a=\"3\"} 6"]);
    }
    assert_eq!((first.decoder_errors(), second.decoder_errors()), (0, 1));
}

#[test]
fn series_are_equal_whatever_the_order_of_their_labels() {
    let shared = Arc::new(Shared::new([format!("{PREFIX}x")].into()));
    let config = |name, labels: &[Label]| {
        reading(name, vec![map("m", false, vec![bound("x", labels, Kind::Counter, false)])], &shared)
    };
    let mut first = config("one", &[uint("a", 1), uint("b", 1)]);
    let mut second = config("two", &[uint("b", 1), uint("a", 1)]);
    let mut families = Families::default();
    first.read(&Made::default().row("m", &[1, 2], &[3]), &mut families);
    second.read(&Made::default().row("m", &[2, 1], &[4]).row("m", &[1, 2], &[5]), &mut families);
    assert_eq!(lines(families), ["x{a=\"1\",b=\"2\"} 3", "x{a=\"2\",b=\"1\"} 5"]);
    assert_eq!(second.decoder_errors(), 1);
}

#[test]
fn values_that_do_not_change_grow_old() {
    let mut ages = Ages::new(Duration::from_secs(10));
    let start = Instant::now();
    let mut look = |seconds, key: &[u8], value: &[u8]| {
        let old = ages.is_old(key, &[value], start + Duration::from_secs(seconds));
        assert_eq!(ages.end(&mut []).len(), usize::from(old));
        old
    };
    assert!(!look(0, b"k", b"1"));
    assert!(!look(9, b"k", b"1"));
    assert!(!look(12, b"k", b"2"), "it changed");
    assert!(!look(21, b"k", b"2"));
    assert!(look(22, b"k", b"2"));
    assert!(!look(23, b"k", b"2"), "a new entry of the same key");
}

/// Looks at the map at these ages in seconds, and returns what is shown and how many keys are to go.
fn grow_old(looks: &[(u64, &Made)], metrics: Vec<Bound>) -> Vec<(Vec<String>, usize)> {
    let mut all = map("m", false, metrics);
    let mut ages = Ages::new(Duration::from_secs(10));
    let start = Instant::now();
    let look = |(seconds, made): &(u64, &Made)| {
        let now = start + Duration::from_secs(*seconds);
        all.metrics.iter_mut().for_each(Bound::begin);
        for (key, values) in &made.0["m"] {
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            if !ages.is_old(key, &values, now) {
                all.metrics.iter_mut().for_each(|metric| metric.add(key, &values));
            }
        }
        let gone = ages.end(&mut all.metrics).len();
        let mut families = Families::default();
        let (shared, mut wrongs) = (Shared::default(), Wrongs::default());
        all.metrics
            .iter_mut()
            .for_each(|metric| metric.end("c", &shared, *seconds, &mut wrongs, &mut families));
        (lines(families), gone)
    };
    looks.iter().map(look).collect()
}

#[test]
fn a_series_of_several_keys_ends_as_a_whole() {
    let first = Made::default().row("m", &[1, 0], &[3]).row("m", &[1, 9], &[4]).row("m", &[2, 0], &[5]);
    let later = Made::default().row("m", &[1, 0], &[3]).row("m", &[1, 9], &[6]).row("m", &[2, 0], &[5]);
    let label = || Label { padding: 1, ..uint("a", 1) };
    let one = bound("x", &[label()], Kind::Counter, false);
    let last = Made::default().row("m", &[1, 0], &[3]).row("m", &[1, 9], &[6]);
    let shown = grow_old(&[(0, &first), (5, &later), (10, &later), (15, &last)], vec![one]);
    assert_eq!(shown[2], (vec!["x{a=\"1\"} 9".to_owned()], 1), "the key that is old counts on");
    assert_eq!(shown[3], (Vec::new(), 2));
}

#[test]
fn the_buckets_of_a_histogram_end_together() {
    let first = Made::default().row("m", &[0], &[3]).row("m", &[1], &[4]);
    let later = Made::default().row("m", &[0], &[8]).row("m", &[1], &[4]);
    let kind = Kind::histogram(&Buckets::Exp2 { min: 0, max: 1 }, 1.0);
    let metric = bound("h", &[uint("bucket", 1)], kind, false);
    let shown = grow_old(&[(0, &first), (9, &later), (11, &later), (19, &later)], vec![metric]);
    assert_eq!((&shown[2].0[4], shown[2].1), (&"h_count 12".to_owned(), 0));
    assert_eq!(shown[3], (Vec::new(), 2));
}

#[test]
fn keys_that_metrics_share_end_when_no_series_of_them_is_left() {
    let first = Made::default().row("m", &[1, 1], &[3]).row("m", &[1, 2], &[4]).row("m", &[3, 2], &[5]);
    let later = Made::default().row("m", &[1, 1], &[9]).row("m", &[1, 2], &[4]).row("m", &[3, 2], &[5]);
    let of_first = bound("x", &[Label { padding: 1, ..uint("a", 1) }], Kind::Counter, false);
    let of_both = bound("y", &[uint("a", 1), uint("b", 1)], Kind::Counter, false);
    let second =
        Label { decoders: vec![Decoder { name: "hex".to_owned(), ..Decoder::default() }], ..uint("b", 2) };
    let all = bound("z", &[second], Kind::Counter, false);
    let shown = grow_old(&[(0, &first), (5, &later), (11, &later)], vec![of_first, of_both, all]);
    // [1, 2] lives on with [1, 1]; [3, 2] shares nothing with them.
    assert_eq!(shown[2].1, 1);
    assert_eq!(shown[2].0.first().map(String::as_str), Some("x{a=\"1\"} 13"));
    assert!(shown[2].0.contains(&"y{a=\"1\",b=\"2\"} 4".to_owned()), "{:?}", shown[2].0);
}
