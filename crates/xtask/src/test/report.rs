// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the output of test binaries. Prints a line for each test when it ends, and at the end all
//! failures, each with the command that repeats it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Of the output of a failed test, the last lines are shown, each cut to a width.
const LINES: usize = 24;
const COLUMNS: usize = 300;

/// How many of the slowest tests are named at the end.
const SLOWEST: usize = 12;

/// What the harness prints each time it repeats a test (crates/live/src/harness.rs).
const AGAIN: &str = ", again: ";

/// A test that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Guest or host, binary, and name of the test.
    pub title: String,
    /// The end of its output.
    pub said: String,
    /// The command that repeats it.
    pub again: String,
}

/// A test that was not run.
#[derive(Clone, Debug)]
pub struct NotRun {
    /// Names of the binary and the test.
    pub test: String,
    /// The reason that the binary gives, such as `needs fentry: ...`.
    pub reason: String,
}

/// Results of the tests of one binary or of many.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Durations and titles of tests that passed.
    pub passed: Vec<(Duration, String)>,
    /// Tests, guests and binaries that failed.
    pub failed: Vec<Failure>,
    /// Tests that were not run.
    pub not_run: Vec<NotRun>,
    /// For each repetition of a test that passed in the end: its title and the reason.
    pub repeated: Vec<String>,
}

impl Outcome {
    /// Adds the results of another outcome.
    pub fn add(&mut self, other: Self) {
        self.passed.extend(other.passed);
        self.failed.extend(other.failed);
        self.not_run.extend(other.not_run);
        self.repeated.extend(other.repeated);
    }

    /// Prints the slowest tests, those that were not run, and the failures. The last line has `title`
    /// and the number of each.
    ///
    /// # Errors
    /// When a test failed, or no test ran.
    pub fn print(mut self, title: &str) -> Result<()> {
        self.passed.sort_unstable_by(|a, b| b.cmp(a));
        println!("\nthe tests that took longest:");
        for (took, test) in self.passed.iter().take(SLOWEST) {
            println!("{:>6.1} s  {test}", took.as_secs_f64());
        }
        if !self.repeated.is_empty() {
            println!("\nrepeated, and passed in the end:");
            self.repeated.iter().for_each(|why| println!("  {why}"));
        }
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for test in &self.not_run {
            match reasons.iter_mut().find(|(reason, _)| *reason == test.reason) {
                Some((_, tests)) => tests.push(&test.test),
                None => reasons.push((&test.reason, vec![&test.test])),
            }
        }
        for (reason, tests) in reasons {
            println!("\nnot run, {reason} ({}):", tests.len());
            tests.iter().for_each(|test| println!("  {test}"));
        }
        for failure in &self.failed {
            println!("\nFAILED {}\n{}\nagain: {}", failure.title, failure.said.trim_end(), failure.again);
        }
        let [passed, failed, skipped] = [self.passed.len(), self.failed.len(), self.not_run.len()];
        println!("\n{title}: {passed} passed, {failed} failed, {skipped} skipped");
        if failed > 0 {
            bail!("{failed} failed");
        }
        if passed + skipped == 0 {
            bail!("there is no such test");
        }
        Ok(())
    }
}

/// Reads the output of a test binary, in the format of Rust's own test harness.
pub struct Reader<'a> {
    /// Guest or host on which it runs, for titles.
    place: &'a str,
    /// Name of the binary.
    binary: &'a str,
    /// The command that repeats a test of this binary, without the test's name.
    again: String,
    /// The test that is running.
    test: Option<String>,
    /// When the previous test ended. A test's name and result come in one line, so its start is not seen.
    since: Instant,
    /// Index of the failure whose output is being read, in the list at the end.
    failure: Option<usize>,
    /// Output of the running test.
    said: Vec<String>,
    /// The binary's own totals: passed, failed, ignored.
    result: Option<[usize; 3]>,
    outcome: Outcome,
}

impl<'a> Reader<'a> {
    /// A reader for `binary`, which runs at `place`. `again` is the command that repeats a test, without
    /// the test's name.
    pub fn new(place: &'a str, binary: &'a str, again: &str) -> Self {
        Self {
            place,
            binary,
            again: again.to_owned(),
            test: None,
            since: Instant::now(),
            failure: None,
            said: Vec::new(),
            result: None,
            outcome: Outcome::default(),
        }
    }

    /// Takes the next line.
    pub fn line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.result = counts(result);
            return;
        }
        if line.starts_with("running ") && self.test.is_none() {
            self.since = Instant::now();
            return;
        }
        if self.test.is_none() && self.is_of_failures(line) {
            return;
        }
        let mut rest = line;
        if let Some((test, end)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ...")) {
            // While a test is running such a line is its output.
            if self.test.is_none() {
                self.test = Some(test.trim_end().to_owned());
                self.said.clear();
                rest = end.trim_start();
            }
        }
        let Some(test) = self.test.clone() else { return };
        let took = self.since.elapsed();
        let title = format!("{} {}: {test}", self.place, self.binary);
        match rest.trim_end() {
            "ok" => {
                println!("{title} ok, {:.1} s", took.as_secs_f64());
                let repeated = self.said.iter().filter(|line| line.contains(AGAIN));
                self.outcome.repeated.extend(repeated.map(|line| format!("{title}: {line}")));
                self.outcome.passed.push((took, title));
            }
            "FAILED" => self.fail(&test, took),
            end if end.starts_with("ignored") => {
                let reason = end.trim_start_matches("ignored").trim();
                let reason = reason.strip_prefix('(').and_then(|reason| reason.strip_suffix(')'));
                let reason = reason.unwrap_or("without a reason").to_owned();
                self.outcome.not_run.push(NotRun { test: format!("{}: {test}", self.binary), reason });
            }
            said => {
                if !said.is_empty() {
                    self.said.push(said.chars().take(COLUMNS).collect());
                }
                return;
            }
        }
        self.test = None;
        self.since = Instant::now();
    }

    /// Takes a line of the list at the end, which has the output of each failed test. Returns whether
    /// it is one.
    fn is_of_failures(&mut self, line: &str) -> bool {
        if let Some(test) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" ----")) {
            let end = format!(": {test}");
            self.failure = self.outcome.failed.iter().position(|failure| failure.title.ends_with(&end));
            if let Some(failure) = self.failure {
                // The list has the complete output; it replaces what was read while the test ran.
                self.outcome.failed[failure].said.clear();
            }
            return true;
        }
        if line == "failures:" {
            self.failure = None;
        }
        let Some(failure) = self.failure else { return false };
        let said = &mut self.outcome.failed[failure].said;
        said.extend("    ".chars().chain(line.chars().take(COLUMNS)).chain(['\n']));
        true
    }

    fn fail(&mut self, test: &str, took: Duration) {
        let mut said = String::new();
        for line in &self.said[self.said.len().saturating_sub(LINES)..] {
            // Writing to a string does not fail.
            let _ = writeln!(said, "    {line}");
        }
        let title = format!("{} {}: {test}", self.place, self.binary);
        println!("{title} FAILED after {:.1} s\n{}", took.as_secs_f64(), said.trim_end());
        // `::` in a test's name needs no quotes in a shell.
        self.outcome.failed.push(Failure { title, said, again: format!("{} --filter {test}", self.again) });
    }

    /// The outcome, once the binary has ended with the result `ended`. A binary fails if it ends during
    /// a test, or if its totals differ from the results that were read.
    pub fn end(mut self, ended: &Result<i32>, console: &str) -> Outcome {
        let why = match ended {
            Err(error) => Some(format!("{error:#}")),
            Ok(_) if self.test.is_some() => Some("it ended in the middle of a test".to_owned()),
            Ok(code) => {
                let read = [self.outcome.passed.len(), self.outcome.failed.len(), self.outcome.not_run.len()];
                match self.result {
                    None => Some(format!("exit {code} without a result: {}", self.said.join("\n"))),
                    Some(result) if result != read => Some(format!(
                        "it says passed, failed, ignored are {result:?}, but {read:?} were read"
                    )),
                    Some([_, 0, _]) if *code != 0 => Some(format!("exit {code} though none failed")),
                    Some(_) => None,
                }
            }
        };
        if let Some(why) = why {
            match self.test.take() {
                Some(test) => {
                    self.said.push(why);
                    self.fail(&test, self.since.elapsed());
                }
                None => {
                    let title = format!("{} {}", self.place, self.binary);
                    println!("{title} FAILED: {why}");
                    self.outcome.failed.push(Failure { title, said: why, again: self.again.clone() });
                }
            }
        }
        for failure in &mut self.outcome.failed {
            // The reason of a failure is at the end of its output.
            let lines: Vec<&str> = failure.said.lines().collect();
            failure.said = lines[lines.len().saturating_sub(LINES)..].join("\n") + "\n";
        }
        if !console.is_empty() {
            for failure in &mut self.outcome.failed {
                failure.said.push_str(console);
            }
        }
        self.outcome
    }
}

/// `ok. 3 passed; 0 failed; 1 ignored; ...`
fn counts(result: &str) -> Option<[usize; 3]> {
    let number = |word: &str| {
        let part = result.split([';', '.']).map(str::trim).find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    Some([number(" passed")?, number(" failed")?, number(" ignored")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, code: i32) -> Outcome {
        let mut reader = Reader::new("here", "disk", "again");
        text.lines().for_each(|line| reader.line(line));
        reader.end(&Ok(code), "")
    }

    const RESULT: &str = "test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";

    #[test]
    fn tests_are_told_apart_from_what_they_print() {
        let outcome = read(
            &format!(
                "running 2 tests\ntest a   ... 3 reads\ntest b ... ok\nok\ntest b ... ignored (needs fentry: none)\n{RESULT}\n"
            ),
            0,
        );
        assert_eq!(outcome.passed[0].1, "here disk: a");
        assert_eq!(
            (&*outcome.not_run[0].test, &*outcome.not_run[0].reason),
            ("disk: b", "needs fentry: none")
        );
        assert!(outcome.failed.is_empty(), "{outcome:?}");
    }

    #[test]
    fn a_test_that_fails_shows_what_it_said_and_how_to_repeat_it() {
        let text = "test a ... thread 'main' panicked at x.rs:1:\n1 is not 2\nFAILED\n\
                    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured\n";
        let outcome = read(text, 101);
        assert_eq!(outcome.failed.len(), 1);
        assert!(outcome.failed[0].said.contains("1 is not 2"));
        assert_eq!(outcome.failed[0].again, "again --filter a");
    }

    #[test]
    fn a_test_that_was_repeated_is_named_with_the_reason() {
        let text = "test a ... disturbed, again: 7 of 3\ndisturbed, again: 8 of 3\nok\n\
                    test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n";
        let repeated = read(text, 0).repeated;
        assert_eq!(
            repeated,
            ["here disk: a: disturbed, again: 7 of 3", "here disk: a: disturbed, again: 8 of 3"]
        );
    }

    #[test]
    fn a_binary_that_ends_in_the_middle_has_failed() {
        assert_eq!(read("test a ... killed\n", 137).failed.len(), 1);
        assert_eq!(read("", 1).failed.len(), 1);
        // The binary's totals are compared with the results that were read.
        assert_eq!(read(&format!("test a ... ok\n{RESULT}\n"), 0).failed.len(), 1);
    }
}
