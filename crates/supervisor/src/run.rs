// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts exporters, waits for what happens to them and for signals, and ends them.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::process::{logging, memory, notify};
use common::serve::http::{self, Limits};
use common::serve::web::{self, Door, Front};
use common::serve::{handed, ports};
use common::spec::Spec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::board::Board;
use crate::child::{Child, State};
use crate::flags::Flags;
use crate::kubelet::Kubelet;
use crate::site::Site;
use crate::{installed, process};

/// The port, unless `EBPF_EXPORTERS_PORT_BASE` moves it.
pub const PORT: u16 = 9434;

/// How long exporters may take to end before they are killed. Docker kills a container after 10 s.
const END: Duration = Duration::from_secs(8);

/// Signals that are waited for.
const SIGNALS: [i32; 5] = [SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1];

/// Runs the exporters until a signal ends them.
///
/// # Errors
/// When an address is in use, a file is invalid, there is no exporter, or none can run on this machine.
pub fn run(flags: &Flags) -> Result<ExitCode> {
    logging::start(flags.log_level, flags.log_format);
    memory::one_heap();
    let found = installed::exporters(flags.folder.as_deref(), &flags.names)?;
    if let Some((name, _)) = flags.arguments.iter().find(|(name, _)| !found.contains_key(name)) {
        bail!("--arg: {name} is not one of the exporters to run: {}", list(found.keys()));
    }
    let mut events = Events::new()?;
    let now = Instant::now();
    let children = found.into_iter().map(|(name, program)| {
        let arguments = flags.arguments.iter().filter(|(of, _)| *of == name);
        let arguments = arguments.map(|(_, argument)| argument.clone()).collect();
        Child::new(name, program, arguments, now)
    });
    let board = Arc::new(Board::new(children.collect()));
    // A port in use is the most likely failure.
    let doors = open(flags)?;
    let kubelet = Kubelet::start(&flags.kubelet)?;
    let mut supervisor = Supervisor { board, flags, is_settled: false };
    supervisor.act();
    let _fronts = serve(doors, flags, &supervisor.board, kubelet)?;
    let end = loop {
        if supervisor.settle()? {
            notify::ready("all exporters have been started");
        }
        events.wait(&supervisor.board);
        supervisor.act();
        supervisor.hear();
        let mut end = None;
        for signal in events.signals.pending() {
            match signal {
                SIGCHLD => supervisor.reap(),
                SIGHUP => supervisor.retry(),
                SIGUSR1 => supervisor.send(Signal::USR1),
                other => end = Some(other),
            }
        }
        if end.is_some() {
            break end;
        }
    };
    log::info!("signal {}: ending all exporters", end.unwrap_or_default());
    notify::stopping();
    supervisor.end(&mut events);
    log::info!("all exporters have ended");
    Ok(ExitCode::SUCCESS)
}

fn list<'n>(names: impl Iterator<Item = &'n String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Listens at all addresses.
fn open(flags: &Flags) -> Result<Vec<Door>> {
    let mut addresses = flags.listen.clone();
    if addresses.is_empty() {
        let base = std::env::var_os(ports::BASE);
        let port =
            ports::of(&Spec::new("exporters", PORT, ""), base.as_deref()).map_err(anyhow::Error::msg)?;
        addresses.push(format!(":{port}"));
    }
    web::open(flags.web_config.as_deref(), http::bind(&addresses)?)
}

/// Serves until the process ends. Doors with TLS are served while the returned value lives.
fn serve(
    doors: Vec<Door>,
    flags: &Flags,
    board: &Arc<Board>,
    kubelet: Option<Arc<Kubelet>>,
) -> Result<Vec<Front>> {
    let site = Arc::new(Site::new(Arc::clone(board), flags.max_requests.into(), kubelet));
    let mut fronts = Vec::new();
    for door in doors {
        if let Some(address) = door.address {
            log::info!("listening on {address}");
        }
        let (site, admits, guard) = (Arc::clone(&site), door.admits(), door.guard);
        let answer = move |request: &http::Request| guard.answer(request, |request| site.answer(request));
        http::serve(door.source, Limits::default(), admits, answer)?;
        fronts.extend(door.front);
    }
    fronts.iter_mut().try_for_each(Front::watch)?;
    Ok(fronts)
}

/// What the loop waits for.
struct Events {
    signals: Signals,
    /// Has bytes when a signal came.
    woken: UnixStream,
}

impl Events {
    fn new() -> Result<Self> {
        let signals = Signals::new(SIGNALS).context("failed to watch for signals")?;
        let (woken, wake) = UnixStream::pair().context("failed to make a pair of sockets")?;
        woken.set_nonblocking(true)?;
        for signal in SIGNALS {
            signal_hook::low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        Ok(Self { signals, woken })
    }

    /// Waits until a signal comes, an exporter says something, or something is due.
    fn wait(&mut self, board: &Board) {
        let (channels, due): (Vec<_>, Vec<_>) = {
            let children = board.children();
            (
                children.iter().filter_map(|child| child.channel.clone()).collect(),
                children.iter().filter_map(Child::due).collect(),
            )
        };
        self.wait_for(&channels, due.into_iter().min());
    }

    fn wait_for(&mut self, channels: &[Arc<OwnedFd>], due: Option<Instant>) {
        let fds = [self.woken.as_fd()].into_iter().chain(channels.iter().map(|channel| channel.as_fd()));
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let left =
            left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        // Interrupted by a signal, whose byte is there by then.
        let _ = poll(&mut fds, left.as_ref());
        while (&self.woken).read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
    }
}

struct Supervisor<'f> {
    board: Arc<Board>,
    flags: &'f Flags,
    is_settled: bool,
}

impl Supervisor<'_> {
    /// Does what is due: starts exporters, and kills those that are stuck.
    fn act(&self) {
        let now = Instant::now();
        for child in
            self.board.children().iter_mut().filter(|child| child.due().is_some_and(|due| due <= now))
        {
            match (&child.state, child.pid) {
                (State::Ended(_), None) => {
                    child.restarts += u64::from(!child.says.is_empty());
                    process::start(child, self.flags.log_level, self.flags.log_format, now);
                }
                (_, Some(pid)) => {
                    log::error!("{} does not say that it works: it is killed", child.name);
                    // It may have ended just now.
                    let _ = kill_process(pid, Signal::KILL);
                    child.was_killed(now);
                }
                _ => {}
            }
        }
    }

    /// Takes what exporters said.
    fn hear(&self) {
        let now = Instant::now();
        self.board.children().iter_mut().for_each(|child| hear(child, now));
    }

    /// Collects the processes that ended.
    fn reap(&self) {
        while let Some((pid, exit)) = process::ended() {
            let now = Instant::now();
            let mut children = self.board.children();
            let Some(child) = children.iter_mut().find(|child| child.pid == Some(pid)) else {
                log::debug!("process {} {exit}", pid.as_raw_nonzero());
                continue;
            };
            // Its last words may still be unread.
            hear(child, now);
            child.has_ended(exit, now);
            let name = &child.name;
            match child.state {
                State::Unsupported => log::warn!("{name} is not supported here: {}", child.says),
                State::Ended(again) => {
                    let wait = again.saturating_duration_since(now);
                    log::error!("{name} {exit}: it is started again in {wait:?}");
                }
                _ => log::error!("{name} {exit}: {}", child.says),
            }
        }
    }

    /// Starts all that do not run.
    fn retry(&self) {
        log::info!("starting all exporters that do not run");
        let now = Instant::now();
        self.board.children().iter_mut().for_each(|child| child.start_soon(now));
    }

    /// Sends a signal to all exporters.
    fn send(&self, signal: Signal) {
        for pid in self.board.children().iter().filter_map(|child| child.pid) {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether all have been started or given up, for the first time.
    fn settle(&mut self) -> Result<bool> {
        let children = self.board.children();
        if children.iter().all(Child::is_given_up) {
            let reasons: BTreeSet<&str> = children.iter().map(|child| child.says.as_str()).collect();
            match reasons.first().filter(|_| reasons.len() == 1) {
                Some(reason) => bail!("no exporter runs here: {reason}"),
                None => bail!("no exporter runs here; the lines above say why"),
            }
        }
        let is_open = |child: &Child| matches!(child.state, State::Starting);
        let settles = !self.is_settled && !children.iter().any(is_open);
        if settles {
            let running = children.iter().filter(|child| child.state == State::Running);
            log::info!("running: {}", list(running.map(|child| &child.name)));
        }
        drop(children);
        self.is_settled |= settles;
        Ok(settles)
    }

    /// Ends all exporters and waits for them. Kills them if they take too long, or at the next such signal.
    fn end(&self, events: &mut Events) {
        self.send(Signal::TERM);
        let deadline = Instant::now() + END;
        let mut is_killed = false;
        while self.board.children().iter().any(|child| child.pid.is_some()) {
            if !is_killed && Instant::now() >= deadline {
                log::warn!("some exporters do not end: they are killed");
                self.send(Signal::KILL);
                is_killed = true;
            }
            events.wait_for(&[], (!is_killed).then_some(deadline));
            for signal in events.signals.pending() {
                if signal == SIGINT || signal == SIGTERM {
                    self.send(Signal::KILL);
                }
            }
            while let Some((pid, _)) = process::ended() {
                for child in self.board.children().iter_mut().filter(|child| child.pid == Some(pid)) {
                    (child.pid, child.channel) = (None, None);
                }
            }
        }
    }
}

/// Takes what an exporter said.
fn hear(child: &mut Child, now: Instant) {
    while let Some(channel) = child.channel.clone() {
        match handed::hear(&*channel) {
            Ok(Some(message)) => {
                if child.has_said(&message, now) {
                    log::info!("{}: {}", child.name, child.says);
                }
            }
            Ok(None) => return,
            // It ends: SIGCHLD follows.
            Err(_) => child.channel = None,
        }
    }
}
