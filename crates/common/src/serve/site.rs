// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTTP responses of an exporter.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::write::ZlibEncoder;
use flate2::{Compress, Compression};
use headlines::Page;
use tiny_http::Method;

use crate::exposition::encode::Format;
use crate::exposition::native::Schema;
use crate::exposition::protobuf;
use crate::read::engine::Engine;
use crate::serve::http::{Reply, Request, quality, quality_with};
use crate::serve::page;
use crate::spec::{Spec, Text};

/// Paths and their responses.
#[derive(Debug)]
pub struct Site {
    /// Name, question, path of the metrics and headlines.
    page: Page,
    pages: Vec<Text>,
    without_open_metrics: bool,
    max_requests: usize,
    schema: Schema,
    active: AtomicUsize,
    engine: Arc<Engine>,
}

impl Site {
    /// The site of the exporter that `spec` describes. It answers up to `max_requests` scrapes at the same
    /// time; 0 means no limit. Native histograms are of `schema`.
    pub fn new(
        spec: &Spec,
        telemetry_path: &str,
        max_requests: usize,
        schema: Schema,
        engine: Arc<Engine>,
    ) -> Self {
        Self {
            page: Page {
                exporter: spec.name.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                summary: spec.summary.clone(),
                metrics: telemetry_path.to_owned().into(),
                headlines: spec.headlines.clone(),
            },
            pages: spec.pages.clone(),
            without_open_metrics: spec.without_open_metrics,
            max_requests: if max_requests == 0 { usize::MAX } else { max_requests },
            schema,
            active: AtomicUsize::new(0),
            engine,
        }
    }

    /// The response to a request.
    pub fn answer(&self, request: &Request) -> Reply {
        let known = ["/", "/-/healthy", "/-/ready", headlines::PATH, &self.page.metrics];
        let is_page = self.pages.iter().any(|page| *page == request.path);
        if !known.contains(&request.path.as_str()) && !is_page {
            return Reply::text(404, "not found");
        }
        if !matches!(request.method, Method::Get | Method::Head) {
            let mut reply = Reply::text(405, "only GET and HEAD are allowed");
            reply.say("Allow", "GET, HEAD");
            return reply;
        }
        match request.path.as_str() {
            "/" => zipped(request, page::landing(&self.page)),
            "/-/healthy" => Reply::text(200, "healthy"),
            "/-/ready" => match &self.engine.waiting_for {
                Some(module) => Reply::text(503, &format!("waiting for kernel module {module}")),
                None => Reply::text(200, "ready"),
            },
            headlines::PATH => match self.page.to_json() {
                Ok(json) => Reply::new(200, "application/json", json.into_bytes()),
                Err(error) => Reply::text(500, &format!("{error:#}")),
            },
            path if is_page => match self.engine.page(path) {
                Ok(text) => Reply::text(200, &text),
                Err(error) => Reply::text(500, &format!("{error:#}")),
            },
            _ => self.metrics(request),
        }
    }

    fn metrics(&self, request: &Request) -> Reply {
        let before = self.active.fetch_add(1, Ordering::AcqRel);
        let reply = if before < self.max_requests {
            self.scrape(request)
        } else {
            Reply::text(503, "too many scrapes at the same time; see --web.max-requests")
        };
        self.active.fetch_sub(1, Ordering::AcqRel);
        reply
    }

    fn scrape(&self, request: &Request) -> Reply {
        let accept = request.header("Accept").unwrap_or_default();
        let (content_type, body) = match negotiate(accept, !self.without_open_metrics) {
            Some(format) => (format.content_type(), self.engine.scrape(format).map(String::into_bytes)),
            None => (protobuf::CONTENT_TYPE, self.engine.scrape_protobuf(self.schema)),
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                log::error!("scrape failed: {error:#}");
                return Reply::text(500, &format!("{error:#}"));
            }
        };
        zipped(request, Reply::new(200, content_type, body))
    }
}

/// The reply, compressed if the client accepts that.
pub fn zipped(request: &Request, mut reply: Reply) -> Reply {
    let accepts = request.header("Accept-Encoding").unwrap_or_default();
    let zip = quality(accepts, |item| item == "gzip").is_some_and(|q| q > 0.0);
    if zip && let Ok(body) = gzip(&reply.body) {
        reply.body = body;
        reply.say("Content-Encoding", "gzip");
    }
    reply
}

/// The text format to answer in, or `None` for protobuf: only for a client that names it and prefers it to
/// all text. OpenMetrics if it is offered and the client accepts it and does not prefer plain text.
pub fn negotiate(accept: &str, offers_open_metrics: bool) -> Option<Format> {
    let open = quality(accept, |item| item == "application/openmetrics-text").unwrap_or(0.0);
    let open = if offers_open_metrics { open } else { 0.0 };
    let text = quality(accept, |item| item == "text/plain").unwrap_or(0.0);
    let parameters = [("proto", protobuf::MESSAGE), ("encoding", protobuf::ENCODING)];
    let is_protobuf = |item: &str| item.eq_ignore_ascii_case(protobuf::MEDIA_TYPE);
    let protobuf = quality_with(accept, &parameters, is_protobuf).unwrap_or(0.0);
    if protobuf > open.max(text) {
        return None;
    }
    Some(if open > 0.0 && open >= text { Format::OpenMetrics } else { Format::Text })
}

/// Size of zlib's window, as a power of two: its default.
const WINDOW_BITS: u8 = 15;

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    // flate2's own writer of gzip has a checksum with a table of 16 kB. zlib writes the format too.
    let format = Compress::new_gzip(Compression::fast(), WINDOW_BITS);
    let mut encoder = ZlibEncoder::new_with_compress(Vec::with_capacity(bytes.len() / 8), format);
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use prost::Message;

    use crate::spec::Headline;

    use super::*;
    use crate::exposition::message::MetricFamily;

    fn site() -> Site {
        let spec = Spec::new("test", 1, "does it <work>?");
        Site::new(&spec, "/metrics", 1, Schema::FINEST, Arc::new(Engine::default()))
    }

    fn ask(site: &Site, head: &str) -> Reply {
        site.answer(&Request::parse(head).unwrap_or_else(|_| panic!("{head}")))
    }

    fn header<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
        reply.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_ref())
    }

    #[test]
    fn every_path_has_its_answer() {
        let site = site();
        for (head, status) in [
            ("GET / HTTP/1.1", 200),
            ("HEAD /metrics HTTP/1.1", 200),
            ("GET /metrics?x=y HTTP/1.1", 200),
            ("GET /-/healthy HTTP/1.1", 200),
            ("GET /-/ready HTTP/1.1", 200),
            ("GET /headlines HTTP/1.1", 200),
            ("GET /metrics/ HTTP/1.1", 404),
            ("POST /nothing HTTP/1.1", 404),
            ("POST /metrics HTTP/1.1", 405),
            ("DELETE / HTTP/1.1", 405),
        ] {
            assert_eq!(ask(&site, head).status, status, "{head}");
        }
        assert_eq!(header(&ask(&site, "PUT / HTTP/1.1"), "Allow"), Some("GET, HEAD"));
    }

    #[test]
    fn while_it_waits_for_a_module_it_is_healthy_and_not_ready() {
        let spec = Spec::new("test", 1, "does it work?");
        let engine = Arc::new(Engine::waiting(&spec, "zfs"));
        let site = Site::new(&spec, "/metrics", 1, Schema::FINEST, engine);
        assert_eq!(ask(&site, "GET /-/healthy HTTP/1.1").status, 200);
        let reply = ask(&site, "GET /-/ready HTTP/1.1");
        assert_eq!((reply.status, reply.body), (503, b"waiting for kernel module zfs\n".to_vec()));
        let text = String::from_utf8(ask(&site, "GET /metrics HTTP/1.1").body).expect("text");
        assert!(text.contains("ebpf_exporter_mode{mode=\"waiting\"} 1"), "{text}");
    }

    #[test]
    fn headlines_are_served_to_who_knows_no_spec() {
        let spec = Spec::new("test", 1, "does it work?").headlines([Headline::rate(
            "{value} calls/s",
            "calls_total",
        )
        .or("no calls")]);
        let site = Site::new(&spec, "/m", 1, Schema::FINEST, Arc::new(Engine::default()));
        let reply = ask(&site, "GET /headlines HTTP/1.1");
        assert_eq!(header(&reply, "Content-Type"), Some("application/json"));
        let page = Page::from_json(&String::from_utf8(reply.body).expect("text")).expect("a page");
        assert_eq!((&*page.exporter, &*page.summary, &*page.metrics), ("test", "does it work?", "/m"));
        assert_eq!(page.headlines, spec.headlines);
    }

    #[test]
    fn formats_and_compression_are_negotiated() {
        let site = site();
        let plain = ask(&site, "GET /metrics HTTP/1.1");
        assert_eq!(header(&plain, "Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        assert!(String::from_utf8_lossy(&plain.body).contains("ebpf_exporter_scrapes_total 1\n"));
        let open = ask(&site, "GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text; version=1.0.0");
        assert!(open.body.ends_with(b"# EOF\n"));
        let zipped = ask(&site, "GET /metrics HTTP/1.1\r\naccept-encoding: deflate, gzip;q=0.5");
        assert_eq!(header(&zipped, "Content-Encoding"), Some("gzip"));
        let mut text = String::new();
        GzDecoder::new(zipped.body.as_slice()).read_to_string(&mut text).expect("gzip of text");
        assert!(text.contains("ebpf_exporter_scrapes_total 3\n"));
        let refused = ask(&site, "GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip;q=0");
        assert_eq!(header(&refused, "Content-Encoding"), None);
        let head = format!("GET /metrics HTTP/1.1\r\nAccept-Encoding: gzip\r\nAccept: {PROTOBUF}");
        let zipped = ask(&site, &head);
        assert_eq!(header(&zipped, "Content-Encoding"), Some("gzip"));
        let delimited =
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
        assert_eq!(header(&zipped, "Content-Type"), Some(delimited));
        let mut bytes = Vec::new();
        GzDecoder::new(zipped.body.as_slice()).read_to_end(&mut bytes).expect("gzip of protobuf");
        let mut families = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut rest).expect("a family"));
        }
        let scrapes = families.iter().find(|family| family.name() == "ebpf_exporter_scrapes_total");
        let counter = scrapes.and_then(|family| family.metric[0].counter).expect("a counter");
        assert_eq!(counter.value(), 5.0);
    }

    #[test]
    fn one_scrape_too_many_is_told_so() {
        let site = site();
        site.active.store(1, Ordering::Release);
        assert_eq!(ask(&site, "GET /metrics HTTP/1.1").status, 503);
        site.active.store(0, Ordering::Release);
        assert_eq!(ask(&site, "GET /metrics HTTP/1.1").status, 200);
    }

    #[test]
    fn open_metrics_is_given_to_who_prefers_it() {
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", Format::OpenMetrics),
            ("application/openmetrics-text;q=0.2,text/plain", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
        ] {
            assert_eq!(negotiate(accept, true), Some(format), "{accept}");
            assert_eq!(negotiate(accept, false), Some(Format::Text), "{accept}");
        }
    }

    const PROTOBUF: &str =
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";

    #[test]
    fn protobuf_is_given_to_who_names_and_prefers_it() {
        // What Prometheus 2.42, 2.53 and 3.5 send when native histograms are on, and nobody else's.
        for rest in [
            ",application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ";q=0.5,application/openmetrics-text;version=1.0.0;q=0.4,application/openmetrics-text;\
             version=0.0.1;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            ";q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;\
             escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            "",
            ", */*",
            ";q=0.1,text/plain;q=0",
        ] {
            assert_eq!(negotiate(&format!("{PROTOBUF}{rest}"), true), None, "{rest}");
            assert_eq!(negotiate(&format!("{PROTOBUF}{rest}"), false), None, "{rest}");
        }
        let upper = PROTOBUF.replace("application", "Application").replace("delimited", "\"delimited\"");
        assert_eq!(negotiate(&upper, true), None);
        for (rest, format) in [
            (";q=0", Format::Text),
            (",text/plain", Format::Text),
            (";q=0.2,text/plain;q=0.3", Format::Text),
            (";q=0.2,application/openmetrics-text;q=0.3", Format::OpenMetrics),
        ] {
            assert_eq!(negotiate(&format!("{PROTOBUF}{rest}"), true), Some(format), "{rest}");
        }
        for other in [
            "application/*",
            "application/vnd.google.protobuf",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
            "application/vnd.google.protobuf;proto=io.prometheus.write.v2.Request;encoding=delimited",
            "application/json",
        ] {
            assert_eq!(negotiate(other, true), Some(Format::Text), "{other}");
        }
    }
}
