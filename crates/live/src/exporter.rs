// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs an exporter that is in `PATH`, and scrapes it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::exposition::Exposition;
use crate::harness::tell;
use crate::machine::{comes_true, sh};

/// Time limit for a unit to change its state, on an emulated, busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Time limit for a response.
const ANSWER: Duration = Duration::from_secs(60);

/// Number of attempts to get a response.
const ATTEMPTS: u32 = 3;

/// The exporter that tests share, with its name and flags.
static SHARED: Mutex<Option<(Vec<String>, Arc<Exporter>)>> = Mutex::new(None);

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
    /// When it ends instead; the message has its output.
    #[track_caller]
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        Self::spawn(Command::new(format!("ebpf-{name}-exporter")).args(arguments))
    }

    /// An exporter with these flags that tests of this process share, because starting one takes longer
    /// than most tests. For counts between two scrapes. There is one at a time: with another name or
    /// other flags a new one is started, and the one before ends when no test has it.
    ///
    /// # Panics
    /// As [`Exporter::start`].
    #[track_caller]
    pub fn shared(name: &str, arguments: &[&str]) -> Arc<Self> {
        let words: Vec<String> = [name].iter().chain(arguments).map(ToString::to_string).collect();
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, exporter)) = &*shared
            && *of == words
        {
            return Arc::clone(exporter);
        }
        *shared = None;
        let mut command = Command::new(format!("ebpf-{name}-exporter"));
        command.args(arguments);
        let (sender, receiver) = mpsc::channel();
        // It is killed when the thread that started it ends, which is when the process ends.
        thread::spawn(move || {
            // SAFETY: between fork and exec it only makes one system call.
            unsafe {
                command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
            }
            sender.send(Self::spawn(&mut command)).expect("somebody waits");
            loop {
                thread::park();
            }
        });
        let exporter = Arc::new(receiver.recv().expect("the exporter starts"));
        *shared = Some((words, Arc::clone(&exporter)));
        exporter
    }

    /// Ends the exporter that tests share, for one that unloads its module or counts programs.
    pub fn end_shared() {
        *SHARED.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// As [`Exporter::start`], with a command that takes the exporter's flags as its last arguments.
    ///
    /// # Panics
    /// When it ends instead, or it lost events because its programs were preempted; the message has its
    /// output.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        let (said, exporter) = Self::spawn_and_read(command);
        assert!(!said.contains("attached only once"), "{said}");
        exporter
    }

    /// As [`Exporter::spawn`], but returns also the log from before it listened.
    ///
    /// # Panics
    /// When it ends instead; the message has its output.
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
        // Reads on, so that the exporter never blocks on a full pipe.
        thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
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

    /// Sends a signal and returns the exit code; `None` if the signal killed it.
    ///
    /// # Panics
    /// When it has already ended.
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

/// Like [`try_get`], but retries after a timeout and prints what the exporter is doing: a guest
/// under emulation may stall for a while.
///
/// # Panics
/// When there is no answer, or none in time again and again.
#[track_caller]
pub fn get(port: u16, path: &str) -> (u16, String) {
    let mut late = 0;
    loop {
        let error = match try_get(port, path) {
            Ok(answer) => return answer,
            Err(error) => error,
        };
        late += 1;
        if error.kind() != io::ErrorKind::WouldBlock || late == ATTEMPTS {
            panic!("no answer from port {port}: {error}");
        }
        tell(&format!("no answer from port {port} within {ANSWER:?}; meanwhile:\n{}", at_work(port)));
    }
}

/// Connections to a port, and what the threads of the process that listens there are doing.
fn at_work(port: u16) -> String {
    sh(&format!(
        "cat /proc/uptime; ss -Htanoi '( sport = :{port} or dport = :{port} )'
         for pid in $(ss -Hltnp 'sport = :{port}' | sed -n 's/.*pid=\\([0-9]*\\).*/\\1/p'); do
             for task in /proc/$pid/task/*; do
                 echo \"$(cat $task/comm): $(cat $task/syscall)\"; cat $task/stack
             done
         done || :"
    ))
}

/// Status and body of `GET path` on the loopback address.
///
/// # Errors
/// When no process listens, or the answer is not valid.
pub fn try_get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWER))?;
    // In one write, so in one segment: a second one might wait until the first is acknowledged.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        // The body is too short if the server ended while it sent it.
        length.is_none_or(|length| length.parse() == Ok(body.len())).then(|| (status, body.to_owned()))
    });
    parsed.ok_or_else(|| io::Error::other(format!("no whole answer: {answer:?}")))
}

/// Polls an exporter until `condition` is true for its metrics. Meanwhile the exporter may restart, and
/// not listen for a moment.
///
/// # Panics
/// When it is not true within three minutes.
#[track_caller]
pub fn until(port: u16, what: &str, mut condition: impl FnMut(&Exposition) -> bool) {
    let mut last = String::new();
    let mut is_so = || match try_get(port, "/metrics") {
        Ok((status, text)) => {
            last = text;
            status == 200 && condition(&Exposition::parse(&last))
        }
        Err(error) => {
            last = error.to_string();
            false
        }
    };
    if !comes_true(LIMIT, &mut is_so) {
        panic!("{what}: not within {LIMIT:?}; the last answer:\n{last}");
    }
}

/// State of a unit, in systemd's words: `active`, `inactive`, `failed`.
///
/// # Panics
/// When there is no systemd to ask.
#[track_caller]
pub fn unit_state(unit: &str) -> String {
    sh(&format!("systemctl is-active {unit} || :"))
}

/// Waits until a unit is in a state.
///
/// # Panics
/// When it is not within three minutes; the message has the unit's status.
#[track_caller]
pub fn unit_becomes(unit: &str, state: &str) {
    if !comes_true(LIMIT, || unit_state(unit) == state) {
        panic!("{unit} is not {state} within {LIMIT:?}:\n{}", unit_status(unit));
    }
}

/// Waits until the unit of an exporter is skipped because its module was unloaded. From version 254 on,
/// systemd restarts a service without checking its conditions again; then the exporter waits for the
/// module.
///
/// # Panics
/// When it is not within three minutes; the message has the unit's status.
#[track_caller]
pub fn unit_lets_go(unit: &str, port: u16) {
    let waits = || {
        try_get(port, "/-/ready").is_ok_and(|(status, text)| status == 503 && text.starts_with("waiting for"))
    };
    let version: u32 =
        sh("systemctl --version | sed -n '1s/^systemd \\([0-9]*\\).*/\\1/p'").parse().expect("a version");
    let skipped = || unit_state(unit) == "inactive";
    if !comes_true(LIMIT, || if version < 254 { skipped() } else { waits() }) {
        panic!("{unit} does not let go within {LIMIT:?}:\n{}", unit_status(unit));
    }
}

fn unit_status(unit: &str) -> String {
    sh(&format!("systemctl status --no-pager --full --lines 40 {unit} || :"))
}
