// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records: counters of perf event arrays and ring buffers, and spans that reach a collector.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use live::exporter::until;
use live::exposition::Exposition;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tiny_http::{Response, Server};

use crate::folder::{Folder, bytes, trigger};

/// Time limit for a request to arrive on an emulated machine.
const LIMIT: Duration = Duration::from_secs(60);

#[live::test(kernel_with("bpf_loop"))]
fn records_of_a_perf_event_array_are_counted_and_forgotten() {
    let folder = Folder::of(&["perf"]);
    let exporter = folder.start(&[]);
    let name = "ebpf_exporter_perf_total";
    let labels = &[("key", "5"), ("kind", "odd")];
    trigger(97, 5);
    until(exporter.port(), "97 records or none", |scrape| {
        // They are forgotten every two seconds, which may be just now.
        scrape.get(name, labels).is_none_or(|count| count <= 97.0)
    });
    trigger(89, 7);
    until(exporter.port(), "all records, in the other metric of the array", |scrape| {
        scrape.get("ebpf_exporter_perf_all_total", &[]) == Some(97.0 + 89.0)
    });
    until(exporter.port(), "what was counted is forgotten", |scrape| scrape.labels(name).is_empty());
    let lost = || {
        exporter
            .scrape()
            .get("ebpf_exporter_lost_events_total", &[("config", "perf"), ("reason", "perf_buffer")])
    };
    assert_eq!(lost(), Some(0.0));
}

#[live::test(kernel_with("bpf_loop"))]
fn records_that_a_perf_event_array_has_no_room_for_are_counted_as_lost() {
    let folder = Folder::of(&["perf"]);
    let exporter = folder.start(&["--custom.perf-pages=1"]);
    // Far more than the pages of all CPUs hold, from within one call.
    trigger(100_000, 5);
    until(exporter.port(), "lost records", |scrape| {
        // The kernel tells of lost records before the next one that it writes.
        trigger(1, 5);
        let lost = &[("config", "perf"), ("reason", "perf_buffer")];
        scrape.get("ebpf_exporter_lost_events_total", lost).is_some_and(|lost| lost > 0.0)
    });
}

#[live::test(kernel_with("bpf_loop"))]
fn several_metrics_of_one_perf_event_array_count_all_records() {
    let folder = Folder::of(&["perf"]);
    let counter = |name: &str| {
        format!(
            "    - {{name: {name}, help: All, map: perf_total, perf_event_array: true,
       labels: [{{name: key, size: 8, decoders: [{{name: uint}}]}}]}}\n"
        )
    };
    let yaml = format!("metrics:\n  counters:\n{}{}", counter("one_total"), counter("other_total"));
    folder.write("perf.yaml", yaml.as_bytes());
    let exporter = folder.start(&[]);
    trigger(97, 5);
    until(exporter.port(), "97 records in both", |scrape| {
        let count = |name: &str| scrape.get(name, &[("key", "5")]);
        count("ebpf_exporter_one_total") == Some(97.0) && count("ebpf_exporter_other_total") == Some(97.0)
    });
}

#[live::test(kernel_with("bpf_loop"))]
fn of_equal_series_of_records_of_two_configs_the_first_is_shown() {
    let folder = Folder::of(&["perf"]);
    for file in ["perf.yaml", "perf.bpf.o"] {
        folder.write(&file.replace("perf", "twin"), &bytes(file));
    }
    let exporter = folder.start(&[]);
    trigger(97, 5);
    until(exporter.port(), "97 records", |scrape| {
        scrape.get("ebpf_exporter_perf_all_total", &[]).is_some_and(|count| count >= 97.0)
    });
    let scrape = exporter.scrape();
    assert_eq!(scrape.get("ebpf_exporter_perf_all_total", &[]), Some(97.0), "not those of both");
    let errors = |config| scrape.get("ebpf_exporter_decoder_errors_total", &[("config", config)]);
    assert_eq!((errors("perf"), errors("twin").is_some_and(|errors| errors > 0.0)), (Some(0.0), true));
}

/// Values of `what` in ring.bpf.c.
const SHORT: u64 = 0;
const OTHER: u64 = 1 << 20;

#[live::test(kernel_with("bpf_loop"))]
fn records_of_a_ring_buffer_are_counted() {
    let folder = Folder::of(&["ring"]);
    let exporter = folder.start(&[]);
    for (records, key) in [(97, 5), (89, 6), (2, 1_000_003)] {
        trigger(records, key);
    }
    trigger(SHORT, 5);
    trigger(OTHER, 0);
    until(exporter.port(), "the last records of both buffers", |scrape| {
        // The short record has all that this metric needs.
        let low = scrape.get("ebpf_exporter_ring_low_total", &[("key", "5")]);
        (low, scrape.get("ebpf_exporter_ring_other_total", &[])) == (Some(98.0), Some(1.0))
    });
    let scrape = exporter.scrape();
    let name = "ebpf_exporter_ring_total";
    for (key, kind, records) in [("5", "odd", 97.0), ("6", "even", 89.0), ("1000003", "odd", 2.0)] {
        let counted = scrape.get(name, &[("key", key), ("kind", kind)]);
        assert_eq!(counted, Some(records), "{key}: {:?}", scrape.labels(name));
    }
    assert_eq!(scrape.labels(name).len(), 3, "a record that is too short is in no series");
    let low = |key: &str| scrape.get("ebpf_exporter_ring_low_total", &[("key", key)]);
    assert_eq!((low("5"), low("6"), low("1000003")), (Some(98.0), Some(89.0), None));
    let config = ("config", "ring");
    assert_eq!(scrape.get("ebpf_exporter_decoder_errors_total", &[config]), Some(1.0));
    let lost = &[config, ("reason", "decode")];
    assert_eq!(scrape.get("ebpf_exporter_lost_events_total", lost), Some(1.0));
    assert_eq!(scrape.get("ebpf_exporter_ring_full_total", &[]), Some(0.0));
}

#[live::test(kernel_with("bpf_loop"))]
fn records_that_a_ring_buffer_has_no_room_for_are_known_to_the_program_only() {
    let folder = Folder::of(&["ring"]);
    let exporter = folder.start(&[]);
    // Far more than the buffer holds, faster than they are read.
    trigger(100_000, 5);
    let full = |scrape: &Exposition| scrape.get("ebpf_exporter_ring_full_total", &[]).unwrap();
    until(exporter.port(), "each record is counted, or was refused", |scrape| {
        scrape.count("ebpf_exporter_ring_total", &[("key", "5")]) + full(scrape) == 100_000.0
    });
    let scrape = exporter.scrape();
    assert!(full(&scrape) > 0.0, "all found room");
    let name = "ebpf_exporter_lost_events_total";
    for reason in ["decode", "too_many_series"] {
        let lost = scrape.get(name, &[("config", "ring"), ("reason", reason)]);
        assert_eq!(lost, Some(0.0), "{:?}", scrape.labels(name));
    }
    assert_eq!(scrape.get(name, &[("config", "ring"), ("reason", "perf_buffer")]), None);
}

#[live::test]
fn a_ring_buffer_that_is_never_empty_holds_up_neither_others_nor_the_end() {
    let folder = Folder::of(&["feedback"]);
    let exporter = folder.start(&[]);
    // The first record; each that is read makes another one.
    trigger(0, 0);
    until(exporter.port(), "a thousand records", |scrape| {
        scrape.count("ebpf_exporter_feedback_total", &[("interface", "unknown")]) > 1000.0
    });
    trigger(1, 0);
    until(exporter.port(), "the record of the other buffer", |scrape| {
        scrape.get("ebpf_exporter_feedback_other_total", &[]) == Some(1.0)
    });
    assert_eq!(exporter.end(rustix::process::Signal::TERM), Some(0));
}

/// Spans that arrive at a collector, with the `service.name` of each.
fn collector() -> (u16, mpsc::Receiver<(String, Span)>) {
    let server = Server::http("127.0.0.1:0").unwrap();
    let port = server.server_addr().to_ip().unwrap().port();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for mut request in server.incoming_requests() {
            assert_eq!(request.url(), "/v1/traces");
            let mut body = Vec::new();
            request.as_reader().read_to_end(&mut body).unwrap();
            let decoded = ExportTraceServiceRequest::decode(&*body).unwrap();
            for resource in decoded.resource_spans {
                let about = resource.resource.unwrap().attributes;
                let service = about.iter().find(|attribute| attribute.key == "service.name");
                let service = text(service.unwrap().value.as_ref().unwrap().value.clone());
                for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                    if sender.send((service.clone(), span)).is_err() {
                        return;
                    }
                }
            }
            request.respond(Response::from_data(Vec::new())).unwrap();
        }
    });
    (port, receiver)
}

fn text(value: Option<any_value::Value>) -> String {
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("{other:?} is no text"),
    }
}

fn attributes(span: &Span) -> BTreeMap<String, String> {
    let pair = |a: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        (a.key.clone(), text(a.value.clone().unwrap().value))
    };
    span.attributes.iter().map(pair).collect()
}

#[live::test]
fn spans_reach_a_collector() {
    let (port, spans) = collector();
    let folder = Folder::of(&["spans"]);
    let endpoint = format!("http://127.0.0.1:{port}");
    let exporter = folder.start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_SERVICE_NAME", "of_the_environment"),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ]);
    let id = 0x3837_3635_3433_3231_u64;
    let before = std::time::SystemTime::now();
    trigger(0, id);
    let (service, whole) = spans.recv_timeout(LIMIT).unwrap();
    assert_eq!((service.as_str(), whole.name.as_str()), ("service_of_the_test", "name"));
    assert_eq!(whole.trace_id, [1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    assert_eq!(whole.span_id, id.to_le_bytes());
    assert_eq!(whole.parent_span_id, 0x2827_2625_2423_2221_u64.to_le_bytes());
    assert_eq!(whole.end_time_unix_nano - whole.start_time_unix_nano, 1_000_003);
    let since = before.duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let late = i128::from(whole.start_time_unix_nano) - since as i128;
    // Both clocks are read one after the other, and the wall clock may be set meanwhile.
    assert!((-1_000_000_000..60_000_000_000).contains(&late), "{late} ns after the trigger");
    let config = ("ebpf_exporter.config".to_owned(), "spans".to_owned());
    assert_eq!(attributes(&whole), [config.clone()].into());
    // Ids of zero are made up, or mean that there is no parent.
    trigger(2, 0);
    let (_, made_up) = spans.recv_timeout(LIMIT).unwrap();
    assert_eq!((&made_up.trace_id, made_up.parent_span_id.len()), (&whole.trace_id, 0));
    assert_ne!(made_up.span_id, [0; 8]);
    // Three that become no spans: no trace, too short, no match. Then one of the other buffer.
    (1..=4).filter(|what| *what != 2).for_each(|what| trigger(what, id));
    trigger(5, 0);
    let (service, plain) = spans.recv_timeout(LIMIT).unwrap();
    assert_eq!((service.as_str(), plain.name.as_str()), ("of_the_environment", "spans_plain"));
    assert_eq!(attributes(&plain), [("answer".to_owned(), "42".to_owned()), config].into());
    assert_ne!((&plain.trace_id, plain.span_id.len()), (&whole.trace_id, 0));
    until(exporter.port(), "two records in error", |scrape| {
        scrape.get("ebpf_exporter_decoder_errors_total", &[("config", "spans")]) == Some(2.0)
    });
    // What is queued is sent before the exit.
    trigger(5, 0);
    assert_eq!(exporter.end(rustix::process::Signal::TERM), Some(0));
    assert_eq!(spans.recv_timeout(LIMIT).unwrap().1.name, "spans_plain");
}
