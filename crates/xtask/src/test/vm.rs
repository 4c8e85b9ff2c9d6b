// SPDX-License-Identifier: MIT OR Apache-2.0
//! Live tests in guests, with the package that we ship.
//!
//! Each guest boots once, mounts the payload and installs the package; then its state is saved. The
//! tests of a crate run in a machine that starts from that state. Several machines run at a time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::binaries::{self, Binary};
use super::report::{Failure, Outcome, Reader};
use crate::assemble::kernels::Hooks;
use crate::guest::accel::Accel;
use crate::guest::image::remove;
use crate::guest::suites::{LACKED, Part, SUITES, Suite, suite};
use crate::guest::{Guest, State, machine};
use crate::phases;
use crate::release::{image, package};
use crate::workspace::{exporters, root};

/// A guest prints nothing while a test runs. A guest that is silent for longer than this is reported as
/// hung, while the others continue. It is twice the time of the longest test beside another guest.
const SILENCE: Duration = Duration::from_secs(8 * 60);

/// Number of guests that run at a time. An emulated guest keeps one processor busy, except while its
/// tests wait. One more guest runs beside these; it only takes tests that mostly wait.
const AT_A_TIME: usize = 3;

/// Crates whose tests take longest. They are started first, in this order, so that the run does not
/// end with one of them alone.
const LONGEST: [&str; 5] = ["live", "wireguard", "zfs-zio", "zfs-txg", "dns"];

/// The crate whose tests that change the whole machine have a machine each. All other tests of a crate
/// share one: in a new machine the emulator translates the kernel and the programs again.
const SPREAD: &str = "live";

/// The crate whose tests run the container image.
const OF_IMAGE: &str = "live";

/// Number of lines of a guest's console that are shown with a failure.
const CONSOLE_LINES: usize = 12;

/// Which tests to run, in which guests.
#[derive(Debug, Default)]
pub struct Selection {
    /// Folders in `crates/`; empty for all.
    pub only: Vec<String>,
    /// Name of a guest; `None` for all guests that are not on demand.
    pub guest: Option<String>,
    /// Whether to run the on-demand guests as well, and all tests in every guest.
    pub all: bool,
    /// Only tests whose name contains this.
    pub filter: String,
    /// The accelerator for the guests.
    pub accel: Option<Accel>,
}

/// Work for one machine: tests of a binary in a guest.
#[derive(Debug)]
struct Job {
    suite: &'static Suite,
    binary: String,
    /// A single test; `None` for all tests of the binary that share a machine.
    test: Option<String>,
    /// Whether the test is marked `waits`.
    waits: bool,
    /// Whether tests marked `once` run.
    once: bool,
}

/// What the workers share.
#[derive(Default)]
struct Board {
    /// Guests in which the package is not installed yet.
    to_prepare: Vec<&'static Suite>,
    /// Guests with the package installed; `None` where that failed.
    ready: BTreeMap<&'static str, Option<Prepared>>,
    jobs: Vec<Job>,
    outcome: Outcome,
    hooks: Hooks,
}

/// A guest with the package installed.
struct Prepared {
    guest: Guest,
    state: State,
}

/// Runs the selected tests.
///
/// # Errors
/// When no test is selected, or the package or a test cannot be built. Failures in guests are part of
/// the outcome.
pub fn run(selection: &Selection) -> Result<Outcome> {
    let suites = match &selection.guest {
        Some(name) => vec![suite(name)?],
        None => SUITES.iter().filter(|suite| selection.all || suite.part != Part::OnDemand).collect(),
    };
    let work = root().join("target/guest-runs");
    let board = Mutex::new(Board::default());
    thread::scope(|scope| {
        // Builds the images while the package is built, and goes on while the first guests run. An error is
        // reported when that guest is prepared.
        scope.spawn(|| {
            for suite in &suites {
                if Guest::of(suite, selection.accel).and_then(|guest| guest.booted()).is_err() {
                    break;
                }
            }
        });
        let package = phases::named("package", package::for_tests)?;
        phases::named("lintian", || package::has_no_errors(&package))?;
        let binaries = phases::named("test binaries", || binaries::build(&selection.only, &[]))?;
        let payload = work.join("payload");
        make_payload(&payload, &package, &binaries)?;
        if binaries.iter().any(|binary| binary.name == OF_IMAGE) {
            phases::named("container image", || image::for_tests(&payload.join("ebpf-exporters.oci.tar")))?;
        }
        let jobs = jobs(selection, &suites, &binaries)?;
        if jobs.is_empty() {
            bail!("no test's name contains {:?}", selection.filter);
        }
        let has_jobs = |suite: &&Suite| jobs.iter().any(|job| job.suite.name == suite.name);
        let to_prepare = suites.iter().rev().copied().filter(has_jobs).collect();
        *board.lock().unwrap_or_else(PoisonError::into_inner) =
            Board { to_prepare, jobs, ..Board::default() };
        let changed = Condvar::new();
        phases::named("guests", || {
            thread::scope(|scope| {
                for n in 0..=AT_A_TIME {
                    let patient = n == AT_A_TIME;
                    let (board, changed, payload, work) = (&board, &changed, &payload, &work);
                    scope.spawn(move || worker(selection, board, changed, payload, work, patient));
                }
            });
            Ok(())
        })
    })?;
    let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
    // One test prints all hooks of a guest. If a test failed, some may be missing.
    if board.outcome.failed.is_empty() {
        board.hooks.check()?;
    }
    Ok(board.outcome)
}

/// Variables that select the tests with a machine of their own.
const ALONE: [(&str, &str); 2] = [("LIVE_WAITS", "0"), ("LIVE_OWN", "1")];

/// Variables that select the tests of a binary that share a machine.
fn shared(binary: &str) -> Vec<(&'static str, &'static str)> {
    let mut kind = vec![("LIVE_WAITS", "0")];
    if binary == SPREAD {
        kind.push(("LIVE_OWN", "0"));
    }
    kind
}

/// All jobs. Workers take them from the end, so the longest come last.
fn jobs(selection: &Selection, suites: &[&'static Suite], binaries: &[Binary]) -> Result<Vec<Job>> {
    let of_modules = of_modules()?;
    let whole = selection.guest.is_some() || selection.all;
    let first = suites.first().map(|suite| suite.name);
    let mut jobs = Vec::new();
    for binary in binaries {
        let list = |once| -> Result<[Vec<String>; 3]> {
            let list = |kind| binary.tests(&selection.filter, once, kind);
            let own = if binary.name == SPREAD { list(&ALONE)? } else { Vec::new() };
            Ok([list(&shared(&binary.name))?, own, list(&[("LIVE_WAITS", "1")])?])
        };
        let (without_once, with_once) = (list(false)?, list(true)?);
        for suite in suites {
            let runs = match suite.part {
                _ if whole || !selection.only.is_empty() => true,
                Part::Whole => true,
                Part::OfModules => of_modules.contains(&binary.name),
                Part::Only(crates) => crates.contains(&&*binary.name),
                Part::OnDemand => false,
            };
            // The result is the same on all kernels, so the first guest is enough.
            let once = first == Some(suite.name);
            let [together, alone, waiting] = if once { &with_once } else { &without_once };
            if !runs {
                continue;
            }
            let job = |test, waits| Job { suite, binary: binary.name.clone(), test, waits, once };
            jobs.extend(waiting.iter().map(|test| job(Some(test.clone()), true)));
            jobs.extend(alone.iter().map(|test| job(Some(test.clone()), false)));
            if !together.is_empty() {
                jobs.push(job(None, false));
            }
        }
    }
    let place = |job: &Job| LONGEST.iter().position(|name| *name == job.binary).unwrap_or(LONGEST.len());
    jobs.sort_by_key(|job| std::cmp::Reverse(place(job)));
    Ok(jobs)
}

/// Prepares guests, then runs jobs of prepared guests, until none are left. A `patient` worker only
/// takes jobs that mostly wait; the other workers take those last.
fn worker(
    selection: &Selection,
    board: &Mutex<Board>,
    changed: &Condvar,
    payload: &Path,
    work: &Path,
    patient: bool,
) {
    let lock = || board.lock().unwrap_or_else(PoisonError::into_inner);
    let mut now = lock();
    loop {
        if !patient && let Some(suite) = now.to_prepare.pop() {
            drop(now);
            let prepared = phases::named(&format!("{}: install the package", suite.name), || {
                prepare(selection, suite, payload, work)
            });
            now = lock();
            let prepared = prepared.map_err(|error| {
                let again = format!("cargo xtask test-vm --guest {}", suite.name);
                let failure = Failure { title: suite.name.to_owned(), said: format!("{error:#}"), again };
                println!("{}: {}", failure.title, failure.said);
                now.outcome.failed.push(failure);
                now.jobs.retain(|job| job.suite.name != suite.name);
            });
            now.ready.insert(suite.name, prepared.ok());
            changed.notify_all();
            continue;
        }
        let next = |waits| {
            let fits = |job: &Job| job.waits == waits && now.ready.contains_key(job.suite.name);
            now.jobs.iter().rposition(fits)
        };
        let next = if patient { next(true) } else { next(false).or_else(|| next(true)) };
        let Some(next) = next else {
            if !now.jobs.iter().any(|job| job.waits || !patient) {
                return;
            }
            now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let job = now.jobs.remove(next);
        let Some(Some(Prepared { guest, state })) = now.ready.get(job.suite.name) else { continue };
        let (guest, state) = (guest.clone(), state.clone());
        drop(now);
        let (outcome, hooks) = run_job(selection, &guest, &state, &job, work);
        now = lock();
        now.outcome.add(outcome);
        for hook in hooks {
            now.hooks.take(job.suite.name, &hook);
        }
    }
}

fn prepare(selection: &Selection, suite: &'static Suite, payload: &Path, work: &Path) -> Result<Prepared> {
    let guest = Guest::of(suite, selection.accel)?;
    let mut said = Vec::new();
    let state = guest
        .ready(payload, &work.join(format!("{}-ready", suite.name)), &mut |line| said.push(line.to_owned()))
        .map_err(|error| anyhow!("{error:#}\n{}", said.join("\n")))?;
    Ok(Prepared { guest, state })
}

/// Runs a job. Returns its outcome, and the lines of its output that name hooks.
fn run_job(
    selection: &Selection,
    guest: &Guest,
    state: &State,
    job: &Job,
    work: &Path,
) -> (Outcome, Vec<String>) {
    let Job { suite, binary, test, once, .. } = job;
    let name = test
        .as_deref()
        .map_or_else(|| binary.clone(), |test| format!("{binary}-{}", test.replace("::", "-")));
    let folder = work.join(suite.name).join(name);
    let (kind, chosen) = match test {
        Some(test) => (Vec::new(), format!("--exact {test}")),
        None => (shared(binary), selection.filter.clone()),
    };
    let kind: String = kind.iter().map(|(variable, value)| format!("{variable}={value} ")).collect();
    let once = u8::from(*once);
    let line = format!(
        "LIVE_MACHINE=own LIVE_ONCE={once} {kind}RUST_BACKTRACE=0 /payload/tests/{binary} --test-threads=1 {chosen}"
    );
    let again = format!("cargo xtask test-vm --guest {} --only {binary}", suite.name);
    let mut reader = Reader::new(suite.name, binary, &again);
    let (mut log, mut hooks) = (String::new(), Vec::new());
    let ended = guest.command(state, &line, &folder, SILENCE, &mut |line| {
        log.push_str(line);
        log.push('\n');
        if Hooks::is_one(line) {
            hooks.push(line.to_owned());
        } else {
            reader.line(line);
        }
    });
    // The complete output, for reading by hand.
    let _ = fs::write(folder.join("output.log"), log);
    let mut outcome = reader.end(&ended, &console(&folder));
    // A test may be skipped in a guest only for a reason that is listed for it, or for all.
    let known = |reason: &str| LACKED.iter().chain(suite.lacks).any(|lack| reason.starts_with(lack));
    for test in outcome.not_run.iter().filter(|test| !known(&test.reason)) {
        let title = format!("{} {}", suite.name, test.test);
        println!("{title} was not run: {}", test.reason);
        let said = format!("not run in a guest: {}", test.reason);
        outcome.failed.push(Failure { title, said, again: again.clone() });
    }
    outcome.not_run.iter_mut().for_each(|test| test.test = format!("{} {}", suite.name, test.test));
    // The machine's files are kept only if a test failed.
    if outcome.failed.is_empty() {
        let _ = remove(&folder);
    }
    (outcome, hooks)
}

fn console(folder: &Path) -> String {
    let mut lines = Vec::new();
    machine::tell_console(folder, CONSOLE_LINES, &mut |line| lines.push(format!("    {line}")));
    lines.join("\n")
}

/// Makes a folder with the package, the tests, and a script that installs the package.
fn make_payload(payload: &Path, package: &Path, binaries: &[Binary]) -> Result<()> {
    remove(payload)?;
    fs::create_dir_all(payload.join("tests"))?;
    fs::copy(package, payload.join("ebpf-exporters.deb"))?;
    for binary in binaries {
        fs::copy(&binary.path, payload.join("tests").join(&binary.name))
            .with_context(|| format!("{}", binary.path.display()))?;
    }
    let setup = "#!/bin/sh\nexec dpkg --force-unsafe-io -i /payload/ebpf-exporters.deb\n";
    fs::write(payload.join("setup"), setup)?;
    fs::set_permissions(payload.join("setup"), fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Folders of the exporters that observe a kernel module.
fn of_modules() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for exporter in exporters()? {
        let main = root().join("crates").join(&exporter.name).join("src/main.rs");
        if fs::read_to_string(main)?.contains(".of_module(") {
            names.push(exporter.name);
        }
    }
    Ok(names)
}
