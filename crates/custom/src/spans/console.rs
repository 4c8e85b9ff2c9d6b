// SPDX-License-Identifier: MIT OR Apache-2.0
//! Spans as lines of JSON on standard output, to see them without a collector.

use std::io::{self, Write};

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::spans::exporter::Resource;
use crate::spans::record::SpanData;

/// Writes one line for each span, and returns how many were written.
pub fn write(spans: &[SpanData], resource: &Resource, out: &mut dyn Write) -> (usize, io::Result<()>) {
    for (written, span) in spans.iter().enumerate() {
        let line = serde_json::to_vec(&Line { span, resource }).map_err(io::Error::from);
        let result = line.and_then(|mut line| {
            line.push(b'\n');
            out.write_all(&line)
        });
        if result.is_err() {
            return (written, result);
        }
    }
    (spans.len(), out.flush())
}

/// A span with the names of fields that the JSON form of the OpenTelemetry protocol has.
struct Line<'a> {
    span: &'a SpanData,
    resource: &'a Resource,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { span, resource } = self;
        let service = if span.service.is_empty() { &resource.service } else { &span.service };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("service", service)?;
        map.serialize_entry("name", &span.name)?;
        map.serialize_entry("traceId", &hex(&span.trace_id))?;
        map.serialize_entry("spanId", &hex(&span.span_id))?;
        if let Some(parent) = span.parent_span_id {
            map.serialize_entry("parentSpanId", &hex(&parent))?;
        }
        // As text: many readers of JSON lose the last digits of such numbers.
        map.serialize_entry("startTimeUnixNano", &span.start_ns.to_string())?;
        map.serialize_entry("endTimeUnixNano", &span.end_ns.to_string())?;
        map.serialize_entry("attributes", &Attributes(&span.attributes))?;
        map.end()
    }
}

/// An object whose members keep their order.
struct Attributes<'a>(&'a [(String, String)]);

impl Serialize for Attributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_one_line_of_json() {
        let span = SpanData {
            trace_id: [0xab; 16],
            span_id: [1; 8],
            parent_span_id: Some([2; 8]),
            start_ns: 1_700_000_000_123_456_789,
            end_ns: u64::MAX,
            name: "a \"b\"\n".to_owned(),
            service: String::new(),
            attributes: vec![("z".to_owned(), "1".to_owned()), ("a".to_owned(), String::new())],
        };
        let other = SpanData { service: "shop".to_owned(), ..SpanData::default() };
        let resource = Resource { service: "from-env".to_owned(), attributes: Vec::new() };
        let mut out = Vec::new();
        let (written, result) = write(&[span, other], &resource, &mut out);
        assert!(written == 2 && result.is_ok());
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"service\":\"from-env\",\"name\":\"a \\\"b\\\"\\n\",\
             \"traceId\":\"abababababababababababababababab\",\"spanId\":\"0101010101010101\",\
             \"parentSpanId\":\"0202020202020202\",\"startTimeUnixNano\":\"1700000000123456789\",\
             \"endTimeUnixNano\":\"18446744073709551615\",\"attributes\":{\"z\":\"1\",\"a\":\"\"}}\n\
             {\"service\":\"shop\",\"name\":\"\",\"traceId\":\"00000000000000000000000000000000\",\
             \"spanId\":\"0000000000000000\",\"startTimeUnixNano\":\"0\",\"endTimeUnixNano\":\"0\",\
             \"attributes\":{}}\n"
        );
    }

    #[test]
    fn a_full_disk_is_an_error_with_the_spans_before_it() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let spans = [SpanData::default(), SpanData::default(), SpanData::default()];
        let resource = Resource { service: String::new(), attributes: Vec::new() };
        let (written, result) = write(&spans, &resource, &mut Full(2));
        assert_eq!((written, result.unwrap_err().kind()), (2, io::ErrorKind::StorageFull));
    }
}
