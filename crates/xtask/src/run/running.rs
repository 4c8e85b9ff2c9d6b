// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts an exporter or a supervisor in the foreground, asks it, and stops it. Also reads its answers and
//! the kernel's results.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, geteuid, kill_process};

/// Time limit for the start. Attaching takes 50 ms; slow machines need longer.
const START: Duration = Duration::from_secs(60);

/// Time limit for an answer.
const ANSWER: Duration = Duration::from_secs(2);

/// The process of an exporter or of a supervisor. It gets SIGTERM when this is dropped.
pub struct Running {
    child: Child,
    address: String,
    /// Lines of its log that nobody has asked for.
    early: Vec<String>,
    lines: Receiver<String>,
}

impl Running {
    /// Starts a program from `folder`, with sudo if this process is not root.
    ///
    /// # Errors
    /// When it ends instead of listening; the error has the last line it printed.
    pub fn start(folder: &Path, program: &str, arguments: &[&str]) -> Result<Self> {
        let binary = folder.join(program);
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
        // Reads on after the start, so that the process never blocks on a full pipe.
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Once nobody reads them, lines are of no use.
                let _ = sender.send(line);
            }
        });
        let mut early: Vec<String> = Vec::new();
        loop {
            match lines.recv_timeout(START) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("listening on ") {
                        let address = address.trim_end_matches('"').replace("[::]", "localhost");
                        return Ok(Self { child, address, early, lines });
                    }
                    early.push(line);
                }
                Err(RecvTimeoutError::Timeout) => {
                    child.kill()?;
                    bail!("did not start within {START:?}");
                }
                Err(RecvTimeoutError::Disconnected) => {
                    child.wait()?;
                    bail!("{}", early.last().map_or("it said nothing", |last| message(last)));
                }
            }
        }
    }

    /// The address on which it listens, as HOST:PORT.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The lines of its log that are new since this was last called.
    pub fn lines(&mut self) -> Vec<String> {
        let early = std::mem::take(&mut self.early);
        early.into_iter().chain(self.lines.try_iter()).collect()
    }

    /// As [`Running::lines`], once it has ended.
    pub fn last_lines(&mut self) -> Vec<String> {
        let early = std::mem::take(&mut self.early);
        early.into_iter().chain(self.lines.iter()).collect()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// The body of its answer to `GET path`.
    ///
    /// # Errors
    /// When it does not answer.
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
        // It may have ended already, by itself or by Ctrl-C on the terminal.
        let pid = Pid::from_child(&self.child);
        if kill_process(pid, Signal::TERM) == Err(Errno::PERM) {
            // It was started by sudo.
            let _ = Command::new("sudo").args(["kill", "-TERM", &pid.as_raw_nonzero().to_string()]).status();
        }
        let _ = self.child.wait();
    }
}

/// What a line of the log says; of another line all.
pub fn message(line: &str) -> &str {
    let message = line.split_once("msg=").map_or(line, |(_, message)| message.trim_matches('"'));
    message.trim_start_matches("cannot run: ")
}

/// Lines of an exposition that are samples with labels of `name`.
pub fn samples<'t>(text: &'t str, name: &str) -> impl Iterator<Item = &'t str> {
    let start = format!("{name}{{");
    text.lines().filter(move |line| line.starts_with(&start))
}

/// Value of a label in such a line; empty if it has no such label.
pub fn label<'l>(line: &'l str, name: &str) -> &'l str {
    let start = line.split_once(&format!("{name}=\"")).map_or("", |(_, rest)| rest);
    start.split('"').next().unwrap_or_default()
}

/// Converts a result of libbpf: a descriptor, or a negative error number.
///
/// # Errors
/// When it is an error number.
pub fn owned(result: i32) -> Result<OwnedFd> {
    if result < 0 {
        return Err(Errno::from_raw_os_error(-result).into());
    }
    // SAFETY: the descriptor is new and has no other owner.
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
