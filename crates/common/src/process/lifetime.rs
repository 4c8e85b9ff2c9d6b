// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs an attached exporter: serves, writes or prints until a signal arrives or the kernel module
//! is unloaded. Also waits for a module that is not loaded.
//!
//! A process is in one of two states: it waits for its module, or it is attached to it. It changes
//! between them by executing itself again, so that nothing is left of the other state.

use std::env;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use crate::exposition::encode::Format;
use crate::kernel::module::{self, Module};
use crate::kernel::probes::{Plan, Verdict};
use crate::process::cli::{Common, Keep};
use crate::process::{memory, notify, privileges};
use crate::read::engine::Engine;
use crate::read::maps;
use crate::read::part::Part;
use crate::serve::http::{self, Limits};
use crate::serve::site::Site;
use crate::serve::textfile;
use crate::serve::web::{Door, Front};
use crate::spec::{Need, Spec};
use crate::words::counted;

/// Logs the probes, drops privileges, and then serves, writes or prints as `flags` ask. Dropping
/// `attached` detaches the programs.
///
/// # Errors
/// When an address, a file or a change of capabilities is refused, or the module was unloaded and
/// the exporter cannot restart to wait for it.
#[expect(clippy::too_many_arguments, reason = "everything that was made before")]
pub fn go<A>(
    flags: &Common,
    spec: &Spec,
    plan: &Plan,
    attached: A,
    engine: Engine,
    step: Option<Duration>,
    module: Option<Module>,
    doors: Vec<Door>,
    signals: Signals,
) -> Result<ExitCode> {
    for (probe, verdict) in &plan.verdicts {
        let level = match verdict {
            Verdict::Ok { .. } | Verdict::NotApplicable { .. } => log::Level::Debug,
            Verdict::Fallback { .. } => log::Level::Info,
            Verdict::Unsupported { .. } => log::Level::Warn,
        };
        log::log!(level, "probe {probe}: {verdict}");
    }
    if flags.check {
        print_check(spec, plan)?;
        return Ok(ExitCode::SUCCESS);
    }
    memory::give_back();
    let ready = ready(spec, plan, &engine.state().parts);
    // Threads started from here on inherit the remaining capabilities.
    privileges::drop(flags.keep.as_ref(), &spec.keeps, &engine.state().parts)?;
    let engine = Arc::new(engine);
    let stop = &Stop { signals: stop_signals(signals)?, module };
    let _ticks = step.map(|step| tick(Arc::clone(&engine), step)).transpose()?;
    let mut attached = Some(attached);
    let release = || {
        attached = None;
        engine.release();
        let what = "detached all probes: exporting only metrics that need none until the next start";
        log::info!("{what}");
        notify::status(what);
    };
    let end = if let Some(duration) = flags.once {
        let end = stop.wait(duration);
        if let Some(path) = &flags.textfile {
            textfile::write(path, &engine.scrape_for_file()?)?;
        } else {
            let text = engine.scrape(Format::Text)?;
            io::stdout().lock().write_all(text.as_bytes()).context("failed to write to standard output")?;
        }
        end
    } else if let Some(path) = &flags.textfile {
        keep_writing(path, flags.textfile_interval, &engine, &ready, stop, release)?
    } else {
        serve(flags, spec, &engine, doors, &ready, stop, release)?
    };
    drop(attached);
    log::info!("detached all probes");
    if end == Wake::Module && flags.once.is_none() {
        start_over(spec, flags.keep != Some(Keep::All))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until the module is loaded, then restarts.
///
/// # Errors
/// With `--check` or `--once`, which do not wait. When listening, suspending capabilities or the
/// restart fails.
pub fn wait_for(
    name: &str,
    flags: &Common,
    spec: &Spec,
    doors: Vec<Door>,
    signals: Signals,
) -> Result<ExitCode> {
    if flags.check || flags.once.is_some() {
        bail!("cannot run: kernel module {name} is not loaded");
    }
    let what = format!("waiting for kernel module {name}: it is not loaded");
    log::info!("{what}");
    // Before listening, and before threads start: they inherit the capabilities.
    privileges::suspend(flags.keep.as_ref(), &spec.keeps)?;
    let stop = &Stop { signals: stop_signals(signals)?, module: None };
    let fronts = listen(flags, spec, Arc::new(Engine::waiting(spec, name)), doors)?;
    notify::ready(&what);
    while matches!(stop.wait(Some(module::INTERVAL)), Wake::Time | Wake::Release) {
        notify::watchdog();
        if Module::find(name).is_some() {
            drop(fronts);
            return start_over(spec, false).map(|()| ExitCode::SUCCESS);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Executes this program again after its module was loaded or unloaded. `gave_up` says whether
/// privileges were dropped for good. Executing restores such privileges only for root.
///
/// # Errors
/// When the privileges cannot be restored, or the program cannot be executed.
pub fn start_over(spec: &Spec, gave_up: bool) -> Result<()> {
    let name = spec.module.as_deref().unwrap_or_default();
    let what = format!("kernel module {name} was loaded or unloaded, restarting");
    log::info!("{what}");
    notify::status(&what);
    if !gave_up || privileges::restored_by_exec() {
        return Err(execute_anew()).context("failed to restart");
    }
    bail!(
        "kernel module {name} was unloaded, and the privileges to attach again were dropped: restart the \
           exporter"
    )
}

/// Executes this program again with the same arguments. Returns only on failure.
fn execute_anew() -> io::Error {
    let execute = |program: &Path| Command::new(program).args(env::args_os().skip(1)).exec();
    let error = match env::current_exe() {
        Ok(program) => execute(&program),
        Err(error) => error,
    };
    match error.kind() {
        // Without capabilities even root may lack search permission for a directory of the path.
        // /proc/self/exe leads to the program without a search of these directories.
        io::ErrorKind::PermissionDenied => execute(Path::new("/proc/self/exe")),
        _ => error,
    }
}

/// Starts the thread that waits for signals, and returns the channel to which it sends them.
fn stop_signals(mut signals: Signals) -> Result<Receiver<i32>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("signals".to_owned())
        .stack_size(64 << 10)
        .spawn(move || {
            for signal in signals.forever() {
                // The receiver lives as long as the process.
                let _ = sender.send(signal);
            }
        })
        .context("failed to start the thread that watches for signals")?;
    Ok(receiver)
}

/// Reads everything now and every `step`, until the returned value is dropped.
fn tick(engine: Arc<Engine>, step: Duration) -> Result<Sender<()>> {
    engine.tick()?;
    let (until, end) = mpsc::channel();
    thread::Builder::new()
        .name("ticks".to_owned())
        .stack_size(256 << 10)
        .spawn(move || {
            while end.recv_timeout(step) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = engine.tick() {
                    log::error!("{error:#}");
                }
            }
        })
        .context("failed to start the thread that reads between scrapes")?;
    Ok(until)
}

/// What ends a run.
struct Stop {
    /// Received signals.
    signals: Receiver<i32>,
    /// The module that the exporter needs.
    module: Option<Module>,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    /// Timeout.
    Time,
    /// A signal to exit.
    Signal,
    /// A signal to detach the programs (SIGUSR1).
    Release,
    /// The module was unloaded, or loaded again.
    Module,
}

impl Stop {
    /// Waits until a signal arrives, the module is unloaded, or `time` has passed if it is given.
    fn wait(&self, time: Option<Duration>) -> Wake {
        let deadline = time.map(|time| Instant::now() + time);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let step = self.module.is_some().then_some(module::INTERVAL);
            let next = [left, step].into_iter().flatten().min();
            let signal = match next {
                Some(next) => self.signals.recv_timeout(next),
                None => self.signals.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match signal {
                Ok(SIGUSR1) => return Wake::Release,
                Err(RecvTimeoutError::Timeout) => {}
                // An error means that the signal thread is gone: end as well.
                _ => return Wake::Signal,
            }
            if self.module.as_ref().is_some_and(|module| !module.is_loaded()) {
                return Wake::Module;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Wake::Time;
            }
        }
    }
}

/// Serves requests at `doors` until the process ends. Doors with TLS are served only while the
/// returned value lives.
fn listen(flags: &Common, spec: &Spec, engine: Arc<Engine>, doors: Vec<Door>) -> Result<Vec<Front>> {
    let (path, requests, schema) = (&flags.telemetry_path, flags.max_requests, flags.native_schema);
    let site = Arc::new(Site::new(spec, path, requests, schema, engine));
    let mut fronts = Vec::new();
    for door in doors {
        match door.address {
            Some(address) => log::info!("listening on {address}"),
            None => log::info!("listening to the supervisor"),
        }
        let (site, admits, guard) = (Arc::clone(&site), door.admits(), door.guard);
        let answer = move |request: &http::Request| guard.answer(request, |request| site.answer(request));
        http::serve(door.source, Limits::default(), admits, answer)?;
        fronts.extend(door.front);
    }
    fronts.iter_mut().try_for_each(Front::watch)?;
    Ok(fronts)
}

fn serve(
    flags: &Common,
    spec: &Spec,
    engine: &Arc<Engine>,
    doors: Vec<Door>,
    ready: &str,
    stop: &Stop,
    release: impl FnMut(),
) -> Result<Wake> {
    let _fronts = listen(flags, spec, Arc::clone(engine), doors)?;
    notify::ready(ready);
    Ok(attend(|| engine.is_idle(), stop, release))
}

/// Waits for the end, and sends the systemd watchdog message while work goes on or `is_idle`.
fn attend(is_idle: impl Fn() -> bool, stop: &Stop, mut release: impl FnMut()) -> Wake {
    let mut pulse = Pulse::default();
    let mut next = watchdog();
    loop {
        match stop.wait(next) {
            Wake::Time => {
                next = Some(RETRY);
                if pulse.beats(is_idle(), maps::reads()) {
                    notify::watchdog();
                    next = watchdog();
                }
            }
            Wake::Release => release(),
            end => return ending(end),
        }
    }
}

/// Interval between looks at a scrape that seems to hang.
const RETRY: Duration = Duration::from_secs(1);

/// Whether this process works, for systemd's watchdog.
#[derive(Debug, Default)]
struct Pulse {
    /// Reads from maps at the last look.
    reads: u64,
}

impl Pulse {
    /// Whether no scrape is under way, or something was read since the last look: a million entries
    /// may take longer than the watchdog waits.
    fn beats(&mut self, is_idle: bool, reads: u64) -> bool {
        let before = std::mem::replace(&mut self.reads, reads);
        is_idle || before != reads
    }
}

/// Writes the file at `path` now and every `interval`, in a thread of its own. A write or scrape that
/// hangs stops the systemd watchdog message.
fn keep_writing(
    path: &Path,
    interval: Duration,
    engine: &Engine,
    ready: &str,
    stop: &Stop,
    release: impl FnMut(),
) -> Result<Wake> {
    let write = || textfile::write(path, &engine.scrape_for_file()?);
    write()?;
    notify::ready(ready);
    let is_idle = AtomicBool::new(true);
    let (ended, end) = mpsc::channel::<()>();
    Ok(thread::scope(|scope| {
        scope.spawn(|| {
            let end = end;
            while end.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                is_idle.store(false, Ordering::Relaxed);
                // The first write succeeded, so a later one may: a full disk can be freed.
                write().unwrap_or_else(|error| log::error!("{error:#}"));
                is_idle.store(true, Ordering::Relaxed);
            }
        });
        let wake = attend(|| is_idle.load(Ordering::Relaxed), stop, release);
        drop(ended);
        wake
    }))
}

/// The interval of systemd watchdog messages: half of the watchdog timeout.
fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|interval| interval / 2)
}

/// Tells systemd that the process stops, if a signal asked it to exit.
fn ending(end: Wake) -> Wake {
    if end == Wake::Signal {
        notify::stopping();
    }
    end
}

/// What is attached, in a few words.
fn ready(spec: &Spec, plan: &Plan, parts: &[Part]) -> String {
    let verdicts = plan.verdicts.iter().map(|(_, verdict)| verdict);
    let wanted: Vec<&Verdict> =
        verdicts.filter(|verdict| !matches!(verdict, Verdict::NotApplicable { .. })).collect();
    let attached = wanted.iter().filter(|verdict| !verdict.programs().is_empty()).count();
    let configs = match parts {
        // An exporter with an object of its own.
        [part] if part.config == spec.name => String::new(),
        parts => format!("{}, ", counted(parts.len(), "config")),
    };
    match wanted.len() {
        0 => format!("ready with {configs}no programs"),
        probes => format!("ready with {configs}{attached} of {} attached", counted(probes, "probe")),
    }
}

/// Prints the verdict of each probe.
///
/// # Errors
/// When standard output is closed.
pub fn print_check(spec: &Spec, plan: &Plan) -> Result<()> {
    for (probe, (name, verdict)) in spec.probes.iter().zip(&plan.verdicts) {
        let optional = if probe.need == Need::Required { "" } else { " (optional)" };
        print(format_args!("{name}: {verdict}{optional}"))?;
    }
    Ok(())
}

/// Prints a line.
///
/// # Errors
/// When standard output is closed.
pub fn print(line: fmt::Arguments<'_>) -> Result<()> {
    writeln!(io::stdout().lock(), "{line}").context("failed to write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_that_reads_does_not_hang() {
        let mut pulse = Pulse::default();
        assert!(pulse.beats(true, 0), "no scrape is under way");
        assert!(!pulse.beats(false, 0), "nothing was read");
        assert!(pulse.beats(false, 7), "it reads");
        assert!(!pulse.beats(false, 7), "nothing was read since");
        assert!(pulse.beats(true, 7), "it ended");
    }
}
