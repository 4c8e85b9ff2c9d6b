// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the decoded labels of a ring buffer's record to a span.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// The attribute that names the config a span comes from.
const CONFIG: &str = "ebpf_exporter.config";

/// How often random bytes may be all zero, which is no valid id, before the source counts as broken.
const DRAWS: usize = 8;

/// A span that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanData {
    /// The trace it belongs to.
    pub trace_id: [u8; 16],
    /// Its own id.
    pub span_id: [u8; 8],
    /// The span that caused it.
    pub parent_span_id: Option<[u8; 8]>,
    /// Start, in nanoseconds since 1970.
    pub start_ns: u64,
    /// End, in nanoseconds since 1970.
    pub end_ns: u64,
    /// Name.
    pub name: String,
    /// `service.name`; empty: from the environment.
    pub service: String,
    /// Names and values, each name once.
    pub attributes: Vec<(String, String)>,
}

/// What the config says about the spans of a ring buffer.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Name of the config.
    pub config: &'a str,
    /// Name of the spans; empty: the ring buffer's.
    pub name: &'a str,
    /// `service.name`; empty: from the environment.
    pub service: &'a str,
    /// Name of the map.
    pub ringbuf: &'a str,
}

/// Two clocks, read at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// Nanoseconds since 1970.
    pub wall_ns: u64,
    /// `CLOCK_MONOTONIC`, which is what `bpf_ktime_get_ns` reads, in nanoseconds.
    pub monotonic_ns: u64,
}

impl Clocks {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self {
            wall_ns: nanoseconds(clock_gettime(ClockId::Realtime)),
            monotonic_ns: nanoseconds(clock_gettime(ClockId::Monotonic)),
        }
    }

    /// The wall clock at a time of the monotonic clock.
    fn wall_at(self, monotonic_ns: u64) -> u64 {
        let wall = i128::from(self.wall_ns) + i128::from(monotonic_ns) - i128::from(self.monotonic_ns);
        u64::try_from(wall.max(0)).unwrap_or(u64::MAX)
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default())
}

/// Fills a buffer from the kernel's source of random bytes, for [`record`].
///
/// # Errors
/// When the kernel has no such source.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The span that a record describes. `labels` are names and decoded values in the order of the config;
/// `random` fills a buffer with random bytes.
///
/// # Errors
/// When a value is not of the form that its label must have. The text names the label and the value.
pub fn record(
    labels: &[(&str, &str)],
    source: &Source<'_>,
    clocks: Clocks,
    random: &mut dyn FnMut(&mut [u8]) -> io::Result<()>,
) -> Result<SpanData, String> {
    let mut trace_id = None;
    let mut span_id = None;
    let mut parent_span_id = None;
    let mut start_ns = clocks.wall_ns;
    let mut duration_ns = 0;
    let mut name = if source.name.is_empty() { source.ringbuf } else { source.name };
    let mut attributes = Vec::with_capacity(labels.len() + 1);
    for (label, value) in labels.iter().copied() {
        match label {
            "trace_id" => {
                let id = id::<16>(label, value)?;
                trace_id = Some(id.ok_or_else(|| {
                    format!("{label} is all zeros: set it, or leave the label out for random ids")
                })?);
            }
            "span_id" => span_id = id(label, value)?.or(span_id),
            "parent_span_id" => parent_span_id = id(label, value)?.or(parent_span_id),
            "span_monotonic_timestamp_ns" => start_ns = clocks.wall_at(decimal(label, value)?),
            "span_duration_ns" => duration_ns = decimal(label, value)?,
            "span_name" => name = value,
            _ => set(&mut attributes, label, value),
        }
    }
    set(&mut attributes, CONFIG, source.config);
    // ebpf_exporter does not use a span id without a trace id either.
    let (trace_id, span_id) = match (trace_id, span_id) {
        (Some(trace), Some(span)) => (trace, span),
        (Some(trace), None) => (trace, draw(random)?),
        (None, _) => (draw(random)?, draw(random)?),
    };
    Ok(SpanData {
        trace_id,
        span_id,
        parent_span_id,
        start_ns,
        end_ns: start_ns.saturating_add(duration_ns),
        name: name.to_owned(),
        service: source.service.to_owned(),
        attributes,
    })
}

/// Sets an attribute. OpenTelemetry allows each name once: the last value is kept.
fn set(attributes: &mut Vec<(String, String)>, name: &str, value: &str) {
    match attributes.iter_mut().find(|(have, _)| have == name) {
        Some((_, have)) => value.clone_into(have),
        None => attributes.push((name.to_owned(), value.to_owned())),
    }
}

/// Reads an id of `N` bytes. All zeros is no id.
fn id<const N: usize>(label: &str, value: &str) -> Result<Option<[u8; N]>, String> {
    let wrong = || {
        let digits = 2 * N;
        format!("{label} {value:?} must be {digits} lower-case hex digits: use size {N} and decoder `hex`")
    };
    let digits = value.as_bytes();
    if digits.len() != 2 * N {
        return Err(wrong());
    }
    let mut id = [0; N];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let nibble = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return Err(wrong()),
            };
            *byte = *byte << 4 | nibble;
        }
    }
    Ok((id != [0; N]).then_some(id))
}

/// Reads a decimal number without a sign.
fn decimal(label: &str, value: &str) -> Result<u64, String> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or_else(|| {
        format!("{label} {value:?} must be a decimal number below 2^64: use size 8 and decoder `uint`")
    })
}

/// A random id.
fn draw<const N: usize>(random: &mut dyn FnMut(&mut [u8]) -> io::Result<()>) -> Result<[u8; N], String> {
    let mut id = [0; N];
    for _ in 0..DRAWS {
        random(&mut id).map_err(|error| format!("failed to make a random id: {error}"))?;
        if id != [0; N] {
            return Ok(id);
        }
    }
    Err("failed to make a random id: the source returns only zeros".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0123456789abcdef0000000000000001";
    const SPAN: &str = "00000000000000ab";
    const SOURCE: Source<'_> = Source { config: "exec-trace", name: "exec", service: "shop", ringbuf: "rb" };
    const CLOCKS: Clocks = Clocks { wall_ns: 1_000_000, monotonic_ns: 5_000 };

    /// Fills with 1, then 2 and so on.
    fn counting() -> impl FnMut(&mut [u8]) -> io::Result<()> {
        let mut calls = 0;
        move |bytes| {
            calls += 1;
            bytes.fill(calls);
            Ok(())
        }
    }

    fn made(labels: &[(&str, &str)]) -> Result<SpanData, String> {
        record(labels, &SOURCE, CLOCKS, &mut counting())
    }

    fn plain() -> SpanData {
        SpanData {
            trace_id: [1; 16],
            span_id: [2; 8],
            parent_span_id: None,
            start_ns: 1_000_000,
            end_ns: 1_000_000,
            name: "exec".to_owned(),
            service: "shop".to_owned(),
            attributes: vec![("ebpf_exporter.config".to_owned(), "exec-trace".to_owned())],
        }
    }

    /// What a span without reserved labels has, except where the reserved labels say otherwise.
    #[test]
    fn each_reserved_label_sets_its_field() {
        let trace = [1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 0, 0, 0, 0, 0, 0, 1];
        let span = [0, 0, 0, 0, 0, 0, 0, 0xab];
        let zeros = "0000000000000000";
        let cases: &[(&[(&str, &str)], SpanData)] = &[
            (&[], plain()),
            (&[("trace_id", TRACE)], SpanData { trace_id: trace, span_id: [1; 8], ..plain() }),
            (
                &[("trace_id", TRACE), ("span_id", SPAN)],
                SpanData { trace_id: trace, span_id: span, ..plain() },
            ),
            (
                &[("trace_id", TRACE), ("span_id", zeros)],
                SpanData { trace_id: trace, span_id: [1; 8], ..plain() },
            ),
            // Without a trace id the span's id is random too.
            (&[("span_id", SPAN)], plain()),
            (&[("parent_span_id", SPAN)], SpanData { parent_span_id: Some(span), ..plain() }),
            (&[("parent_span_id", zeros)], plain()),
            (
                &[("parent_span_id", SPAN), ("parent_span_id", zeros)],
                SpanData { parent_span_id: Some(span), ..plain() },
            ),
            (&[("span_name", "wait")], SpanData { name: "wait".to_owned(), ..plain() }),
            (&[("span_name", "")], SpanData { name: String::new(), ..plain() }),
            (
                &[("span_monotonic_timestamp_ns", "4000")],
                SpanData { start_ns: 999_000, end_ns: 999_000, ..plain() },
            ),
            // A later time than now, which another CPU's clock may give.
            (
                &[("span_monotonic_timestamp_ns", "0005010")],
                SpanData { start_ns: 1_000_010, end_ns: 1_000_010, ..plain() },
            ),
            (&[("span_duration_ns", "0")], plain()),
            (
                &[("span_duration_ns", "70"), ("span_monotonic_timestamp_ns", "5000")],
                SpanData { end_ns: 1_000_070, ..plain() },
            ),
            (&[("span_duration_ns", "18446744073709551615")], SpanData { end_ns: u64::MAX, ..plain() }),
            (
                &[("span_monotonic_timestamp_ns", "18446744073709551615")],
                SpanData { start_ns: u64::MAX, end_ns: u64::MAX, ..plain() },
            ),
        ];
        for (labels, expected) in cases {
            assert_eq!(made(labels).as_ref(), Ok(expected), "{labels:?}");
        }
    }

    #[test]
    fn time_before_1970_is_1970() {
        let clocks = Clocks { wall_ns: 10, monotonic_ns: 50 };
        let labels = [("span_monotonic_timestamp_ns", "20")];
        let span = record(&labels, &SOURCE, clocks, &mut counting()).unwrap();
        assert_eq!((span.start_ns, span.end_ns), (0, 0));
    }

    #[test]
    fn wrong_values_name_their_label() {
        let trace = "must be 32 lower-case hex digits: use size 16 and decoder `hex`";
        let id = "must be 16 lower-case hex digits: use size 8 and decoder `hex`";
        let number = "must be a decimal number below 2^64: use size 8 and decoder `uint`";
        let cases = [
            ("trace_id", "0123456789ABCDEF0000000000000001", trace),
            ("trace_id", "1", trace),
            ("trace_id", "", trace),
            ("trace_id", "0123456789abcdef000000000000000100", trace),
            ("trace_id", "0123456789abcdef00000000000000\u{e9}", trace),
            ("span_id", "00000000000000AB", id),
            ("span_id", "00ab", id),
            ("span_id", "000000000000000g", id),
            ("parent_span_id", "", id),
            ("parent_span_id", "0000000000000000ab", id),
            ("span_monotonic_timestamp_ns", "", number),
            ("span_monotonic_timestamp_ns", "+1", number),
            ("span_monotonic_timestamp_ns", "-1", number),
            ("span_monotonic_timestamp_ns", "0x10", number),
            ("span_duration_ns", "1.5", number),
            ("span_duration_ns", "18446744073709551616", number),
        ];
        for (label, value, rest) in cases {
            assert_eq!(made(&[(label, value)]), Err(format!("{label} {value:?} {rest}")));
        }
        let zeros = made(&[("trace_id", "00000000000000000000000000000000")]);
        assert_eq!(
            zeros,
            Err("trace_id is all zeros: set it, or leave the label out for random ids".to_owned())
        );
    }

    #[test]
    fn other_labels_are_attributes_in_order() {
        let labels = [("pid", "7"), ("span_name", "x"), ("comm", "a|\"b\""), ("empty", ""), ("pid", "8")];
        let expected =
            [("pid", "8"), ("comm", "a|\"b\""), ("empty", ""), ("ebpf_exporter.config", "exec-trace")];
        assert_eq!(
            made(&labels).unwrap().attributes,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        let config = made(&[("ebpf_exporter.config", "mine"), ("a", "b")]).unwrap();
        assert_eq!(config.attributes[0], ("ebpf_exporter.config".to_owned(), "exec-trace".to_owned()));
        assert_eq!(config.attributes.len(), 2);
    }

    #[test]
    fn name_of_the_ring_buffer_is_the_last_choice() {
        let source = Source { name: "", service: "", ..SOURCE };
        let span = record(&[], &source, CLOCKS, &mut counting()).unwrap();
        assert_eq!((span.name.as_str(), span.service.as_str()), ("rb", ""));
    }

    #[test]
    fn zeros_are_drawn_again_but_not_for_ever() {
        let mut calls = 0;
        let mut second = |bytes: &mut [u8]| {
            calls += 1;
            bytes.fill(calls / 2);
            Ok(())
        };
        let span = record(&[], &SOURCE, CLOCKS, &mut second).unwrap();
        assert_eq!((span.trace_id, span.span_id), ([1; 16], [1; 8]));
        let only = record(&[], &SOURCE, CLOCKS, &mut |_| Ok(()));
        assert_eq!(only, Err("failed to make a random id: the source returns only zeros".to_owned()));
        let broken = record(&[], &SOURCE, CLOCKS, &mut |_| Err(io::Error::other("no source")));
        assert_eq!(broken, Err("failed to make a random id: no source".to_owned()));
    }

    #[test]
    fn kernel_gives_random_ids_and_both_clocks() {
        let clocks = Clocks::now();
        // 2020-01-01.
        assert!(clocks.wall_ns > 1_577_836_800_000_000_000 && clocks.monotonic_ns > 0);
        let one = record(&[], &SOURCE, clocks, &mut random).unwrap();
        let other = record(&[], &SOURCE, clocks, &mut random).unwrap();
        assert_ne!(one.trace_id, other.trace_id);
        assert_ne!(one.span_id, other.span_id);
    }
}
