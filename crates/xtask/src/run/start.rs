// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make run`: runs every exporter that this kernel supports in the foreground, and shows a table of
//! them.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libbpf_rs::query::ProgInfoIter;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::release;
use crate::run::running::{Running, label, owned, samples};
use crate::workspace::{Exporter, exporters};

/// Time between two updates of the table.
const LOOK: Duration = Duration::from_secs(2);

/// A row of the table.
struct Row {
    name: String,
    exporter: Result<Running>,
    /// How often its programs had run at the last update, and the time of that.
    before: Option<(u64, Instant)>,
}

impl Row {
    /// State, address, events per second, and why it is not running.
    fn columns(&mut self) -> [String; 4] {
        let running = match &mut self.exporter {
            Ok(running) => running,
            Err(why) => return ["stopped", "-", "-", &format!("{why:#}")].map(str::to_owned),
        };
        let url = format!("http://{}/metrics", running.address());
        if let Ok(Some(status)) = running.ended() {
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

/// How often the programs with these ids have run. Needs root and [`count_runs`].
fn runs(ids: &BTreeSet<String>) -> u64 {
    let ours = ProgInfoIter::default().filter(|program| ids.contains(&program.id.to_string()));
    ours.map(|program| program.run_cnt).sum()
}

/// Makes the kernel count the runs of programs while the result lives.
fn count_runs() -> Result<OwnedFd> {
    // SAFETY: the only argument is a number.
    owned(unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) })
}

/// Builds and starts all exporters, and shows the table until a signal comes or all have ended. On a
/// terminal the table is updated; otherwise it is printed once.
///
/// # Errors
/// When the build fails, or no exporter can be started.
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
    // If it fails, the table has no events per second.
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
    // The first reading, for comparison with the second.
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
                    // Clear the screen and start at its top.
                    print!("\x1b[2J\x1b[H");
                }
                table(&mut rows);
                println!("Ctrl-C ends them.");
                shown = true;
            }
            _ => return Ok(()),
        }
        let lives =
            |row: &mut Row| row.exporter.as_mut().is_ok_and(|running| matches!(running.ended(), Ok(None)));
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
