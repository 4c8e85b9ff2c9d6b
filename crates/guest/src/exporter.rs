// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs an exporter of the installed package, and asks it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::exposition::Exposition;

/// A running exporter; it is killed when this is dropped.
#[derive(Debug)]
pub struct Exporter {
    child: Child,
    port: u16,
}

impl Exporter {
    /// Starts `ebpf-NAME-exporter` on a free port and waits until it listens.
    ///
    /// # Panics
    /// When it ends instead; shows what it said.
    #[track_caller]
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        Self::spawn(Command::new(format!("ebpf-{name}-exporter")).args(arguments))
    }

    /// As [`Exporter::start`], by a command that ends in the exporter's own flags.
    ///
    /// # Panics
    /// When it ends instead; shows what it said.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_and_read(command).1
    }

    /// As [`Exporter::spawn`], with what it said until it listened.
    ///
    /// # Panics
    /// When it ends instead; shows what it said.
    #[track_caller]
    pub fn spawn_and_read(command: &mut Command) -> (String, Self) {
        let command = command.args(["--web.listen-address", "127.0.0.1:0"]);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the exporter starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        let port = loop {
            let mut line = String::new();
            let length = stderr.read_line(&mut line).expect("text");
            assert_ne!(length, 0, "the exporter ended:\n{said}");
            if let Some((_, port)) = line.split_once("listening on 127.0.0.1:") {
                break port.trim_end_matches(['"', '\n']).parse().expect("a port");
            }
            said += &line;
        };
        // Drain it, so that it never blocks.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        (said, Self { child, port })
    }

    /// One scrape.
    ///
    /// # Panics
    /// When the answer is not 200.
    #[track_caller]
    pub fn scrape(&self) -> Exposition {
        let (status, body) = get(self.port, "/metrics");
        assert_eq!(status, 200, "{body}");
        Exposition::parse(&body)
    }

    /// TCP port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal and returns the exit code, none when the signal killed it.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn end(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of `GET path` on the loopback address.
///
/// # Panics
/// When there is no answer.
#[track_caller]
pub fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("valid");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}
