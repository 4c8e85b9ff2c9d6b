// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queue of spans, and the thread that sends them.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::process::privileges;
use common::words::counted;
use log::{info, warn};

use crate::spans::client::{Client, Outcome};
use crate::spans::console;
use crate::spans::exporter::{Destination, Settings};
use crate::spans::otlp;
use crate::spans::record::SpanData;

/// How often a batch is sent at most.
const ATTEMPTS: u32 = 5;

/// The first pause before a batch is sent again; each further one is four times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest time to wait for: clocks overflow at longer ones.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Stack of the thread.
const STACK: usize = 256 << 10;

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted by the collector, or written.
    pub sent: u64,
    /// Not accepted into the queue, because it was full.
    pub dropped: u64,
    /// Queued, but not sent: the collector refused them, or could not be reached in time.
    pub failed: u64,
}

/// Sends spans from a thread of its own.
#[derive(Debug)]
pub struct Shipper {
    /// Absent if spans go nowhere.
    queue: Option<Arc<Queue>>,
    /// Absent unless spans go to a collector.
    client: Option<Client>,
}

impl Shipper {
    /// Starts the thread, unless spans go nowhere.
    ///
    /// # Errors
    /// When the collector's host is not known, or no thread can be started.
    pub fn start(settings: Settings) -> Result<Self> {
        let client = match &settings.destination {
            Destination::Nowhere(why) => {
                info!("spans are not sent: {why}");
                return Ok(Self { queue: None, client: None });
            }
            Destination::Console => None,
            Destination::Collector(endpoint) => Some(Client::new(endpoint)?),
        };
        let queue = Arc::new(Queue {
            capacity: settings.max_queue_size,
            batch: settings.max_export_batch_size,
            delay: settings.schedule_delay,
            state: Mutex::default(),
            to_do: Condvar::new(),
            done: Condvar::new(),
        });
        let worker =
            Worker { queue: Arc::clone(&queue), client: client.clone(), settings, is_failing: false };
        thread::Builder::new()
            .name("spans".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                if let Err(error) = privileges::keep_only(&[]) {
                    warn!("the thread that sends spans: {error:#}");
                }
                worker.run();
            })
            .context("failed to start the thread that sends spans")?;
        Ok(Self { queue: Some(queue), client })
    }

    /// Queues a span, or counts it as dropped. Never waits for the collector.
    pub fn offer(&self, span: SpanData) {
        if let Some(queue) = &self.queue {
            queue.push(span);
        }
    }

    /// What became of the spans so far.
    pub fn counts(&self) -> Counts {
        self.queue.as_ref().map(|queue| queue.lock().counts).unwrap_or_default()
    }

    /// Sends what is queued, and returns when that is done or `timeout` has passed. Spans that are not
    /// sent by then count as failed. Spans that are offered later count as dropped.
    pub fn stop(&self, timeout: Duration) {
        let Some(queue) = &self.queue else { return };
        let lost = queue.stop(timeout);
        if lost == 0 {
            return;
        }
        warn!("{} could not be sent before the exit", counted(lost as usize, "span"));
        if let Some(client) = &self.client {
            client.shutdown();
        }
    }
}

impl Drop for Shipper {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// What the thread and those who offer spans share.
#[derive(Debug)]
struct Queue {
    capacity: usize,
    batch: usize,
    delay: Duration,
    state: Mutex<State>,
    /// Tells the thread of spans and of the end.
    to_do: Condvar,
    /// Tells that the thread is done.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    spans: VecDeque<SpanData>,
    /// Since when spans wait.
    since: Option<Instant>,
    /// How many the thread has taken, but not yet counted.
    in_flight: usize,
    counts: Counts,
    /// Set when no more spans are accepted: until when what is queued may be sent.
    end: Option<Instant>,
    is_done: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, span: SpanData) {
        let mut state = self.lock();
        if state.end.is_some() || state.spans.len() >= self.capacity {
            state.counts.dropped += 1;
            return;
        }
        state.spans.push_back(span);
        let queued = state.spans.len();
        if queued == 1 {
            state.since = Some(Instant::now());
        }
        drop(state);
        // The thread has nothing to do at other lengths.
        if queued == 1 || queued == self.batch {
            self.to_do.notify_one();
        }
    }

    /// Waits for a batch: until there are enough spans, or they have waited long enough, or the end has
    /// come. `None` at the end.
    fn take(&self) -> Option<Vec<SpanData>> {
        let mut state = self.lock();
        loop {
            if state.is_done || (state.spans.is_empty() && state.end.is_some()) {
                state.is_done = true;
                self.done.notify_all();
                return None;
            }
            let wait = state.since.map(|since| self.delay.saturating_sub(since.elapsed()));
            let is_due =
                wait == Some(Duration::ZERO) || state.spans.len() >= self.batch || state.end.is_some();
            if is_due && !state.spans.is_empty() {
                let count = state.spans.len().min(self.batch);
                state.in_flight = count;
                let batch = state.spans.drain(..count).collect();
                state.since = (!state.spans.is_empty()).then(Instant::now);
                return Some(batch);
            }
            state = self.wait(state, wait);
        }
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>, limit: Option<Duration>) -> MutexGuard<'s, State> {
        match limit {
            None => self.to_do.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => self.to_do.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// Counts the batch that was taken last. After the end it has been counted already.
    fn settle(&self, failed: usize) {
        let mut state = self.lock();
        let count = mem::take(&mut state.in_flight);
        if !state.is_done {
            let failed = failed.min(count);
            state.counts.failed += failed as u64;
            state.counts.sent += (count - failed) as u64;
        }
    }

    /// How long the thread may still work: until `until`, or the end if that comes first. And whether
    /// the end has been announced.
    fn time_left(&self, until: Instant) -> (Duration, bool) {
        let end = self.lock().end;
        let until = end.map_or(until, |end| until.min(end));
        (until.saturating_duration_since(Instant::now()), end.is_some())
    }

    /// Waits for `time`, or until the end is announced. Returns whether there is time for another attempt.
    fn pause(&self, time: Duration, until: Instant, was_ending: bool) -> bool {
        let resume = Instant::now() + time;
        let mut state = self.lock();
        loop {
            if state.is_done {
                return false;
            }
            if state.end.is_some() && !was_ending {
                return true;
            }
            if resume >= state.end.map_or(until, |end| until.min(end)) {
                return false;
            }
            let left = resume.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.wait(state, Some(left));
        }
    }

    /// Lets the thread send what is queued. Returns how many spans it could not send in time.
    fn stop(&self, timeout: Duration) -> u64 {
        let end = Instant::now() + timeout.min(LONGEST);
        let mut state = self.lock();
        state.end = Some(end);
        self.to_do.notify_all();
        while !state.is_done {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if mem::replace(&mut state.is_done, true) {
            return 0;
        }
        let lost = (state.in_flight + state.spans.len()) as u64;
        state.counts.failed += lost;
        state.spans.clear();
        self.to_do.notify_all();
        lost
    }
}

/// The thread.
struct Worker {
    queue: Arc<Queue>,
    client: Option<Client>,
    settings: Settings,
    /// Whether the last batch failed: only changes are logged.
    is_failing: bool,
}

impl Worker {
    fn run(mut self) {
        while let Some(batch) = self.queue.take() {
            let count = batch.len();
            let (failed, why) = match self.client.clone() {
                Some(client) => self.send(&client, batch),
                None => self.print(&batch),
            };
            self.log(failed.min(count), &why);
            self.queue.settle(failed);
        }
    }

    /// Sends a batch, several times if need be. Returns how many spans were not taken, and why.
    fn send(&self, client: &Client, batch: Vec<SpanData>) -> (usize, String) {
        let count = batch.len();
        let until = Instant::now() + self.settings.export_timeout;
        let body = client.body(&otlp::request(batch, &self.settings.resource));
        let mut pause = FIRST_PAUSE;
        let mut reason = "no time is left".to_owned();
        for attempt in 1..=ATTEMPTS {
            let (left, is_ending) = self.queue.time_left(until);
            if left.is_zero() {
                break;
            }
            match client.post(&body, left) {
                Outcome::Taken { refused, message } => {
                    return (
                        usize::try_from(refused).unwrap_or(count),
                        format!("it refuses some: {message}"),
                    );
                }
                Outcome::Never(why) => return (count, why),
                Outcome::Later { after, why } => {
                    reason = why;
                    // A collector that asks for a longer pause than there is time costs this batch, so
                    // that the next ones need not wait.
                    let wait = after.unwrap_or(pause).min(LONGEST);
                    if attempt == ATTEMPTS || !self.queue.pause(wait, until, is_ending) {
                        break;
                    }
                    pause *= 4;
                }
            }
        }
        (count, reason)
    }

    fn print(&self, batch: &[SpanData]) -> (usize, String) {
        let (written, result) = console::write(batch, &self.settings.resource, &mut io::stdout().lock());
        (batch.len() - written, result.err().map(|error| error.to_string()).unwrap_or_default())
    }

    fn log(&mut self, failed: usize, why: &str) {
        let was_failing = mem::replace(&mut self.is_failing, failed > 0);
        let to = match &self.settings.destination {
            // No more of the URL: its query may have a key.
            Destination::Collector(endpoint) => endpoint.url.authority().map_or("", |host| host.as_str()),
            _ => "standard output",
        };
        if self.is_failing && !was_failing {
            let spans = counted(failed, "span");
            warn!("failed to send {spans} to {to}: {why}; further failures are only counted");
        } else if was_failing && !self.is_failing {
            info!("spans are sent to {to} again");
        }
    }
}
