// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records of perf event arrays and ring buffers: counters and spans of them. One thread reads all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::exposition::metric::{Families, FamilyKind, Sample, Value};
use common::process::privileges;
use libbpf_rs::{Map, MapCore, MapType, PerfBuffer, PerfBufferBuilder, RingBuffer, RingBufferBuilder};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fd::{BorrowedFd, OwnedFd};

use crate::config::{Metric, PREFIX};
use crate::shared::Shared;
use crate::steps::Stop;
use crate::steps::labels::LabelSet;
use crate::wrongs::Wrongs;

/// What the records of one config add up to.
#[derive(Default)]
pub struct Events {
    config: String,
    counters: Mutex<Vec<Counter>>,
    wrongs: Mutex<Wrongs>,
    lost: AtomicU64,
    too_many: AtomicU64,
    undecoded: AtomicU64,
    has_perf: bool,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// A counter to which each record adds 1.
#[derive(Debug)]
struct Counter {
    name: String,
    help: String,
    names: Vec<String>,
    labels: LabelSet,
    series: BTreeMap<Vec<String>, u64>,
    flush: Option<Flush>,
}

/// When a counter forgets its series.
#[derive(Debug)]
struct Flush {
    interval: Duration,
    next: Instant,
}

/// Maximum number of series of a counter of records. Its series live in the memory of this process.
const SERIES: usize = 65_536;

/// Maximum number of records that are taken of a ring buffer before others have their turn.
const TURN: usize = 4096;

/// Maximum number of turns at the end. What is in a buffer of 4 MB needs no more.
const LAST_TURNS: usize = 64;

impl Events {
    /// Counters of these metrics of a config, in this order. `has_perf`: losses of a perf event array are
    /// known.
    pub fn new(config: &str, metrics: Vec<(&Metric, LabelSet, Option<Duration>)>, has_perf: bool) -> Self {
        let counter = |(metric, labels, flush): (&Metric, LabelSet, Option<Duration>)| Counter {
            name: format!("{PREFIX}{}", metric.name),
            help: metric.help.clone(),
            names: metric.labels.iter().map(|label| label.name.clone()).collect(),
            labels,
            series: BTreeMap::new(),
            flush: flush.map(|interval| Flush { interval, next: Instant::now() + interval }),
        };
        let counters = Mutex::new(metrics.into_iter().map(counter).collect());
        Self { config: config.to_owned(), counters, has_perf, ..Self::default() }
    }

    fn counters(&self) -> MutexGuard<'_, Vec<Counter>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a record of counter `at`.
    pub fn count(&self, at: usize, record: &[u8]) {
        let mut counters = self.counters();
        let Some(counter) = counters.get_mut(at) else { return };
        counter.flush_if_due(Instant::now());
        let values = match counter.labels.decode_prefix(record) {
            Ok(values) => values,
            Err(Stop::Skip) => return,
            Err(Stop::Wrong(why)) => {
                let what = format!("metric {}: {why}", counter.name);
                drop(counters);
                self.note(what);
                return;
            }
        };
        if counter.series.len() >= SERIES && !counter.series.contains_key(&values) {
            drop(counters);
            self.too_many.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *counter.series.entry(values).or_default() += 1;
    }

    fn wrongs(&self) -> MutexGuard<'_, Wrongs> {
        self.wrongs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a record that cannot be decoded, and logs why.
    pub fn note(&self, what: String) {
        self.undecoded.fetch_add(1, Ordering::Relaxed);
        self.wrongs().note(&self.config, what);
    }

    /// How many different faults there were.
    pub fn decoder_errors(&self) -> u64 {
        self.wrongs().count()
    }

    /// Counts records that the kernel dropped.
    pub fn lose(&self, records: u64) {
        self.lost.fetch_add(records, Ordering::Relaxed);
    }

    /// Adds the counters to `families`. Of series that several configs have, `shared` tells whose is shown
    /// in this scrape.
    pub fn read(&self, shared: &Shared, scrape: u64, families: &mut Families) {
        let now = Instant::now();
        for counter in self.counters().iter_mut() {
            counter.flush_if_due(now);
            let names: Vec<&str> = counter.names.iter().map(String::as_str).collect();
            let claim = shared.of(scrape, &counter.name, &self.config);
            let family = families.family(&counter.name, &counter.help, FamilyKind::Counter);
            for (values, count) in &counter.series {
                match claim.labels(&names, values) {
                    Ok(labels) => family.samples.push(Sample { labels, value: Value::Integer(*count) }),
                    Err(why) => self.wrongs().note(&self.config, format!("metric {}: {why}", counter.name)),
                }
            }
        }
    }

    /// Lost records, by reason.
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        let perf = self.has_perf.then(|| ("perf_buffer", self.lost.load(Ordering::Relaxed)));
        let has_counters = !self.counters().is_empty();
        let series = has_counters.then(|| ("too_many_series", self.too_many.load(Ordering::Relaxed)));
        let undecoded = ("decode", self.undecoded.load(Ordering::Relaxed));
        perf.into_iter().chain(series).chain([undecoded]).collect()
    }
}

impl Counter {
    fn flush_if_due(&mut self, now: Instant) {
        if let Some(flush) = &mut self.flush
            && flush.next <= now
        {
            self.series.clear();
            // Nothing may have looked at it for a while: the times stay those since the start.
            let late = now.duration_since(flush.next).as_nanos() % flush.interval.as_nanos().max(1);
            flush.next = now + flush.interval - Duration::from_nanos(late as u64);
        }
    }
}

/// Takes the records of a map.
pub type Taker = Box<dyn FnMut(&[u8]) + Send>;

/// An open buffer.
enum Buffer {
    Perf(PerfBuffer<'static>),
    Ring(RingBuffer<'static>),
}

impl Buffer {
    fn descriptor(&self) -> i32 {
        match self {
            Self::Perf(buffer) => buffer.epoll_fd(),
            Self::Ring(buffer) => buffer.epoll_fd(),
        }
    }

    /// Takes the records that are there: of a ring buffer at most [`TURN`], since more may come than
    /// are taken. Returns whether there may be others.
    fn consume(&self) -> bool {
        let taken = match self {
            Self::Perf(buffer) => buffer.consume().map(|()| false),
            Self::Ring(buffer) => match buffer.consume_raw_n(TURN) {
                error if error < 0 => Err(libbpf_rs::Error::from_raw_os_error(-error)),
                taken => Ok(taken as usize == TURN),
            },
        };
        taken.unwrap_or_else(|error| {
            log::debug!("failed to read a buffer: {error}");
            false
        })
    }
}

/// Buffers that are open and not yet read.
#[derive(Default)]
pub struct Buffers(Vec<Buffer>);

impl Buffers {
    /// Opens a perf event array, with so many pages for each CPU.
    ///
    /// # Errors
    /// When the map is of another type, or the kernel refuses.
    pub fn perf(
        &mut self,
        map: &Map<'_>,
        pages: usize,
        mut take: Taker,
        mut lose: impl FnMut(u64) + Send + 'static,
    ) -> Result<()> {
        let name = map.name().to_string_lossy().into_owned();
        if map.map_type() != MapType::PerfEventArray {
            bail!("map `{name}` is no perf event array");
        }
        let buffer = PerfBufferBuilder::new(map)
            .sample_cb(move |_, record: &[u8]| take(record))
            .lost_cb(move |_, records| lose(records))
            .pages(pages)
            .build()
            .with_context(|| format!("failed to open the perf event array `{name}`"))?;
        self.0.push(Buffer::Perf(buffer));
        Ok(())
    }

    /// Opens a ring buffer.
    ///
    /// # Errors
    /// As [`Buffers::perf`].
    pub fn ring(&mut self, map: &Map<'_>, mut take: Taker) -> Result<()> {
        let name = map.name().to_string_lossy().into_owned();
        if map.map_type() != MapType::RingBuf {
            bail!("map `{name}` is no ring buffer");
        }
        let mut builder = RingBufferBuilder::new();
        let opened = || format!("failed to open the ring buffer `{name}`");
        let callback = move |record: &[u8]| {
            take(record);
            0
        };
        builder.add(map, callback).with_context(opened)?;
        self.0.push(Buffer::Ring(builder.build().with_context(opened)?));
        Ok(())
    }

    /// Reads the buffers in a thread until the returned value is dropped. None where there are no
    /// buffers.
    ///
    /// # Errors
    /// When the kernel refuses a thread or a descriptor.
    pub fn start(self) -> Result<Option<Reader>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("failed to create an eventfd")?);
        let poll =
            epoll::create(epoll::CreateFlags::CLOEXEC).context("failed to create an epoll instance")?;
        let watch = |fd: BorrowedFd<'_>, at: usize| {
            let data = epoll::EventData::new_u64(at as u64);
            epoll::add(&poll, fd, data, epoll::EventFlags::IN).context("failed to watch a buffer")
        };
        for (at, buffer) in self.0.iter().enumerate() {
            // SAFETY: the buffer owns the descriptor and is not dropped before this ends.
            watch(unsafe { BorrowedFd::borrow_raw(buffer.descriptor()) }, at)?;
        }
        watch(rustix::fd::AsFd::as_fd(&*stop), self.0.len())?;
        let thread = thread::Builder::new()
            .name("events".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                // The buffers are open: reading them takes no capability.
                if let Err(error) = privileges::keep_only(&[]) {
                    log::warn!("the thread that reads buffers: {error:#}");
                }
                read(&poll, &self.0);
            })
            .context("failed to start the thread that reads buffers")?;
        Ok(Some(Reader { stop, thread: Some(thread) }))
    }
}

/// Reads buffers that have records, until the eventfd after them is written.
fn read(poll: &OwnedFd, buffers: &[Buffer]) {
    let mut ready = Vec::with_capacity(buffers.len() + 1);
    loop {
        ready.clear();
        match epoll::wait(poll, rustix::buffer::spare_capacity(&mut ready), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                log::error!("failed to wait for records: {error}");
                return;
            }
        }
        for event in &ready {
            match buffers.get(event.data.u64() as usize) {
                Some(buffer) => drop(buffer.consume()),
                None => {
                    for buffer in buffers {
                        for _ in 0..LAST_TURNS {
                            if !buffer.consume() {
                                break;
                            }
                        }
                    }
                    return;
                }
            }
        }
    }
}

/// Ends the thread when dropped, after it has taken the records that are there.
#[derive(Debug)]
pub struct Reader {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let told = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let (Ok(_), Some(thread)) = (told, self.thread.take()) {
            // The thread does not panic; if it did, there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::world::{Needs, Places, World};

    #[test]
    fn series_are_forgotten_at_multiples_of_the_interval() {
        let world = World::new(&Needs::default(), &Places::default());
        let labels = LabelSet::new(&[], &world).expect("right");
        let interval = Duration::from_secs(10);
        let events = Events::new("c", vec![(&Metric::default(), labels, Some(interval))], true);
        let mut counters = events.counters();
        let counter = &mut counters[0];
        let start = counter.flush.as_ref().expect("it has one").next - interval;
        let mut forgotten_at = |seconds| {
            counter.series.insert(Vec::new(), 1);
            counter.flush_if_due(start + Duration::from_secs(seconds));
            counter.series.is_empty()
        };
        let looks = [9, 10, 19, 26, 29, 30, 57, 59, 60];
        assert_eq!(looks.map(&mut forgotten_at), [false, true, false, true, false, true, true, false, true]);
    }
}
