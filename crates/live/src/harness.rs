// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the tests of a program one after the other, if the machine has what they need.

use std::any::Any;
use std::env;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::fs::MemfdFlags;

use crate::needs::{Need, Term, missing, preempts_programs};

/// A test, as `#[live::test]` registers it.
#[derive(Debug)]
pub struct Test {
    path: &'static str,
    function: fn(),
    terms: &'static [Term],
}

impl Test {
    /// Called by the code that the attribute generates.
    pub const fn new(path: &'static str, function: fn(), terms: &'static [Term]) -> Self {
        Self { path, function, terms }
    }

    /// The path without the program's name, as libtest prints it.
    fn name(&self) -> &'static str {
        self.path.split_once("::").map_or(self.path, |(_, name)| name)
    }

    /// Tests are sorted by this and the name.
    fn rank(&self) -> u8 {
        let rank = |term: &Term| match term {
            Term::LastOfAll => 2,
            Term::Last => 1,
            Term::Once | Term::Waits | Term::Need(_) => 0,
        };
        self.terms.iter().map(rank).max().unwrap_or(0)
    }

    fn run(&self, capture: bool) -> Result<Completion, Failed> {
        let mut attempts = 0;
        loop {
            PASSED_OVER.store(false, Ordering::Relaxed);
            let captured = capture.then(Captured::begin);
            let result = catch_unwind(AssertUnwindSafe(self.function));
            let said = captured.map_or(String::new(), Captured::end);
            let Err(panic) = result else { return Ok(Completion::Completed) };
            attempts += 1;
            match panic.downcast_ref::<Disturbed>() {
                Some(Disturbed(what)) if attempts < ATTEMPTS => tell(&format!("disturbed, again: {what}")),
                Some(Disturbed(what)) => {
                    return Err(format!(
                        "{said}each of {ATTEMPTS} times, though others or the kernel may be the cause: {what}"
                    )
                    .into());
                }
                None if attempts < ATTEMPTS && PASSED_OVER.load(Ordering::Relaxed) && preempts_programs() => {
                    let what = message(&*panic).replace('\n', " ");
                    tell(&format!("events were lost by recursion, again: {what}"));
                }
                None => return Err(format!("{said}test panicked: {}", message(&*panic)).into()),
            }
        }
    }
}

inventory::collect!(Test);

/// Whether an exporter reported that the kernel skipped one of its programs because it was already
/// running.
static PASSED_OVER: AtomicBool = AtomicBool::new(false);

/// Records that events were lost with reason recursion. On a kernel that preempts programs this
/// happens now and then and makes numbers wrong: a test that fails afterwards is repeated, a few
/// times at most.
pub(crate) fn passed_over() {
    PASSED_OVER.store(true, Ordering::Relaxed);
}

/// Maximum number of runs of a test that others disturb.
const ATTEMPTS: u32 = 6;

/// Panic message of a test that cannot tell its own events from those of others.
struct Disturbed(String);

/// Ends this test and repeats it, a few times at most: other processes did more than it allows for, or
/// the kernel did less than the test relies on. Only for machine-wide counts that are too high, and for
/// what has another proof, such as events that the exporter itself found to be missing. A count that is
/// too low fails at once, and so does one that is wrong every time.
pub fn disturbed(what: String) -> ! {
    resume_unwind(Box::new(Disturbed(what)))
}

/// Asserts that all caused events were counted, and at most `others` more, from other processes.
///
/// # Panics
/// When fewer were counted. When more were, the test is repeated: see [`disturbed`].
#[track_caller]
pub fn assert_nearly(what: &str, ours: f64, exact: f64, others: f64) {
    assert!(ours >= exact, "{what}: {ours}, {exact} were caused");
    if ours > exact + others {
        disturbed(format!("{what}: {ours}, {exact} were caused, others may have {others}"));
    }
}

/// Runs the tests of this program that match its arguments; the `main` of every live test.
///
/// Where `LIVE_ONCE` is 0, tests marked `once` are left out; where `LIVE_WAITS` is 0, those marked
/// `waits` are, and where it is 1 all others. `LIVE_OWN` does the same with those marked `own_machine`.
pub fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let once = env::var_os("LIVE_ONCE").is_none_or(|value| value != "0");
    let only = |variable: &str| env::var_os(variable).map(|value| value != "0");
    let (waits, own) = (only("LIVE_WAITS"), only("LIVE_OWN"));
    let mut tests: Vec<&'static Test> = inventory::iter::<Test>.into_iter().collect();
    tests.retain(|test| once || !test.terms.contains(&Term::Once));
    tests.retain(|test| waits.is_none_or(|waits| waits == test.terms.contains(&Term::Waits)));
    tests.retain(|test| own.is_none_or(|own| own == test.terms.contains(&Term::Need(Need::OwnMachine))));
    tests.sort_by_key(|test| (test.rank(), test.name()));
    let (capture, always) = (!arguments.nocapture, arguments.include_ignored);
    let trial = |test: &'static Test| {
        Trial::ignorable_test(test.name(), move || match missing(test.terms) {
            Some(need) if !always => Ok(Completion::ignored_with(need)),
            _ => test.run(capture),
        })
    };
    libtest_mimic::run(&arguments, tests.into_iter().map(trial).collect()).exit_code()
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("not with a text")
}

/// Prints a line past the output capture: facts to keep, and the progress of a long test.
///
/// # Panics
/// When standard output is closed.
pub fn tell(line: &str) {
    out().write_all(format!("\n{line}\n").as_bytes()).expect("somebody reads");
}

/// Standard output as it was before it was captured.
static OUT: OnceLock<File> = OnceLock::new();

/// The program's own standard output, whether or not output is being captured.
///
/// # Panics
/// When it is closed.
fn out() -> &'static File {
    OUT.get_or_init(|| {
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).expect("it is open").into()
    })
}

/// Captures the output of a test and its child processes, and shows it if the test fails.
struct Captured(File);

impl Captured {
    fn begin() -> Self {
        let memory: OwnedFd = rustix::fs::memfd_create("captured", MemfdFlags::CLOEXEC).expect("memory");
        out();
        std::io::stdout().flush().expect("it is open");
        rustix::stdio::dup2_stdout(&memory).expect("both are open");
        Self(memory.into())
    }

    fn end(mut self) -> String {
        std::io::stdout().flush().expect("it is open");
        rustix::stdio::dup2_stdout(out()).expect("both are open");
        let mut said = Vec::new();
        self.0.rewind().and_then(|()| self.0.read_to_end(&mut said)).expect("it is memory");
        String::from_utf8_lossy(&said).into_owned()
    }
}
