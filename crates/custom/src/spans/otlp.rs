// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spans as the messages of the OpenTelemetry protocol.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags};

use crate::spans::exporter::Resource;
use crate::spans::record::SpanData;

/// The name that ebpf_exporter gives as the origin of its spans: users' queries may select by it.
const SCOPE: &str = "github.com/cloudflare/ebpf_exporter/v2/tracing";

/// Flag of W3C trace contexts.
const SAMPLED: u32 = 1;

/// The request that sends `spans`: one resource for each service, in the order in which services appear.
pub fn request(spans: Vec<SpanData>, resource: &Resource) -> ExportTraceServiceRequest {
    let mut services: Vec<(String, Vec<Span>)> = Vec::new();
    for mut data in spans {
        let service = std::mem::take(&mut data.service);
        let service = if service.is_empty() { resource.service.clone() } else { service };
        let span = span(data);
        match services.iter_mut().find(|(have, _)| *have == service) {
            Some((_, spans)) => spans.push(span),
            None => services.push((service, vec![span])),
        }
    }
    let of_service = |(service, spans)| {
        let scope = InstrumentationScope { name: SCOPE.to_owned(), ..Default::default() };
        let attributes =
            [("service.name".to_owned(), service)].into_iter().chain(resource.attributes.clone());
        ResourceSpans {
            resource: Some(v1::Resource {
                attributes: attributes.map(attribute).collect(),
                ..Default::default()
            }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..Default::default() }],
            ..Default::default()
        }
    };
    ExportTraceServiceRequest { resource_spans: services.into_iter().map(of_service).collect() }
}

fn span(data: SpanData) -> Span {
    Span {
        trace_id: data.trace_id.to_vec(),
        span_id: data.span_id.to_vec(),
        parent_span_id: data.parent_span_id.map(Vec::from).unwrap_or_default(),
        // It is known whether the parent is remote, and it is not.
        flags: SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32,
        name: data.name,
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: data.start_ns,
        end_time_unix_nano: data.end_ns,
        attributes: data.attributes.into_iter().map(attribute).collect(),
        ..Default::default()
    }
}

fn attribute((key, value): (String, String)) -> KeyValue {
    KeyValue { key, value: Some(AnyValue { value: Some(Value::StringValue(value)) }), ..Default::default() }
}
