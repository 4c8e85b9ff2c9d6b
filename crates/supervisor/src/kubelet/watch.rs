// SPDX-License-Identifier: MIT OR Apache-2.0
//! Adds names to pages, and asks for those that are missing, in a thread of its own.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::exposition::encode::Format;
use common::exposition::protobuf;
use common::process::memory;
use common::read::cgroups;

use crate::apart::More;
use crate::kubelet::flags::{self, Settings};
use crate::kubelet::names::Names;
use crate::kubelet::request::{self, Failure, Reason};
use crate::{messages, text};

/// The label that leads to names.
const BY: &str = "cgroup";

/// Most cgroups that are looked at when new ones are looked for.
const WALKED: usize = 10_000;

/// After this many failures in a row the time between two requests does not double again.
const DOUBLINGS: u32 = 5;

/// The kubelet, and what it said.
#[derive(Debug)]
pub struct Kubelet {
    settings: Settings,
    state: Mutex<State>,
    /// Names are missing.
    wanted: Condvar,
}

#[derive(Debug, Default)]
struct State {
    names: Names,
    requests: u64,
    failures: [u64; Reason::ALL.len()],
}

/// What the supervisor shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that ended.
    pub requests: u64,
    /// Those that failed, by reason.
    pub failures: Vec<(&'static str, u64)>,
    /// Pods that the kubelet listed.
    pub pods: u64,
    /// Pods with cgroups that the kubelet has not named yet.
    pub missing: u64,
}

impl Kubelet {
    /// Asks the kubelet from now on; `None` if the flags name none.
    ///
    /// # Errors
    /// When the flags are not usable, or the thread cannot be started.
    pub fn start(flags: &flags::Kubelet) -> Result<Option<Arc<Self>>> {
        let Some(settings) = Settings::new(flags)? else { return Ok(None) };
        let kubelet = Arc::new(Self { settings, state: Mutex::default(), wanted: Condvar::new() });
        let asking = Arc::clone(&kubelet);
        // TLS takes most of it.
        let thread = thread::Builder::new().name("kubelet".to_owned()).stack_size(512 << 10);
        thread.spawn(move || asking.ask_on()).context("failed to start the thread that asks the kubelet")?;
        Ok(Some(kubelet))
    }

    /// A page of metrics of this type with the names that are known. Other pages are left as they are.
    pub fn name(&self, content_type: &str, page: Vec<u8>) -> Vec<u8> {
        let now = Instant::now();
        let mut state = self.state();
        // Series of the same cgroup follow each other.
        let mut last = (String::new(), More::default());
        let more = |path: &str| {
            if last.0 != path {
                last = (path.to_owned(), state.names.labels(path, now));
            }
            More::clone(&last.1)
        };
        let page = if [Format::Text, Format::OpenMetrics].map(Format::content_type).contains(&content_type) {
            match str::from_utf8(&page).ok().and_then(|page| text::extend(page, BY, more)) {
                Some(named) => named.into_bytes(),
                None => page,
            }
        } else if content_type == protobuf::CONTENT_TYPE {
            // A page that is broken stays so: whoever reads it says that.
            messages::extend(&page, BY, more).ok().flatten().unwrap_or(page)
        } else {
            page
        };
        if state.names.are_wanted() {
            self.wanted.notify_one();
        }
        page
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        let failures = Reason::ALL.map(Reason::word).into_iter().zip(state.failures).collect();
        let [pods, missing] = [state.names.listed_pods(), state.names.missing_pods()].map(|n| n as u64);
        Counts { requests: state.requests, failures, pods, missing }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until names are missing. Looks for new cgroups meanwhile, so that the first page with one of them has
    /// its names too: else its series would end after one sample, and begin anew with more labels.
    fn wait_for_news(&self) {
        let mut state = self.state();
        while !state.names.are_wanted() {
            let waited = self.wanted.wait_timeout(state, self.settings.interval);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() {
                drop(state);
                let (paths, now) = (paths(), Instant::now());
                state = self.state();
                paths.iter().for_each(|path| drop(state.names.labels(path, now)));
            }
        }
    }

    /// Asks at once, so that the first page may have names, and then whenever names are missing.
    fn ask_on(&self) {
        let mut failed: (u32, Option<Reason>) = (0, None);
        loop {
            let asked = Instant::now();
            let answer = request::pods(&self.settings);
            let mut state = self.state();
            state.requests += 1;
            match answer {
                Ok(pods) => {
                    let (length, now) = (pods.len(), Instant::now());
                    state.names.update(pods, now);
                    if failed.1.is_some() || state.requests == 1 {
                        log::info!("the kubelet has named {length} pods");
                    }
                    failed = (0, None);
                }
                Err(Failure { reason, text }) => {
                    if let Some(count) = state.failures.get_mut(reason as usize) {
                        *count += 1;
                    }
                    if failed.1 != Some(reason) {
                        log::warn!(
                            "the kubelet does not name pods, and metrics lack these names until it does: {text}"
                        );
                    }
                    failed = (failed.0 + 1, Some(reason));
                }
            }
            drop(state);
            memory::give_back();
            // The time between two requests is the least that the user allows: nothing ends it.
            thread::sleep(wait(self.settings.interval, failed.0).saturating_sub(asked.elapsed()));
            self.wait_for_news();
        }
    }
}

/// Paths of the cgroups that may be of pods.
fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    if let Some(root) = cgroups::mount() {
        cgroups::walk(root, |_, folder| {
            paths.extend(folder.to_str().filter(|path| path.contains("pod")).map(str::to_owned));
            paths.len() < WALKED
        });
    }
    paths
}

/// The time between two requests, after so many failures in a row.
fn wait(interval: Duration, failures: u32) -> Duration {
    interval.saturating_mul(1 << failures.saturating_sub(1).min(DOUBLINGS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_requests_rarer() {
        let seconds = |failures| wait(Duration::from_secs(10), failures).as_secs();
        assert_eq!([0, 1, 2, 3, 6, 7, u32::MAX].map(seconds), [10, 10, 20, 40, 320, 320, 320]);
        assert!(wait(Duration::MAX, 3) == Duration::MAX);
    }

    #[test]
    fn each_reason_has_its_place() {
        assert_eq!(Reason::ALL.map(|reason| Reason::ALL[reason as usize]), Reason::ALL);
    }
}
