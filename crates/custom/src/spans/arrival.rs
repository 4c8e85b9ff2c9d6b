// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests with a collector: what was sent arrives, and what cannot arrive is counted.

use std::io::{self, Cursor, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tiny_http::{Header, Request, Response, Server};

use crate::spans::exporter::Settings;
use crate::spans::record::{Clocks, Source, SpanData, record};
use crate::spans::shipper::{Counts, Shipper};

/// More than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// How the collector answers.
enum Answer {
    Status(u16),
    StatusAndRetryAfter(u16, &'static str),
    Refused(i64, &'static str),
    Never,
}

/// A request that arrived.
struct Arrived {
    path: String,
    headers: Vec<(String, String)>,
    body: ExportTraceServiceRequest,
}

impl Arrived {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Names of all spans.
    fn names(&self) -> Vec<&str> {
        let scopes = self.body.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| &scope.spans).map(|span| span.name.as_str()).collect()
    }
}

struct Collector {
    server: Arc<Server>,
    arrived: Receiver<Arrived>,
    address: SocketAddr,
}

impl Collector {
    /// Starts a collector which answers its nth request, from 0, with what `answer` returns.
    fn start(mut answer: impl FnMut(usize) -> Answer + Send + 'static) -> Self {
        let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
        let address = server.server_addr().to_ip().unwrap();
        let (sender, arrived) = mpsc::channel();
        let requests = Arc::clone(&server);
        thread::spawn(move || {
            // A request that is dropped gets an answer.
            let mut held = Vec::new();
            for (number, mut request) in requests.incoming_requests().enumerate() {
                let seen = arrival(&mut request);
                match answer(number) {
                    Answer::Never => held.push(request),
                    Answer::Status(status) => request.respond(Response::empty(status)).unwrap(),
                    Answer::StatusAndRetryAfter(status, after) => {
                        let header = Header::from_bytes("Retry-After", after).unwrap();
                        request.respond(Response::empty(status).with_header(header)).unwrap();
                    }
                    Answer::Refused(rejected_spans, message) => {
                        let error_message = message.to_owned();
                        let partial = ExportTracePartialSuccess { rejected_spans, error_message };
                        let body = ExportTraceServiceResponse { partial_success: Some(partial) };
                        request.respond(Response::from_data(body.encode_to_vec())).unwrap();
                    }
                }
                if sender.send(seen).is_err() {
                    break;
                }
            }
        });
        Self { server, arrived, address }
    }

    fn healthy() -> Self {
        Self::start(|_| Answer::Status(200))
    }

    fn shipper(&self, more: &[(&str, &str)]) -> Shipper {
        shipper(&format!("http://{}", self.address), more)
    }

    /// Waits for the next request.
    fn next(&self) -> Arrived {
        self.arrived.recv_timeout(LONG).unwrap()
    }

    fn assert_no_more(&self) {
        assert!(self.arrived.try_recv().is_err());
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.unblock();
    }
}

fn arrival(request: &mut Request) -> Arrived {
    let pair = |header: &Header| (header.field.as_str().as_str().to_lowercase(), header.value.to_string());
    let headers: Vec<(String, String)> = request.headers().iter().map(pair).collect();
    let mut body = Vec::new();
    request.as_reader().read_to_end(&mut body).unwrap();
    if headers.contains(&("content-encoding".to_owned(), "gzip".to_owned())) {
        let mut plain = Vec::new();
        GzDecoder::new(Cursor::new(body)).read_to_end(&mut plain).unwrap();
        body = plain;
    }
    let body = ExportTraceServiceRequest::decode(&*body).unwrap();
    Arrived { path: request.url().to_owned(), headers, body }
}

/// A shipper with batches that wait until they are full, or the end.
fn shipper(url: &str, more: &[(&str, &str)]) -> Shipper {
    let mut variables = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_BSP_SCHEDULE_DELAY", "86400000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
    ];
    variables.extend(more);
    Shipper::start(settings(&variables)).unwrap()
}

fn settings(variables: &[(&str, &str)]) -> Settings {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Settings::parse(&variables.iter().map(owned).collect()).unwrap()
}

fn named(name: &str) -> SpanData {
    SpanData { name: name.to_owned(), trace_id: [1; 16], span_id: [2; 8], ..SpanData::default() }
}

fn offer(shipper: &Shipper, names: &[&str]) {
    for name in names {
        shipper.offer(named(name));
    }
}

fn attributes(pairs: &[(&str, &str)]) -> Vec<KeyValue> {
    let attribute = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue((*value).to_owned())) }),
        ..Default::default()
    };
    pairs.iter().map(attribute).collect()
}

/// Spans of two services as they come from records.
fn spans() -> Vec<SpanData> {
    let of = |service, labels: &[(&str, &str)]| {
        let source = Source { config: "bio-trace", name: "", service, ringbuf: "bio_spans" };
        let clocks = Clocks { wall_ns: 1_700_000_000_000_000_000, monotonic_ns: 1_000 };
        record(labels, &source, clocks, &mut |bytes| {
            bytes.fill(7);
            Ok(())
        })
        .unwrap()
    };
    vec![
        of(
            "",
            &[
                ("trace_id", "000102030405060708090a0b0c0d0e0f"),
                ("span_id", "1011121314151617"),
                ("parent_span_id", "2021222324252627"),
                ("span_monotonic_timestamp_ns", "900"),
                ("span_duration_ns", "50"),
                ("device", "sda"),
                ("comm", "\u{e9}|\"\n"),
            ],
        ),
        of("shop", &[("span_name", "pay")]),
        of("", &[]),
    ]
}

/// What must arrive of them.
fn expected() -> ExportTraceServiceRequest {
    let resource = |service, spans| ResourceSpans {
        resource: Some(Resource {
            attributes: attributes(&[("service.name", service), ("zone", "a b")]),
            ..Default::default()
        }),
        scope_spans: vec![ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "github.com/cloudflare/ebpf_exporter/v2/tracing".to_owned(),
                ..Default::default()
            }),
            spans,
            ..Default::default()
        }],
        ..Default::default()
    };
    let plain = |name: &str| Span {
        trace_id: vec![7; 16],
        span_id: vec![7; 8],
        flags: 0x101,
        name: name.to_owned(),
        kind: 1,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_000_000_000,
        attributes: attributes(&[("ebpf_exporter.config", "bio-trace")]),
        ..Default::default()
    };
    let full = Span {
        trace_id: (0..16).collect(),
        span_id: (16..24).collect(),
        parent_span_id: (32..40).collect(),
        start_time_unix_nano: 1_699_999_999_999_999_900,
        end_time_unix_nano: 1_699_999_999_999_999_950,
        attributes: attributes(&[
            ("device", "sda"),
            ("comm", "\u{e9}|\"\n"),
            ("ebpf_exporter.config", "bio-trace"),
        ]),
        ..plain("bio_spans")
    };
    ExportTraceServiceRequest {
        resource_spans: vec![
            resource("kernel", vec![full, plain("bio_spans")]),
            resource("shop", vec![plain("pay")]),
        ],
    }
}

#[test]
fn every_field_arrives() {
    for compression in ["none", "gzip"] {
        let collector = Collector::healthy();
        let shipper = collector.shipper(&[
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", compression),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc,x-scope=1"),
            ("OTEL_SERVICE_NAME", "kernel"),
            ("OTEL_RESOURCE_ATTRIBUTES", "zone=a%20b,service.name=x"),
        ]);
        spans().into_iter().for_each(|span| shipper.offer(span));
        let arrived = collector.next();
        assert_eq!(arrived.path, "/v1/traces");
        assert_eq!(arrived.header("content-type"), Some("application/x-protobuf"));
        assert_eq!(arrived.header("content-encoding"), (compression == "gzip").then_some("gzip"));
        assert_eq!(arrived.header("authorization"), Some("Basic abc"));
        assert_eq!(arrived.header("x-scope"), Some("1"));
        assert_eq!(arrived.header("host"), Some(collector.address.to_string().as_str()));
        assert!(arrived.header("user-agent").unwrap().starts_with("ebpf-custom-exporter/"));
        assert_eq!(arrived.body, expected());
        shipper.stop(LONG);
        assert_eq!(shipper.counts(), Counts { sent: 3, ..Counts::default() });
    }
}

#[test]
fn url_for_traces_is_used_as_it_is() {
    let collector = Collector::healthy();
    // By name: no address of it may need getaddrinfo.
    let url = format!("http://localhost:{}/in?key=1", collector.address.port());
    let shipper = collector.shipper(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &url)]);
    shipper.offer(named("one"));
    assert_eq!(collector.next().path, "/in?key=1");
}

#[test]
fn batches_are_sent_when_full_and_the_rest_at_the_end() {
    let collector = Collector::healthy();
    let shipper = collector.shipper(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")]);
    offer(&shipper, &["1", "2", "3"]);
    assert_eq!(collector.next().names(), ["1", "2"]);
    offer(&shipper, &["4", "5"]);
    assert_eq!(collector.next().names(), ["3", "4"]);
    collector.assert_no_more();
    shipper.stop(LONG);
    assert_eq!(collector.next().names(), ["5"]);
    shipper.offer(named("6"));
    assert_eq!(shipper.counts(), Counts { sent: 5, dropped: 1, failed: 0 });
    shipper.stop(LONG);
    collector.assert_no_more();
}

#[test]
fn a_batch_that_is_not_full_is_sent_after_the_delay() {
    let collector = Collector::healthy();
    let shipper =
        collector.shipper(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1000"), ("OTEL_BSP_SCHEDULE_DELAY", "150")]);
    let begin = Instant::now();
    offer(&shipper, &["1", "2"]);
    assert_eq!(collector.next().names(), ["1", "2"]);
    assert!(begin.elapsed() >= Duration::from_millis(150));
}

#[test]
fn full_queue_drops_and_counts_but_never_waits() {
    let collector = Collector::start(|_| Answer::Never);
    let shipper = collector.shipper(&[("OTEL_BSP_MAX_QUEUE_SIZE", "3")]);
    shipper.offer(named("in flight"));
    collector.next();
    for _ in 0..5 {
        shipper.offer(named("queued"));
    }
    assert_eq!(shipper.counts(), Counts { dropped: 2, ..Counts::default() });
    let begin = Instant::now();
    shipper.stop(Duration::from_millis(50));
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(shipper.counts(), Counts { sent: 0, dropped: 2, failed: 4 });
}

#[test]
fn hanging_collector_costs_only_the_spans_of_its_requests() {
    let collector = Collector::start(|number| if number == 0 { Answer::Never } else { Answer::Status(200) });
    let times = [("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"), ("OTEL_BSP_EXPORT_TIMEOUT", "1001")];
    let shipper = collector.shipper(&times);
    offer(&shipper, &["lost", "sent"]);
    assert_eq!(collector.next().names(), ["lost"]);
    assert_eq!(collector.next().names(), ["sent"]);
    shipper.stop(LONG);
    assert_eq!(shipper.counts(), Counts { sent: 1, dropped: 0, failed: 1 });
}

#[test]
fn busy_collector_is_asked_again() {
    for status in [429, 502, 503, 504] {
        let collector = Collector::start(move |number| match number {
            0..3 => Answer::StatusAndRetryAfter(status, "0"),
            _ => Answer::Status(200),
        });
        let shipper = collector.shipper(&[]);
        shipper.offer(named("one"));
        let first = collector.next().body;
        for _ in 0..3 {
            assert_eq!(collector.next().body, first);
        }
        shipper.stop(LONG);
        assert_eq!(shipper.counts(), Counts { sent: 1, ..Counts::default() });
    }
}

#[test]
fn busy_collector_is_asked_five_times_only() {
    let collector = Collector::start(|_| Answer::StatusAndRetryAfter(503, "0"));
    let shipper = collector.shipper(&[]);
    shipper.offer(named("one"));
    for _ in 0..5 {
        collector.next();
    }
    shipper.stop(LONG);
    collector.assert_no_more();
    assert_eq!(shipper.counts(), Counts { failed: 1, ..Counts::default() });
}

#[test]
fn spans_are_lost_that_would_have_to_wait_too_long() {
    for after in ["3600", "18446744073709551615"] {
        let collector = Collector::start(move |number| match number {
            0 => Answer::StatusAndRetryAfter(503, after),
            _ => Answer::Status(200),
        });
        let shipper = collector.shipper(&[]);
        offer(&shipper, &["lost", "sent"]);
        assert_eq!(collector.next().names(), ["lost"]);
        assert_eq!(collector.next().names(), ["sent"]);
        shipper.stop(Duration::MAX);
        assert_eq!(shipper.counts(), Counts { sent: 1, dropped: 0, failed: 1 });
    }
}

#[test]
fn end_cuts_a_pause_short() {
    let collector = Collector::start(|number| match number {
        0 => Answer::StatusAndRetryAfter(503, "20"),
        _ => Answer::Status(200),
    });
    let shipper = collector.shipper(&[]);
    shipper.offer(named("one"));
    collector.next();
    let begin = Instant::now();
    shipper.stop(Duration::from_secs(15));
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(shipper.counts(), Counts { sent: 1, ..Counts::default() });
}

#[test]
fn refused_spans_are_not_sent_again() {
    for status in [302, 400, 401, 404, 413, 500, 501] {
        let collector = Collector::start(move |_| Answer::Status(status));
        let shipper = collector.shipper(&[]);
        shipper.offer(named("one"));
        shipper.stop(LONG);
        collector.next();
        collector.assert_no_more();
        assert_eq!(shipper.counts(), Counts { failed: 1, ..Counts::default() }, "{status}");
    }
}

#[test]
fn partly_refused_batch_counts_what_was_refused() {
    for (refused, sent, failed) in [(1, 2, 1), (0, 3, 0), (-1, 3, 0), (i64::MAX, 0, 3)] {
        let collector = Collector::start(move |_| Answer::Refused(refused, "too old"));
        let shipper = collector.shipper(&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3")]);
        spans().into_iter().for_each(|span| shipper.offer(span));
        shipper.stop(LONG);
        assert_eq!(shipper.counts(), Counts { sent, dropped: 0, failed }, "{refused}");
    }
}

#[test]
fn without_a_collector_the_end_comes_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let shipper = shipper(&url, &[("OTEL_BSP_EXPORT_TIMEOUT", "100")]);
    offer(&shipper, &["1", "2"]);
    shipper.stop(LONG);
    assert_eq!(shipper.counts(), Counts { failed: 2, ..Counts::default() });
}

#[test]
fn what_is_no_http_is_a_failure() {
    for answer in ["", "220 mail.example ESMTP\r\n", "HTTP/1.1 200 OK\r\nContent-Le", "\0\0\0"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || -> io::Result<()> {
            loop {
                let (mut stream, _) = listener.accept()?;
                // The whole request, or closing would reset the connection before the answer is read.
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer)?;
                stream.write_all(answer.as_bytes())?;
            }
        });
        let shipper = shipper(&url, &[("OTEL_BSP_EXPORT_TIMEOUT", "100")]);
        shipper.offer(named("one"));
        shipper.stop(LONG);
        assert_eq!(shipper.counts(), Counts { failed: 1, ..Counts::default() }, "{answer:?}");
    }
}

#[test]
fn unknown_host_is_an_error_at_the_start() {
    let settings = settings(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://no-such-host.invalid:4318")]);
    let error = Shipper::start(settings).unwrap_err().to_string();
    assert!(error.contains("\"no-such-host.invalid\"") && error.contains("/etc/hosts"), "{error}");
}

#[test]
fn spans_that_go_nowhere_are_not_counted() {
    for variables in [&[][..], &[("OTEL_TRACES_EXPORTER", "none")]] {
        let shipper = Shipper::start(settings(variables)).unwrap();
        shipper.offer(named("one"));
        shipper.stop(LONG);
        assert_eq!(shipper.counts(), Counts::default());
    }
}
