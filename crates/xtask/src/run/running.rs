// SPDX-License-Identifier: MIT OR Apache-2.0
//! An exporter in the foreground: it is started, asked and ended; and what is read of it, in its
//! answers and in what the kernel returns.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::workspace::Exporter;

/// Attaching takes 50 ms; a minute is for slow machines.
const START: Duration = Duration::from_secs(60);

/// What it takes to answer, at most.
const ANSWER: Duration = Duration::from_secs(2);

/// An exporter's process; it is told to end when this is dropped.
pub struct Running {
    child: Child,
    address: String,
    warnings: Vec<String>,
}

impl Running {
    /// Starts one of those in `folder`, with sudo where this is not root.
    ///
    /// # Errors
    /// When it ends instead of listening, with the last thing it said.
    pub fn start(folder: &Path, exporter: &Exporter, arguments: &[&str]) -> Result<Self> {
        let binary = folder.join(&exporter.binary);
        let mut command =
            Command::new(if geteuid().is_root() { binary.as_os_str() } else { "sudo".as_ref() });
        if !geteuid().is_root() {
            command.arg(&binary);
        }
        let mut child = command
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {}", binary.display()))?;
        let stderr = BufReader::new(child.stderr.take().context("no standard error")?);
        let (sender, lines) = mpsc::channel();
        // Goes on after the start, so that the exporter never blocks on a full pipe.
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody listens any more once it runs.
                let _ = sender.send(line);
            }
        });
        let (mut last, mut warnings) = (String::new(), Vec::new());
        loop {
            match lines.recv_timeout(START) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("listening on ") {
                        let address = address.trim_end_matches('"').replace("[::]", "localhost");
                        return Ok(Self { child, address, warnings });
                    }
                    message(&line).clone_into(&mut last);
                    if line.contains(" level=warn ") {
                        warnings.push(last.clone());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    child.kill()?;
                    bail!("did not start within {START:?}");
                }
                Err(RecvTimeoutError::Disconnected) => {
                    child.wait()?;
                    bail!("{last}");
                }
            }
        }
    }

    /// Where it listens, HOST:PORT.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it warned of before it listened.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// What it answers to `GET path`, without the head.
    ///
    /// # Errors
    /// When it does not.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(ANSWER))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.split_once("\r\n\r\n").context("not HTTP")?.1.to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself, or a terminal's Ctrl-C has reached it.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// What a line of the log says; of another line all.
fn message(line: &str) -> &str {
    let message = line.split_once("msg=").map_or(line, |(_, message)| message.trim_matches('"'));
    message.trim_start_matches("cannot run: ")
}

/// Lines of an exposition that are samples with labels of `name`.
pub fn samples<'t>(text: &'t str, name: &str) -> impl Iterator<Item = &'t str> {
    let start = format!("{name}{{");
    text.lines().filter(move |line| line.starts_with(&start))
}

/// Value of a label in such a line; empty where there is none.
pub fn label<'l>(line: &'l str, name: &str) -> &'l str {
    let start = line.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
    start.split('"').next().unwrap_or_default()
}

/// The descriptor that libbpf returns, or the negative error number.
///
/// # Errors
/// That error.
pub fn owned(result: i32) -> Result<OwnedFd> {
    if result < 0 {
        return Err(rustix::io::Errno::from_raw_os_error(-result).into());
    }
    // SAFETY: it is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_line_is_read() {
        let line = "time=2026-01-01T00:00:00.000Z level=error msg=\"cannot run: CAP_BPF is missing\"";
        assert_eq!(message(line), "CAP_BPF is missing");
        assert_eq!(message("sudo: a password is required"), "sudo: a password is required");
    }
}
