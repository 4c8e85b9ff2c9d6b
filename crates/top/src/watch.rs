// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks each exporter again and again, in a thread of its own: a slow one holds up no other.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use headlines::amount::safe;
use headlines::{PATH, Page, Scrape};

use crate::address::{Address, Subject};
use crate::http::{Client, Failure};

/// Characters of a foreign message that are shown.
const MESSAGE: usize = 120;

/// What came of asking once.
#[derive(Debug)]
pub enum Look {
    /// Nobody listens there.
    Nobody,
    /// Something listens there that is not one of these exporters.
    Stranger,
    /// It wants to be asked in another way: with TLS or a password.
    Locked(String),
    /// There is no good answer.
    Failed(String),
    /// What it said.
    Said(Arc<Said>),
}

/// What an exporter said.
#[derive(Debug)]
pub struct Said {
    /// What it is.
    pub page: Page,
    /// Its metrics.
    pub scrape: Scrape,
    /// When it was asked for them.
    pub at: Instant,
    /// What it waits for.
    pub waits: Option<String>,
}

/// Asks every subject that has an address, each `interval`, until nobody listens to `sender`. The number
/// is that of the subject.
///
/// # Errors
/// When no thread can be started.
pub fn watch(
    subjects: &[Subject],
    client: &Arc<Client>,
    interval: Duration,
    sender: &Sender<(usize, Look)>,
) -> Result<()> {
    for (number, subject) in subjects.iter().enumerate() {
        let Ok(address) = subject.at.clone() else { continue };
        let (client, sender) = (Arc::clone(client), sender.clone());
        let work = move || {
            let mut known = None;
            let mut next = Instant::now();
            loop {
                let look = look(&client, &address, &mut known);
                if sender.send((number, look)).is_err() {
                    return;
                }
                next += interval;
                // Scrapes are at fixed times; this is the time in between.
                thread::sleep(next.saturating_duration_since(Instant::now()));
                // After a slow answer: not several at once.
                next = next.max(Instant::now());
            }
        };
        thread::Builder::new().stack_size(256 << 10).spawn(work).context("failed to start a thread")?;
    }
    Ok(())
}

/// What an exporter said of itself, and when that process was started.
type Known = (Page, Option<f64>);

/// Asks once. An exporter is asked for its page again after a failure, and when it was started anew: it may
/// have another version or other flags.
fn look(client: &Client, address: &Address, known: &mut Option<Known>) -> Look {
    match try_look(client, address, known.take()) {
        Ok((said, page)) => {
            *known = Some(page);
            Look::Said(Arc::new(said))
        }
        Err(look) => look,
    }
}

fn try_look(client: &Client, address: &Address, known: Option<Known>) -> Result<(Said, Known), Look> {
    let introduced_before = known.is_some();
    let (page, started) = match known {
        Some(known) => known,
        None => (introduced(client, address)?, None),
    };
    let (scrape, at) = said(client, address, &page)?;
    let now = scrape.first("process_start_time_seconds");
    if introduced_before && now != started {
        return try_look(client, address, None);
    }
    let waits = waits(client, address, &scrape);
    Ok((Said { page: page.clone(), scrape, at, waits }, (page, now)))
}

fn asked(client: &Client, address: &Address, path: &str) -> Result<(u16, String, Instant), Look> {
    match client.get(address, path) {
        Ok(answer) if answer.status == 401 => {
            Err(Look::Locked("asks for a name and a password: see --web.config".to_owned()))
        }
        Ok(answer) => Ok((answer.status, answer.body, answer.asked)),
        Err(Failure::Nobody) => Err(Look::Nobody),
        Err(failure @ Failure::WantsTls) => Err(Look::Locked(failure.to_string())),
        Err(failure) => Err(Look::Failed(safe(&failure.to_string(), MESSAGE))),
    }
}

/// What an exporter says of itself. Those of a version without that page are known by a metric.
fn introduced(client: &Client, address: &Address) -> Result<Page, Look> {
    let (status, body, _) = asked(client, address, PATH)?;
    if status == 200 {
        return Page::from_json(&body).map_err(|_| Look::Stranger);
    }
    let (status, body, _) = asked(client, address, "/metrics")?;
    let scrape = Scrape::parse(&body).ok().filter(|_| status == 200).ok_or(Look::Stranger)?;
    let told = |label| scrape.label("ebpf_exporter_build_info", label).map(ToOwned::to_owned);
    let exporter = told("exporter").ok_or(Look::Stranger)?;
    let version = told("version").unwrap_or_default();
    Ok(Page {
        exporter: exporter.into(),
        version: version.into(),
        metrics: "/metrics".into(),
        ..Page::default()
    })
}

fn said(client: &Client, address: &Address, page: &Page) -> Result<(Scrape, Instant), Look> {
    let (status, body, at) = asked(client, address, &page.metrics)?;
    if status != 200 {
        return Err(Look::Failed(format!("answers {status}: {}", safe(body.trim(), MESSAGE))));
    }
    match Scrape::parse(&body) {
        Ok(scrape) => Ok((scrape, at)),
        Err(error) => Err(Look::Failed(error.to_string())),
    }
}

/// What an exporter waits for.
fn waits(client: &Client, address: &Address, scrape: &Scrape) -> Option<String> {
    if scrape.label("ebpf_exporter_mode", "mode") != Some("waiting") {
        return None;
    }
    let (_, body, _) = asked(client, address, "/-/ready").ok()?;
    Some(safe(body.trim(), MESSAGE))
}
