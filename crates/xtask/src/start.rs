// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make run`: every exporter that this kernel supports, in the foreground.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::workspace::{Exporter, exporters, root};

/// Attaching takes 50 ms; a minute is for slow machines.
const START: Duration = Duration::from_secs(60);

/// Starts them all, prints a table and waits until all have ended, which a signal makes
/// them do.
///
/// # Errors
/// When not one can be started.
pub fn run() -> Result<()> {
    println!("{:<30} {:<8} {:<34} WHY NOT", "EXPORTER", "STATE", "METRICS");
    let mut running = Vec::new();
    for exporter in exporters()? {
        match start(&exporter) {
            Ok((child, address)) => {
                let url = format!("http://{}/metrics", address.replace("[::]", "localhost"));
                println!("{:<30} {:<8} {url:<34}", exporter.binary, "running");
                running.push(child);
            }
            Err(why) => println!("{:<30} {:<8} {:<34} {why:#}", exporter.binary, "stopped", "-"),
        }
    }
    if running.is_empty() {
        bail!("no exporter runs on this kernel");
    }
    println!("Ctrl-C ends them.");
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("failed to watch for signals")?;
    let children: Vec<Pid> = running.iter().map(Pid::from_child).collect();
    thread::spawn(move || {
        for _ in signals.forever() {
            for child in &children {
                // A terminal's Ctrl-C has reached it already, and it may be gone.
                let _ = kill_process(*child, Signal::TERM);
            }
        }
    });
    for mut child in running {
        child.wait().context("failed to wait for an exporter")?;
    }
    Ok(())
}

fn start(exporter: &Exporter) -> Result<(Child, String)> {
    let binary = root().join("dist/bin").join(&exporter.binary);
    let mut command = if geteuid().is_root() {
        Command::new(&binary)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(&binary);
        sudo
    };
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(|| binary.display().to_string())?;
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
                    return Ok((child, address.trim_end_matches('"').to_owned()));
                }
                last = line.split_once("msg=").map_or(line.clone(), |(_, message)| message.to_owned());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill()?;
                bail!("did not start within {START:?}");
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                child.wait()?;
                bail!("{last}");
            }
        }
    }
}
