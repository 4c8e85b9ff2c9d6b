// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running tests, here and in guests.

use std::collections::BTreeMap;
use std::fs;
use std::mem;
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::guest::image::remove;
use crate::guest::suites::SUITES;
use crate::guest::{self, NO_NETWORK};
use crate::kernels::Hooks;
use crate::lint;
use crate::package;
use crate::workspace::{cargo, exporters, output, root, run};

/// For a guest to say nothing while another one runs beside it: the longest test takes four minutes
/// then. One that stands still is told of while the others go on.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// Guests that run at a time: a guest's two processors keep about one of ours busy.
const AT_A_TIME: usize = 2;

/// Runs into which the tests of each guest are divided: short ones, so that no guest is the
/// last for long.
const PARTS: usize = 3;

/// Crates whose tests take by far the longest: apart, and first, so that none of them is what
/// all wait for in the end.
const LONGEST: [&str; 2] = ["guest", "wireguard"];

/// How many of the slowest tests are named at the end.
const SLOWEST: usize = 30;

/// Lines that are shown again of a test that failed, and how much of each.
const PANIC_LINES: usize = 24;
const PANIC_COLUMNS: usize = 300;

/// Lint, unit tests and guest tests. What guests boot is built meanwhile: that mostly waits
/// for Debian's archive and for programs that use one processor.
///
/// # Errors
/// When anything fails.
pub fn all() -> Result<()> {
    thread::scope(|scope| {
        // Where it fails, running the guest says so.
        scope.spawn(|| SUITES.iter().try_for_each(|suite| guest::image_of(suite).map(drop)));
        lint::run()?;
        unit()?;
        vm(&[], None, "")
    })
}

/// Everything but the test targets named `guest`.
///
/// # Errors
/// When a test fails.
pub fn unit() -> Result<()> {
    run(cargo().args(["test", "--workspace", "--quiet"]))
}

/// The test targets named `guest`, inside guests, with the package that we ship.
///
/// # Errors
/// When a guest or a test fails, or there is nothing to run.
pub fn vm(only: &[String], guest: Option<&str>, filter: &str) -> Result<()> {
    let suites: Vec<_> = SUITES.iter().filter(|suite| guest.is_none_or(|name| suite.name == name)).collect();
    if suites.is_empty() {
        bail!(
            "no guest of that name; there are: {}",
            SUITES.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
        );
    }
    let package = package::deb()?;
    let tests = build_tests(only)?;
    let work = root().join("target/guest-runs");
    let mut payloads = Vec::new();
    for part in 0..PARTS.min(tests.len()) {
        let payload = work.join(format!("payload-{part}"));
        let tests: Vec<_> = tests.iter().skip(part).step_by(PARTS).collect();
        make_payload(&payload, &package, &tests, filter, suites[0].name)?;
        payloads.push((part, payload));
    }
    // One guest that is asked for runs all.
    let leave_out = if guest.is_none() && only.is_empty() { of_no_module()? } else { Vec::new() };
    for (_, payload) in &payloads {
        leave_out_between(payload, &leave_out)?;
    }
    let runs = payloads.iter().flat_map(|payload| suites.iter().map(move |suite| (suite, payload)));
    let runs = Mutex::new(runs);
    let alone = suites.len() * payloads.len() == 1;
    let failed = Mutex::new(Vec::new());
    let times = Mutex::new(Vec::new());
    let failures = Mutex::new(Vec::new());
    let hooks = Mutex::new(Hooks::default());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get).min(AT_A_TIME) {
            scope.spawn(|| {
                loop {
                    let next = runs.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((suite, (part, payload))) = next else { break };
                    let name = format!("{}-{part}", suite.name);
                    let mut blocks = Blocks::new(alone);
                    // The others tell whether it is the kernel.
                    let mut say = |line: &str| {
                        if !hooks.lock().unwrap_or_else(PoisonError::into_inner).take(suite.name, line) {
                            blocks.say(line);
                        }
                    };
                    let folder = work.join(&name);
                    let result = guest::run(suite, payload, &folder, NO_NETWORK, SILENCE, &mut say);
                    blocks.print();
                    times.lock().unwrap_or_else(PoisonError::into_inner).append(&mut blocks.times);
                    failures.lock().unwrap_or_else(PoisonError::into_inner).append(&mut blocks.failures);
                    if let Err(error) = result {
                        println!("{error:#}");
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                    }
                }
            });
        }
    });
    let mut times = times.into_inner().unwrap_or_else(PoisonError::into_inner);
    times.sort_unstable_by(|a, b| b.cmp(a));
    println!("the tests that took longest:");
    for (took, test) in times.iter().take(SLOWEST) {
        println!("{:>6.1} s  {test}", took.as_secs_f64());
    }
    let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failures.is_empty() {
        println!("\nthe tests that failed, with what they said:\n{}", failures.join("\n"));
    }
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!("tests failed in: {}", failed.join(", "));
    }
    hooks.into_inner().unwrap_or_else(PoisonError::into_inner).check()?;
    Ok(())
}

/// Lines that are printed a test binary at a time, as another guest prints meanwhile.
struct Blocks {
    /// Whether no other guest prints.
    alone: bool,
    text: String,
    binary: String,
    /// The test that runs, once its name was printed.
    test: Option<String>,
    /// When the test before it ended.
    since: Instant,
    times: Vec<(Duration, String)>,
    /// Name of each test that failed, and what it said when it panicked.
    failures: Vec<String>,
    /// How many more lines of that are kept.
    panic_lines: usize,
}

impl Blocks {
    fn new(alone: bool) -> Self {
        Self {
            alone,
            text: String::new(),
            binary: String::new(),
            test: None,
            since: Instant::now(),
            times: Vec::new(),
            panic_lines: 0,
            failures: Vec::new(),
        }
    }

    fn say(&mut self, line: &str) {
        if let Some(binary) = line.strip_prefix("=== ") {
            self.print();
            binary.clone_into(&mut self.binary);
        }
        if let Some((test, _)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ...")) {
            self.test = Some(test.to_owned());
        }
        self.keep_failure(line);
        // What a test prints by itself comes between its name and its end.
        let ended = matches!(line.rsplit(' ').next(), Some("ok" | "FAILED"));
        if let Some(test) = self.test.take_if(|_| ended) {
            let took = mem::replace(&mut self.since, Instant::now()).elapsed();
            self.times.push((took, format!("{}: {test}", self.binary)));
        } else if self.test.is_none() {
            self.since = Instant::now();
        }
        self.text.push_str(line);
        self.text.push('\n');
        if self.alone {
            self.print();
        }
    }

    /// The test runner tells of failures once a binary's tests have ended.
    fn keep_failure(&mut self, line: &str) {
        if let Some(test) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            self.failures.push(format!("--- {}: {test}", self.binary));
            self.panic_lines = 0;
        } else if line == "failures:" {
            self.panic_lines = 0;
        } else if line.contains(" panicked at ") {
            self.panic_lines = PANIC_LINES;
        }
        if let Some(failure) = self.failures.last_mut().filter(|_| self.panic_lines > 0) {
            self.panic_lines -= 1;
            failure.push('\n');
            failure.extend(line.chars().take(PANIC_COLUMNS));
        }
    }

    fn print(&mut self) {
        print!("{}", mem::take(&mut self.text));
    }
}

/// A folder with the package, `tests` and a script that runs them; guest `once` runs those too
/// that one guest is enough for.
fn make_payload(
    payload: &Path,
    package: &Path,
    tests: &[&(String, PathBuf)],
    filter: &str,
    once: &str,
) -> Result<()> {
    remove(payload)?;
    fs::create_dir_all(payload.join("tests"))?;
    fs::copy(package, payload.join("ebpf-exporters.deb"))?;
    for (name, path) in tests {
        fs::copy(path, payload.join("tests").join(name)).with_context(|| format!("{}", path.display()))?;
    }
    // Tests named last_* leave a guest that is of no use to others, and last_of_all_* one that is
    // of none to those; tests named once_* ask what is the same in all guests.
    let script = format!(
        "#!/bin/sh\nstatus=0\nexport RUST_BACKTRACE=0\n. /etc/os-release\n\
         once='--skip once_'\n[ $VERSION_CODENAME != {once} ] || once=\n\
         each() {{\n\techo \"=== $(uname -r): ${{test##*/}}\"\n\t\"$test\" --test-threads=1 \"$@\" || status=1\n}}\n\
         for test in /payload/tests/*; do\n\
         \tif grep -qx \"${{test##*/}}\" /payload/leave-out-$VERSION_CODENAME 2> /dev/null; then\n\
         \t\techo \"=== $(uname -r): ${{test##*/}} is left to the kernels before and after it\"\n\
         \telse\n\t\teach --skip last_ $once {filter}\n\tfi\ndone\n\
         later() {{\n\tfor test in /payload/tests/*; do\n\
         \t\t! \"$test\" --list {filter} $skip | grep -q \"^$1\" || each $1 $skip\n\tdone\n}}\n\
         skip='--skip last_of_all_' later last_\nskip= later last_of_all_\n\
         exit $status\n"
    );
    fs::write(payload.join("run"), script)?;
    fs::set_permissions(payload.join("run"), fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Folders of exporters that need no kernel module.
fn of_no_module() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for exporter in exporters()? {
        let main = root().join("crates").join(&exporter.name).join("src/main.rs");
        if !fs::read_to_string(main)?.contains(".of_module(") {
            names.push(exporter.name);
        }
    }
    Ok(names)
}

/// Tells the payload which tests a guest leaves to those whose kernels are before and after
/// its own; it says so itself.
fn leave_out_between(payload: &Path, names: &[String]) -> Result<()> {
    for suite in SUITES.iter().filter(|suite| suite.is_between) {
        fs::write(payload.join(format!("leave-out-{}", suite.name)), names.join("\n") + "\n")?;
    }
    Ok(())
}

/// Builds the test targets named `guest`; returns crate folder and binary of each.
fn build_tests(only: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let packages = with_guest_tests()?;
    let chosen: Vec<_> =
        packages.iter().filter(|(folder, _)| only.is_empty() || only.contains(folder)).collect();
    if chosen.is_empty() {
        bail!(
            "no such crate with guest tests; there are: {}",
            packages.keys().cloned().collect::<Vec<_>>().join(", ")
        );
    }
    let mut command = cargo();
    command.args(["test", "--no-run", "--test=guest", "--message-format=json", "--quiet"]);
    if only.is_empty() {
        // The features of dependencies are those of the unit tests, which have built them.
        command.arg("--workspace");
    } else {
        command.args(chosen.iter().flat_map(|(_, package)| ["--package", package]));
    }
    let mut tests = Vec::new();
    for line in output(&mut command)?.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message is not JSON")?;
        // cargo builds the exporter itself as well.
        if message["profile"]["test"] != true {
            continue;
        }
        let (Some(path), Some(manifest)) =
            (message["executable"].as_str(), message["manifest_path"].as_str())
        else {
            continue;
        };
        tests.push((folder_of(manifest)?, PathBuf::from(path)));
    }
    if tests.len() != chosen.len() {
        bail!("{} crates have {} guest tests", chosen.len(), tests.len());
    }
    // cargo names them in the order in which it was done with them.
    tests.sort_by_key(|(name, _)| {
        (LONGEST.iter().position(|long| long == name).unwrap_or(LONGEST.len()), name.clone())
    });
    Ok(tests)
}

/// Crate folders and package names of all that have a test target named `guest`.
fn with_guest_tests() -> Result<BTreeMap<String, String>> {
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let is_guest = |target: &Value| target["name"] == "guest" && target["kind"][0] == "test";
        let (Some(name), Some(manifest)) = (package["name"].as_str(), package["manifest_path"].as_str())
        else {
            continue;
        };
        if package["targets"].as_array().into_iter().flatten().any(is_guest) {
            found.insert(folder_of(manifest)?, name.to_owned());
        }
    }
    Ok(found)
}

fn folder_of(manifest: &str) -> Result<String> {
    let folder = Path::new(manifest).parent().and_then(Path::file_name).context("a crate without folder")?;
    Ok(folder.to_string_lossy().into_owned())
}
