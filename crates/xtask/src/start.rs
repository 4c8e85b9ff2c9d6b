// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exporters in the foreground; `make run`: every one that this kernel supports, and what
//! they do.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libbpf_rs::query::ProgInfoIter;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::bench::{label, owned, samples};
use crate::release;
use crate::workspace::{Exporter, exporters};

/// Attaching takes 50 ms; a minute is for slow machines.
const START: Duration = Duration::from_secs(60);

/// Between two looks at what they do.
const LOOK: Duration = Duration::from_secs(2);

/// An exporter's process; it is told to end when this is dropped.
pub struct Running {
    child: Child,
    address: String,
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
        let mut last = String::new();
        loop {
            match lines.recv_timeout(START) {
                Ok(line) => {
                    if let Some((_, address)) = line.split_once("listening on ") {
                        let address = address.trim_end_matches('"').replace("[::]", "localhost");
                        return Ok(Self { child, address });
                    }
                    let message =
                        line.split_once("msg=").map_or(&*line, |(_, message)| message.trim_matches('"'));
                    last = message.trim_start_matches("cannot run: ").to_owned();
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

    /// What it answers to `GET path`, without the head.
    ///
    /// # Errors
    /// When it does not.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(LOOK))?;
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

/// A row of the table.
struct Row {
    name: String,
    exporter: Result<Running>,
    /// How often its programs had run at the last look, and when that was.
    before: Option<(u64, Instant)>,
}

impl Row {
    /// State, address, events per second, and why it is not running.
    fn columns(&mut self) -> [String; 4] {
        let running = match &mut self.exporter {
            Ok(running) => running,
            Err(why) => return ["stopped", "-", "-", &format!("{why:#}")].map(str::to_owned),
        };
        let url = format!("http://{}/metrics", running.address);
        if let Ok(Some(status)) = running.child.try_wait() {
            return ["ended".to_owned(), url, "-".to_owned(), status.to_string()];
        }
        let text = match running.get("/metrics") {
            Ok(text) => text,
            Err(error) => return ["silent".to_owned(), url, "-".to_owned(), format!("{error:#}")],
        };
        let mode = samples(&text, "ebpf_exporter_mode").next().map_or("", |line| label(line, "mode"));
        let (state, why) = match mode {
            "ebpf" => ("running", String::new()),
            "waiting" => ("waiting", running.get("/-/ready").unwrap_or_default().trim().to_owned()),
            _ => {
                ("fallback", format!("the kernel refuses eBPF: ebpf-{}-exporter --check says why", self.name))
            }
        };
        let ids = samples(&text, "ebpf_exporter_ebpf_program_info").map(|line| label(line, "id").to_owned());
        let now = (runs(&ids.collect()), Instant::now());
        let events = match self.before.replace(now) {
            Some((runs, at)) if now.0 >= runs => {
                format!("{:.0}", (now.0 - runs) as f64 / (now.1 - at).as_secs_f64())
            }
            _ => "-".to_owned(),
        };
        [state.to_owned(), url, events, why]
    }
}

/// How often programs with these ids have run; needs root and [`count_runs`].
fn runs(ids: &BTreeSet<String>) -> u64 {
    let ours = ProgInfoIter::default().filter(|program| ids.contains(&program.id.to_string()));
    ours.map(|program| program.run_cnt).sum()
}

/// Makes the kernel count how often programs run, for as long as the result lives.
fn count_runs() -> Result<OwnedFd> {
    // SAFETY: it takes a number.
    owned(unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) })
}

/// Builds them, starts them all and shows what they do until a signal comes or all have ended: on a
/// terminal again and again, else once.
///
/// # Errors
/// When not one can be built or started.
pub fn run() -> Result<()> {
    let folder = release::quick()?;
    let (sender, signal) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("failed to watch for signals")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            // The receiver lives as long as the process.
            let _ = sender.send(signal);
        }
    });
    // Without it there are no events per second.
    let _counted = count_runs();
    let start = |exporter: Exporter| Row {
        exporter: Running::start(&folder, &exporter, &[]),
        name: exporter.name,
        before: None,
    };
    let mut rows: Vec<Row> = exporters()?.into_iter().map(start).collect();
    if rows.iter().all(|row| row.exporter.is_err()) {
        table(&mut rows);
        bail!("no exporter runs on this kernel");
    }
    // The first look is what the second is compared with.
    for row in &mut rows {
        row.columns();
    }
    let terminal = std::io::stdout().is_terminal();
    let mut shown = false;
    loop {
        match signal.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) if shown && !terminal => {}
            Err(RecvTimeoutError::Timeout) => {
                if terminal {
                    // An empty screen, from its top.
                    print!("\x1b[2J\x1b[H");
                }
                table(&mut rows);
                println!("Ctrl-C ends them.");
                shown = true;
            }
            _ => return Ok(()),
        }
        let lives = |row: &mut Row| {
            row.exporter.as_mut().is_ok_and(|running| matches!(running.child.try_wait(), Ok(None)))
        };
        if !rows.iter_mut().any(lives) {
            bail!("all exporters have ended");
        }
    }
}

fn table(rows: &mut [Row]) {
    println!("{:<14} {:<9} {:<32} {:>9}  WHY NOT", "EXPORTER", "STATE", "METRICS", "EVENTS/S");
    for row in rows {
        let [state, url, events, why] = row.columns();
        println!("{:<14} {state:<9} {url:<32} {events:>9}  {why}", row.name);
    }
}
