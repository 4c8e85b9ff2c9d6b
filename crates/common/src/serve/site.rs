// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTTP responses of an exporter.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use tiny_http::Method;

use crate::exposition::encode::Format;
use crate::read::engine::Engine;
use crate::serve::http::{Reply, Request, quality};
use crate::spec::{Spec, Text};

/// Paths and their responses.
#[derive(Debug)]
pub struct Site {
    name: String,
    summary: String,
    telemetry_path: String,
    pages: Vec<Text>,
    text_only: bool,
    max_requests: usize,
    active: AtomicUsize,
    engine: Arc<Engine>,
}

impl Site {
    /// The site of the exporter that `spec` describes. It answers up to `max_requests` scrapes at the same
    /// time; 0 means no limit.
    pub fn new(spec: &Spec, telemetry_path: &str, max_requests: usize, engine: Arc<Engine>) -> Self {
        Self {
            name: format!("ebpf-{}-exporter", spec.name),
            summary: spec.summary.to_string(),
            telemetry_path: telemetry_path.to_owned(),
            pages: spec.pages.clone(),
            text_only: spec.text_only,
            max_requests: if max_requests == 0 { usize::MAX } else { max_requests },
            active: AtomicUsize::new(0),
            engine,
        }
    }

    /// The response to a request.
    pub fn answer(&self, request: &Request) -> Reply {
        let known = ["/", "/-/healthy", "/-/ready", self.telemetry_path.as_str()];
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
            "/" => self.landing_page(),
            "/-/healthy" => Reply::text(200, "healthy"),
            "/-/ready" => match &self.engine.waiting_for {
                Some(module) => Reply::text(503, &format!("waiting for kernel module {module}")),
                None => Reply::text(200, "ready"),
            },
            path if is_page => match self.engine.page(path) {
                Ok(text) => Reply::text(200, &text),
                Err(error) => Reply::text(500, &format!("{error:#}")),
            },
            _ => self.metrics(request),
        }
    }

    fn landing_page(&self) -> Reply {
        let (name, summary, path) = (&self.name, &self.summary, &self.telemetry_path);
        let version = env!("CARGO_PKG_VERSION");
        let body = format!(
            "<!doctype html><html lang=\"en\"><head><title>{name}</title></head><body><h1>{name}</h1>\
             <p>{summary}</p><p>Version {version}</p><ul><li><a href=\"{path}\">Metrics</a></li>\
             <li><a href=\"/-/healthy\">Healthy</a></li><li><a href=\"/-/ready\">Ready</a></li></ul></body></html>\n"
        );
        Reply::new(200, "text/html; charset=utf-8", body.into_bytes())
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
        let format = if self.text_only { Format::Text } else { negotiate(accept) };
        let text = match self.engine.scrape(format) {
            Ok(text) => text,
            Err(error) => {
                log::error!("scrape failed: {error:#}");
                return Reply::text(500, &format!("{error:#}"));
            }
        };
        let accepts = request.header("Accept-Encoding").unwrap_or_default();
        let zip = quality(accepts, |item| item == "gzip").is_some_and(|q| q > 0.0);
        if zip && let Ok(body) = gzip(text.as_bytes()) {
            let mut reply = Reply::new(200, format.content_type(), body);
            reply.say("Content-Encoding", "gzip");
            return reply;
        }
        Reply::new(200, format.content_type(), text.into_bytes())
    }
}

/// OpenMetrics if the client accepts it and does not prefer plain text.
fn negotiate(accept: &str) -> Format {
    let open = quality(accept, |item| item == "application/openmetrics-text").unwrap_or(0.0);
    let text = quality(accept, |item| item == "text/plain").unwrap_or(0.0);
    if open > 0.0 && open >= text { Format::OpenMetrics } else { Format::Text }
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn site() -> Site {
        Site::new(&Spec::new("test", 1, "does it <work>?"), "/metrics", 1, Arc::new(Engine::default()))
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
        let site = Site::new(&spec, "/metrics", 1, Arc::new(Engine::waiting(&spec, "zfs")));
        assert_eq!(ask(&site, "GET /-/healthy HTTP/1.1").status, 200);
        let reply = ask(&site, "GET /-/ready HTTP/1.1");
        assert_eq!((reply.status, reply.body), (503, b"waiting for kernel module zfs\n".to_vec()));
        let text = String::from_utf8(ask(&site, "GET /metrics HTTP/1.1").body).expect("text");
        assert!(text.contains("ebpf_exporter_mode{mode=\"waiting\"} 1"), "{text}");
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
        assert_eq!(negotiate(""), Format::Text);
        assert_eq!(negotiate("*/*"), Format::Text);
        assert_eq!(
            negotiate("application/openmetrics-text;version=1.0.0,text/plain;q=0.5"),
            Format::OpenMetrics
        );
        assert_eq!(negotiate("application/openmetrics-text;q=0.2,text/plain"), Format::Text);
        assert_eq!(negotiate("application/openmetrics-text;q=0"), Format::Text);
    }
}
