// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers scrapes of simulated hosts: `/HOST/NAME` is the page of exporter NAME on host HOST.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use common::exposition::encode::{Format, encode};
use common::exposition::native::Schema;
use common::exposition::protobuf;
use tiny_http::{Header, Request, Response, Server};

use crate::run::fleet::hosts::Page;

/// Threads that answer.
const THREADS: usize = 8;

/// Time since a host booted when the server starts.
const UPTIME: Duration = Duration::from_secs(100_000);

/// The server; its threads end with the process.
pub struct Hosts {
    /// TCP port on the loopback interface.
    pub port: u16,
}

impl Hosts {
    /// Starts it. `speed` is how much faster time goes on the hosts than here.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start(pages: &Arc<Vec<Page>>, speed: f64) -> Result<Self> {
        let server =
            Arc::new(Server::http("127.0.0.1:0").map_err(|error| anyhow!("no port for hosts: {error}"))?);
        let port = server.server_addr().to_ip().map_or(0, |address| address.port());
        let started = Instant::now();
        for _ in 0..THREADS {
            let (server, pages) = (Arc::clone(&server), Arc::clone(pages));
            thread::spawn(move || {
                for request in server.incoming_requests() {
                    let seconds = UPTIME.as_secs_f64() + started.elapsed().as_secs_f64() * speed;
                    // A client that has gone needs no answer.
                    let _ = answer(request, &pages, seconds);
                }
            });
        }
        Ok(Self { port })
    }
}

fn answer(request: Request, pages: &[Page], seconds: f64) -> std::io::Result<()> {
    let wanted = request.url().trim_start_matches('/').split_once('/');
    let found = wanted
        .and_then(|(host, name)| Some((host.parse().ok()?, pages.iter().find(|page| page.name == name)?)));
    let Some((host, page)): Option<(usize, &Page)> = found else {
        return request.respond(Response::empty(404));
    };
    let accept = request.headers().iter().find(|header| header.field.equiv("Accept"));
    let accept = accept.map_or("", |header| header.value.as_str());
    let (kind, body) = if accept.contains(protobuf::MEDIA_TYPE) {
        (protobuf::CONTENT_TYPE, protobuf::encode(page.at(host, seconds, Some(Schema::FINEST))))
    } else {
        (Format::Text.content_type(), encode(page.at(host, seconds, None), Format::Text).into_bytes())
    };
    let response = Response::from_data(body);
    match Header::from_bytes("Content-Type", kind) {
        Ok(header) => request.respond(response.with_header(header)),
        Err(()) => request.respond(response),
    }
}
