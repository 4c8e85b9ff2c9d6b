// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which path is answered with what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::exposition::encode::{Format, encode};
use common::exposition::metric::Families;
use common::exposition::protobuf;
use common::process::memory;
use common::serve::http::{Reply, Request};
use common::serve::site::{negotiate, zipped};
use headlines::{LIST, list_to_json};
use tiny_http::Method;

use crate::apart::Merged;
use crate::ask::{self, Answer, Outcome};
use crate::board::{Board, View};
use crate::child::State;
use crate::kubelet::Kubelet;
use crate::{messages, own, text};

/// Time limit for a scrape where the client states none: that of Prometheus.
const SCRAPE: Duration = Duration::from_secs(10);

/// Bounds of the time limit that a client may state.
const LIMITS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(120)];

/// Share of the time limit that exporters have; the rest is for merging and the way.
const SHARE: f64 = 0.9;

/// Paths and their responses.
#[derive(Debug)]
pub struct Site {
    board: Arc<Board>,
    max_requests: usize,
    active: AtomicUsize,
    kubelet: Option<Arc<Kubelet>>,
}

impl Site {
    /// The site for these exporters. It answers up to `max_requests` scrapes at the same time, with names from the
    /// kubelet if there is one.
    pub fn new(board: Arc<Board>, max_requests: usize, kubelet: Option<Arc<Kubelet>>) -> Self {
        Self { board, max_requests, active: AtomicUsize::new(0), kubelet }
    }

    /// The response to a request.
    pub fn answer(&self, request: &Request) -> Reply {
        if !matches!(request.method, Method::Get | Method::Head) {
            let mut reply = Reply::text(405, "only GET and HEAD are allowed");
            reply.say("Allow", "GET, HEAD");
            return reply;
        }
        let path = request.path.as_str();
        match path {
            "/" => self.landing_page(),
            "/metrics" => self.scrape(request),
            "/-/healthy" => Reply::text(200, "healthy"),
            "/-/ready" => ready(&self.board.views()),
            LIST => self.list(),
            _ => {
                let metrics = path.strip_prefix("/metrics/").map(|name| (name, "/metrics"));
                let any = || {
                    let rest = path.strip_prefix(LIST)?.strip_prefix('/')?;
                    rest.find('/').map(|at| rest.split_at(at))
                };
                match metrics.or_else(any) {
                    Some((name, path)) => self.relay(request, name, path),
                    None => Reply::text(404, "not found"),
                }
            }
        }
    }

    fn landing_page(&self) -> Reply {
        let views = self.board.views();
        let line = |view: &View| {
            let name = &view.listed.exporter;
            format!("<li><a href=\"/metrics/{name}\">{name}</a>: {}</li>", view.listed.state)
        };
        let lines: String = views.iter().map(line).collect();
        let body = format!(
            "<!doctype html><html lang=\"en\"><head><title>ebpf-exporters</title></head><body><h1>ebpf-exporters</h1>\
             <p>Version {}</p><ul><li><a href=\"/metrics\">Metrics of all</a></li><li><a href=\"{LIST}\">States</a></li>\
             <li><a href=\"/-/healthy\">Healthy</a></li><li><a href=\"/-/ready\">Ready</a></li></ul>\
             <p>Metrics of one:</p><ul>{lines}</ul></body></html>\n",
            env!("CARGO_PKG_VERSION")
        );
        Reply::new(200, "text/html; charset=utf-8", body.into_bytes())
    }

    fn list(&self) -> Reply {
        let list: Vec<_> = self.board.views().into_iter().map(|view| view.listed).collect();
        match list_to_json(&list) {
            Ok(json) => Reply::new(200, "application/json", json.into_bytes()),
            Err(error) => Reply::text(500, &error.to_string()),
        }
    }

    /// A page with the names that the kubelet knows.
    fn named(&self, content_type: &str, page: Vec<u8>) -> Vec<u8> {
        match &self.kubelet {
            Some(kubelet) => kubelet.name(content_type, page),
            None => page,
        }
    }

    /// What one exporter answers. Metrics have names of pods; anything else stays as it is.
    fn relay(&self, request: &Request, name: &str, path: &str) -> Reply {
        let views = self.board.views();
        let Some(view) = views.into_iter().find(|view| view.listed.exporter == name) else {
            return Reply::text(404, "there is no exporter of that name");
        };
        if view.channel.is_none() {
            return Reply::text(503, &format!("{name} is {}: {}", view.listed.state, view.listed.says));
        }
        let accept = request.header("Accept").unwrap_or_default();
        match ask::all(&[view.channel], path, accept, deadline(request)).pop() {
            Some((Ok(Answer { status: 200, content_type, body }), _)) => {
                let body = self.named(&content_type, body);
                zipped(request, Reply::new(200, content_type, body))
            }
            Some((Ok(Answer { status, content_type, body }), _)) => Reply::new(status, content_type, body),
            Some((Err(why), _)) => Reply::text(503, &format!("{name}: {why}")),
            None => Reply::text(500, "nobody was asked"),
        }
    }

    fn scrape(&self, request: &Request) -> Reply {
        let before = self.active.fetch_add(1, Ordering::AcqRel);
        let reply = if before < self.max_requests {
            let reply = self.metrics_of_all(request);
            // Pages of all exporters are much more than what else this process needs.
            memory::give_back();
            reply
        } else {
            Reply::text(503, "too many scrapes at the same time; see --web.max-requests")
        };
        self.active.fetch_sub(1, Ordering::AcqRel);
        reply
    }

    fn metrics_of_all(&self, request: &Request) -> Reply {
        let format = negotiate(request.header("Accept").unwrap_or_default(), false);
        let content_type = format.map_or(protobuf::CONTENT_TYPE, Format::content_type);
        let views = self.board.views();
        let channels: Vec<_> = views.iter().map(|view| view.channel.clone()).collect();
        let outcomes = ask::all(&channels, "/metrics", content_type, deadline(request));
        let outcomes = outcomes.into_iter().zip(&views).map(|((result, duration), view)| {
            let result = result.and_then(|answer| as_asked(answer, content_type));
            let result =
                result.map(|answer| Answer { body: self.named(content_type, answer.body), ..answer });
            if view.channel.is_some()
                && let Err(why) = &result
            {
                log::warn!("{} is missing in the metrics of all: {why}", view.listed.exporter);
            }
            (result, duration)
        });
        let merged = match format {
            Some(_) => self.merge_text(&views, outcomes.collect()),
            None => self.merge_messages(&views, outcomes.collect()),
        };
        self.board.note_left_out(merged.left_out);
        zipped(request, Reply::new(200, content_type, merged.body))
    }

    fn about_itself(&self, views: &[View], outcomes: &[Outcome]) -> Families {
        let counts = self.kubelet.as_ref().map(|kubelet| kubelet.counts());
        own::families(&self.board, views, outcomes, counts.as_ref())
    }

    fn merge_text(&self, views: &[View], mut outcomes: Vec<Outcome>) -> Merged {
        let bodies: Vec<Option<Vec<u8>>> = outcomes.iter_mut().map(taken).collect();
        let mut pages = Vec::new();
        for ((view, outcome), body) in views.iter().zip(&mut outcomes).zip(&bodies) {
            let Some(body) = body else { continue };
            match str::from_utf8(body).map_err(|error| error.to_string()).and_then(text::parse) {
                Ok(page) => pages.push((view.listed.exporter.as_str(), page)),
                Err(why) => outcome.0 = Err(broken(view, &why)),
            }
        }
        let ours = encode(self.about_itself(views, &outcomes), Format::Text);
        // What is made here is in the format.
        pages.extend(text::parse(&ours).map(|page| (own::SELF, page)));
        text::merge(&pages)
    }

    fn merge_messages(&self, views: &[View], mut outcomes: Vec<Outcome>) -> Merged {
        let mut pages = Vec::new();
        for (view, outcome) in views.iter().zip(&mut outcomes) {
            let Some(body) = taken(outcome) else { continue };
            match messages::parse(body) {
                Ok(page) => pages.push((view.listed.exporter.as_str(), page)),
                Err(why) => outcome.0 = Err(broken(view, &why)),
            }
        }
        let ours = protobuf::encode(self.about_itself(views, &outcomes));
        pages.extend(messages::parse(ours).map(|page| (own::SELF, page)));
        messages::merge(pages)
    }
}

/// The body of an answer, which is then no longer there.
fn taken(outcome: &mut Outcome) -> Option<Vec<u8>> {
    outcome.0.as_mut().ok().map(|answer| std::mem::take(&mut answer.body))
}

/// An answer that can be merged: a page in the format that was asked for.
fn as_asked(answer: Answer, content_type: &str) -> Result<Answer, String> {
    if answer.status != 200 {
        let said = String::from_utf8_lossy(&answer.body);
        return Err(format!("it answers {}: {}", answer.status, said.lines().next().unwrap_or_default()));
    }
    if answer.content_type != content_type {
        return Err(format!("it answers in another format: {}", answer.content_type));
    }
    Ok(answer)
}

fn broken(view: &View, why: &str) -> String {
    let why = format!("its page is broken: {why}");
    log::error!("{} is missing in the metrics of all: {why}", view.listed.exporter);
    why
}

/// Until when exporters may answer.
fn deadline(request: &Request) -> Instant {
    let told = request.header("X-Prometheus-Scrape-Timeout-Seconds");
    let told =
        told.and_then(|text| text.parse().ok()).and_then(|told| Duration::try_from_secs_f64(told).ok());
    let [least, most] = LIMITS;
    Instant::now() + told.unwrap_or(SCRAPE).clamp(least, most).mul_f64(SHARE)
}

/// Ready once each exporter has been started or given up, and at least one runs.
fn ready(views: &[View]) -> Reply {
    let in_state = |wanted: &State| -> Vec<&str> {
        let fits = views.iter().filter(|view| view.state == *wanted);
        fits.map(|view| view.listed.exporter.as_str()).collect()
    };
    let (starting, running) = (in_state(&State::Starting), in_state(&State::Running));
    if !starting.is_empty() {
        return Reply::text(503, &format!("starting: {}", starting.join(", ")));
    }
    let mut lines = vec![format!("running: {}", running.join(", "))];
    let others = views.iter().filter(|view| view.state != State::Running);
    lines.extend(
        others.map(|view| format!("{}: {}: {}", view.listed.state, view.listed.exporter, view.listed.says)),
    );
    Reply::text(if running.is_empty() { 503 } else { 200 }, &lines.join("\n"))
}
