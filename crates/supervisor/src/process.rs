// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes: starts one for an exporter, and collects those that ended.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use clap::ValueEnum;
use common::process::cli::{LogFormat, LogLevel};
use common::serve::handed;
use rustix::process::{Pid, WaitOptions};

use crate::child::{Child, Exit, WATCHDOG};

/// Longest line of an exporter's log that is passed on whole, in bytes.
const LINE: u64 = 64 << 10;

/// Variables for a process that systemd starts itself.
const FOR_US: [&str; 5] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Starts the process of an exporter. It ends with the calling thread, also when that is killed.
pub fn start(child: &mut Child, level: LogLevel, format: LogFormat, now: Instant) {
    if let Err(error) = try_start(child, level, format, now) {
        let why = format!("failed to start {}: {error}", child.program.display());
        log::error!("{}: {why}", child.name);
        child.has_not_started(why, now);
    }
}

fn try_start(child: &mut Child, level: LogLevel, format: LogFormat, now: Instant) -> io::Result<()> {
    let (ours, theirs) = handed::pair()?;
    let word = |value: Option<clap::builder::PossibleValue>| {
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    };
    let mut command = Command::new(&child.program);
    command
        .arg("--supervised")
        .arg(format!("--log.level={}", word(level.to_possible_value())))
        .arg(format!("--log.format={}", word(format.to_possible_value())))
        .args(&child.arguments)
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
        // Ctrl-C on a terminal is for the supervisor alone, which ends exporters by itself.
        .process_group(0)
        .stdin(Stdio::from(theirs))
        .stderr(Stdio::piped());
    for name in FOR_US {
        command.env_remove(name);
    }
    let mut process = command.spawn()?;
    if let Some(stderr) = process.stderr.take() {
        let name = child.name.clone();
        let thread = thread::Builder::new().name("log".to_owned()).stack_size(64 << 10);
        thread.spawn(move || pass_on(&name, format, stderr))?;
    }
    child.has_started(Pid::from_child(&process), ours, now);
    Ok(())
}

/// Passes the log of an exporter on, until it ends.
fn pass_on(name: &str, format: LogFormat, stderr: impl Read) {
    let mut stderr = BufReader::with_capacity(4096, stderr);
    let mut line = Vec::new();
    while (&mut stderr).take(LINE).read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        // If standard error is closed, this cannot be reported anywhere.
        let _ = io::stderr().lock().write_all(&named(name, format, &line));
        line.clear();
    }
}

/// A line of a log, with the name of the exporter.
fn named(name: &str, format: LogFormat, line: &[u8]) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (start, rest) = match (format, line.strip_prefix(b"{")) {
        (LogFormat::Json, Some(rest)) => (format!("{{\"exporter\":\"{name}\","), rest),
        _ => (format!("exporter={name} "), line),
    };
    [start.as_bytes(), rest, b"\n"].concat()
}

/// A process that ended, if one has: an exporter, or one whose parent is gone and whose new parent this is.
pub fn ended() -> Option<(Pid, Exit)> {
    loop {
        let (pid, status) = rustix::process::wait(WaitOptions::NOHANG).ok()??;
        if let Some(code) = status.exit_status() {
            return Some((pid, Exit::Code(code)));
        }
        if let Some(signal) = status.terminating_signal() {
            return Some((pid, Exit::Signal(signal)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_whose_they_are() {
        let named =
            |format, line: &str| String::from_utf8(named("tcp", format, line.as_bytes())).expect("text");
        assert_eq!(
            named(LogFormat::Logfmt, "time=x level=info msg=\"a\"\n"),
            "exporter=tcp time=x level=info msg=\"a\"\n"
        );
        assert_eq!(
            named(LogFormat::Json, "{\"level\":\"info\"}\n"),
            "{\"exporter\":\"tcp\",\"level\":\"info\"}\n"
        );
        assert_eq!(named(LogFormat::Json, "thread panicked"), "exporter=tcp thread panicked\n");
    }
}
