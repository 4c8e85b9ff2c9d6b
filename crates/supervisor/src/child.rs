// SPDX-License-Identifier: MIT OR Apache-2.0
//! An exporter under supervision: what state it is in, and what follows from what happens to it.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headlines::{Listed, RUNNING};
use rustix::process::Pid;

use crate::backoff::Backoff;

/// Exporters say this often that they are not stuck, and are killed when they do not, as systemd does it with
/// their units.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// Time limit for a start, as in the units.
const START: Duration = Duration::from_secs(180);

/// Exit code of an exporter that cannot run on this machine.
const CANNOT: i32 = 1;

/// Exit code for wrong usage.
const USAGE: i32 = 2;

/// What an exporter does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not said yet that its start is over.
    Starting,
    /// It can be asked. It may be waiting for a kernel module.
    Running,
    /// It cannot run on this machine. It is not started again.
    Unsupported,
    /// It does not understand its arguments. It is not started again.
    Failed,
    /// It ended, and is started again then.
    Ended(Instant),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// An exporter.
#[derive(Debug)]
pub struct Child {
    /// NAME.
    pub name: String,
    /// Path of its program.
    pub program: PathBuf,
    /// Arguments that the user gave for it.
    pub arguments: Vec<String>,
    /// What it does.
    pub state: State,
    /// What it said last, or why it does not run.
    pub says: String,
    /// How often it was started again.
    pub restarts: u64,
    /// Its process.
    pub pid: Option<Pid>,
    /// Where connections are handed to it.
    pub channel: Option<Arc<OwnedFd>>,
    backoff: Backoff,
    started: Instant,
    heard: Instant,
}

impl Child {
    /// One that has not been started.
    pub fn new(name: String, program: PathBuf, arguments: Vec<String>, now: Instant) -> Self {
        Self {
            name,
            program,
            arguments,
            state: State::Ended(now),
            says: String::new(),
            restarts: 0,
            pid: None,
            channel: None,
            backoff: Backoff::default(),
            started: now,
            heard: now,
        }
    }

    /// Its process was started.
    pub fn has_started(&mut self, pid: Pid, channel: OwnedFd, now: Instant) {
        (self.pid, self.channel) = (Some(pid), Some(channel.into()));
        self.state = State::Starting;
        self.says = "starting".to_owned();
        (self.started, self.heard) = (now, now);
    }

    /// It said something, in the words of sd_notify(3). Returns whether its start is over by that.
    pub fn has_said(&mut self, message: &str, now: Instant) -> bool {
        self.heard = now;
        let mut is_ready = false;
        for line in message.lines() {
            match line.split_once('=') {
                Some(("STATUS", status)) => status.clone_into(&mut self.says),
                Some(("READY", "1")) if self.state == State::Starting => {
                    self.state = State::Running;
                    is_ready = true;
                }
                _ => {}
            }
        }
        is_ready
    }

    /// Its process ended.
    pub fn has_ended(&mut self, exit: Exit, now: Instant) {
        (self.pid, self.channel) = (None, None);
        let in_start = self.state == State::Starting;
        self.state = match exit {
            // Its last words are the reason.
            Exit::Code(CANNOT) if in_start => State::Unsupported,
            Exit::Code(USAGE) if in_start => {
                "wrong usage: see the log for its message, and --arg".clone_into(&mut self.says);
                State::Failed
            }
            exit => {
                let wait = self.backoff.after(now.saturating_duration_since(self.started));
                self.says = format!("it {exit}");
                State::Ended(now + wait)
            }
        };
    }

    /// It could not be started.
    pub fn has_not_started(&mut self, why: String, now: Instant) {
        self.says = why;
        self.state = State::Ended(now + self.backoff.after(Duration::ZERO));
    }

    /// It was stuck and was killed. It is not stuck again before the kernel had time to end it.
    pub fn was_killed(&mut self, now: Instant) {
        (self.started, self.heard) = (now, now);
    }

    /// Makes one that does not run due now.
    pub fn start_soon(&mut self, now: Instant) {
        if self.pid.is_none() {
            self.state = State::Ended(now);
            self.backoff = Backoff::default();
        }
    }

    /// When something is to be done with it: it is to be started, or it is stuck.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Ended(again) => Some(again),
            State::Starting => Some(self.started + START),
            State::Running => Some(self.heard + WATCHDOG),
            State::Unsupported | State::Failed => None,
        }
    }

    /// Whether it will not run again by itself.
    pub fn is_given_up(&self) -> bool {
        matches!(self.state, State::Unsupported | State::Failed)
    }

    /// What others are told of it.
    pub fn listed(&self) -> Listed {
        let state = match self.state {
            State::Starting => "starting",
            State::Running => RUNNING,
            State::Unsupported => "unsupported",
            State::Failed => "failed",
            State::Ended(_) => "ended",
        };
        Listed { exporter: self.name.clone(), state: state.to_owned(), says: self.says.clone() }
    }
}

#[cfg(test)]
mod tests {
    use common::serve::handed;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn started(now: Instant) -> Child {
        let mut child = Child::new("dns".to_owned(), "x".into(), Vec::new(), now);
        start(&mut child, now);
        child
    }

    fn start(child: &mut Child, now: Instant) {
        child.has_started(Pid::INIT, handed::pair().expect("a channel").0, now);
    }

    #[test]
    fn one_that_cannot_run_here_is_left_with_its_reason() {
        let now = Instant::now();
        let mut child = started(now);
        assert!(!child.has_said("STATUS=choosing probes...\n", now));
        assert!(!child.has_said("STATUS=cannot run: no kprobes\n", now));
        child.has_ended(Exit::Code(1), now);
        assert_eq!((&child.state, child.due()), (&State::Unsupported, None));
        assert_eq!(child.listed().says, "cannot run: no kprobes");
        child.start_soon(now);
        assert_eq!(child.due(), Some(now));
        start(&mut child, now);
        child.has_ended(Exit::Code(2), now);
        assert_eq!((&child.state, child.is_given_up()), (&State::Failed, true));
    }

    #[test]
    fn one_that_crashes_is_started_again_later_and_later() {
        let mut now = Instant::now();
        let mut child = started(now);
        for (exit, wait) in [(Exit::Signal(9), 1), (Exit::Code(101), 2), (Exit::Code(0), 4)] {
            child.has_ended(exit, now);
            assert_eq!(child.due(), Some(now + wait * SECOND), "{exit}");
            assert!(child.channel.is_none() && child.pid.is_none());
            start(&mut child, now);
        }
        // The code for what cannot run means something else once it ran.
        assert!(child.has_said("READY=1\nSTATUS=ready with 1 of 1 probe attached\n", now));
        let listed = child.listed();
        assert_eq!((&*listed.state, &*listed.says), (RUNNING, "ready with 1 of 1 probe attached"));
        assert!(!child.has_said("READY=1\n", now));
        now += 60 * SECOND;
        child.has_ended(Exit::Code(1), now);
        assert_eq!(child.due(), Some(now + SECOND));
    }

    #[test]
    fn one_that_is_silent_is_stuck() {
        let now = Instant::now();
        let mut child = started(now);
        assert_eq!(child.due(), Some(now + START));
        child.has_said("READY=1\n", now);
        child.has_said("WATCHDOG=1\n", now + SECOND);
        assert_eq!(child.due(), Some(now + SECOND + WATCHDOG));
    }
}
