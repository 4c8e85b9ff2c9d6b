// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests to a collector, over HTTP.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use ureq::unversioned::transport::TcpConnector;

use crate::spans::exporter::Endpoint;
use crate::spans::hosts::{self, Hosts};

/// Bytes of an answer that are read. Answers are nearly empty unless spans were refused.
const MAX_ANSWER: u64 = 64 << 10;

/// Characters of a collector's message that are logged.
const MAX_MESSAGE: usize = 200;

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The collector took all spans but some, and why not those.
    Taken {
        /// How many it refused.
        refused: u64,
        /// Why.
        message: String,
    },
    /// The same request may succeed later.
    Later {
        /// When, if the collector says so.
        after: Option<Duration>,
        /// What happened.
        why: String,
    },
    /// The same request would fail again, and why.
    Never(String),
}

/// A client of one collector.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    endpoint: Endpoint,
}

impl Client {
    /// Makes a client. Nothing is sent.
    ///
    /// # Errors
    /// When the collector's host is not known on this machine.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        if hosts::addresses_of(&endpoint.url).is_empty() {
            let host = endpoint.url.host().unwrap_or_default();
            bail!(
                "host {host:?} of the collector is not in /etc/hosts, and DNS is not asked: \
                 give its IP address, or add it there"
            );
        }
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("ebpf-custom-exporter/", env!("CARGO_PKG_VERSION")))
            .build();
        let agent = Agent::with_parts(config, TcpConnector::default(), Hosts);
        Ok(Self { agent, endpoint: endpoint.clone() })
    }

    /// The body of a request.
    pub fn body(&self, request: &ExportTraceServiceRequest) -> Vec<u8> {
        let plain = request.encode_to_vec();
        if !self.endpoint.gzip {
            return plain;
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory cannot fail.
        let _ = gzip.write_all(&plain);
        gzip.finish().unwrap_or_default()
    }

    /// Sends a request, and waits for the answer no longer than `limit`.
    pub fn post(&self, body: &[u8], limit: Duration) -> Outcome {
        let timeout = limit.min(self.endpoint.timeout);
        let mut request = self.agent.post(&self.endpoint.url).header(CONTENT_TYPE, "application/x-protobuf");
        if self.endpoint.gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        for (name, value) in &self.endpoint.headers {
            request = request.header(name, value);
        }
        let answer = request.config().timeout_global(Some(timeout)).build().send(body);
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Outcome::Later { after: None, why: error.to_string() },
        };
        let status = answer.status();
        let after = retry_after(answer.headers());
        let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        match status {
            status if status.is_success() => taken(&body.unwrap_or_default()),
            // The protocol names these four.
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Outcome::Later { after, why: format!("it answers {status}") },
            _ => Outcome::Never(format!("it answers {status}")),
        }
    }

    /// Interrupts requests that wait in other threads, and refuses later ones.
    pub fn shutdown(&self) {
        self.agent.clone().shutdown();
    }
}

/// What a successful answer says. One that cannot be decoded says nothing: the spans were taken.
fn taken(answer: &[u8]) -> Outcome {
    let answer = ExportTraceServiceResponse::decode(answer).unwrap_or_default();
    let partial = answer.partial_success.unwrap_or_default();
    Outcome::Taken {
        refused: u64::try_from(partial.rejected_spans).unwrap_or_default(),
        message: partial.error_message.chars().take(MAX_MESSAGE).collect(),
    }
}

/// The header `Retry-After`, if it is a number of seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
