// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make run`: runs every exporter that this kernel supports in the foreground, and shows a table of
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, IsTerminal};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use libbpf_rs::query::ProgInfoIter;
use rustix::process::geteuid;
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
    /// State, address, events per second, and why it does not run or lacks something.
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
            "ebpf" => ("running", first(running.warnings())),
            "waiting" => ("waiting", running.get("/-/ready").unwrap_or_default().trim().to_owned()),
            _ => ("fallback", why_without(running.warnings()).to_owned()),
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

/// Why an exporter runs without eBPF: the warning before the one that says so.
fn why_without(warnings: &[String]) -> &str {
    let says_so = warnings.iter().position(|warning| warning.starts_with("running without eBPF"));
    says_so.and_then(|at| warnings.get(at.checked_sub(1)?)).map_or("", String::as_str)
}

/// The first of several warnings, and how many there are beside it.
fn first(warnings: &[String]) -> String {
    match warnings {
        [] => String::new(),
        [warning] => warning.clone(),
        [warning, others @ ..] => format!("{warning}; and {} more, as --check says", others.len()),
    }
}

/// How often programs with these ids have run; needs root and [`count_runs`].
fn runs(ids: &BTreeSet<String>) -> u64 {
    let ours = ProgInfoIter::default().filter(|program| ids.contains(&program.id.to_string()));
    ours.map(|program| program.run_cnt).sum()
}

/// Makes the kernel count the runs of programs while the result lives.
fn count_runs() -> Result<OwnedFd> {
    // SAFETY: the only argument is a number.
    owned(unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) })
}

/// Asks for the password now and not once for each exporter.
fn may_be_root() -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    match Command::new("sudo").arg("true").status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("exporters need root, and sudo refuses it: run this as root"),
        Err(_) => bail!("exporters need root, and there is no sudo: run this as root"),
    }
}

/// Whether a folder has configs of users' programs: without `--config.names`, those in folders below are
/// not run. A folder that cannot be read counts as one with configs: the exporter says why it does not run.
fn has_configs(folder: &Path) -> bool {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return error.kind() != ErrorKind::NotFound,
    };
    // A name that is nothing but `.yaml` has no extension.
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|kind| kind == "yaml"))
}

/// Builds them, starts them all and shows what they do until a signal comes or all have ended: on a
/// terminal again and again, else once.
///
/// # Errors
/// When the build fails, or no exporter can be started.
pub fn run() -> Result<()> {
    may_be_root()?;
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
    let mut chosen = Vec::new();
    for exporter in exporters()? {
        match exporter.configs()?.filter(|folder| !has_configs(folder)) {
            Some(folder) => {
                println!("{} is left out: there is no config in {}", exporter.name, folder.display());
            }
            None => chosen.push(exporter),
        }
    }
    let mut rows: Vec<Row> = chosen.into_iter().map(start).collect();
    let reasons: BTreeSet<_> =
        rows.iter().filter_map(|row| Some(format!("{:#}", row.exporter.as_ref().err()?))).collect();
    if rows.iter().all(|row| row.exporter.is_err()) {
        if let [reason] = &*reasons.into_iter().collect::<Vec<_>>() {
            bail!("no exporter runs here: {reason}");
        }
        table(&mut rows);
        bail!("no exporter runs here: the last column says why");
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
    let mut told = BTreeMap::new();
    for row in rows {
        let [state, url, events, why] = row.columns();
        let why = if state == "waiting" { why } else { once(&mut told, &row.name, why) };
        println!("{:<14} {state:<9} {url:<32} {events:>9}  {why}", row.name);
    }
}

/// A reason in full where it comes first, and where it comes again the exporter that had it.
fn once(told: &mut BTreeMap<String, String>, name: &str, why: String) -> String {
    if why.is_empty() {
        return why;
    }
    match told.get(&why) {
        Some(first) => format!("as {first}"),
        None => {
            told.insert(why.clone(), name.to_owned());
            why
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_are_found_by_their_ending() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        assert!(!has_configs(&path.join("missing")) && !has_configs(path));
        fs::write(path.join("a.bpf.o"), "").expect("written");
        fs::create_dir(path.join("below")).expect("made");
        fs::write(path.join("below/a.yaml"), "").expect("written");
        assert!(!has_configs(path));
        fs::write(path.join("a.yaml"), "").expect("written");
        assert!(has_configs(path));
    }

    #[test]
    fn a_reason_is_told_once() {
        let mut told = BTreeMap::new();
        let mut why = |name: &str, why: &str| once(&mut told, name, why.to_owned());
        assert_eq!(why("cachestat", "CAP_BPF is missing"), "CAP_BPF is missing");
        assert_eq!(why("diskio", "the port is taken"), "the port is taken");
        assert_eq!(why("dns", "CAP_BPF is missing"), "as cachestat");
        assert_eq!([why("tcp", ""), why("memory", "")], ["", ""]);
    }

    #[test]
    fn why_it_runs_without_is_what_is_said_before() {
        let warnings =
            ["page faults are not counted", "CAP_BPF is missing", "running without eBPF: only", "x"];
        let warnings = warnings.map(str::to_owned);
        assert_eq!(why_without(&warnings), "CAP_BPF is missing");
        assert_eq!([why_without(&warnings[..2]), why_without(&warnings[2..])], ["", ""]);
    }

    #[test]
    fn warnings_are_counted_behind_the_first() {
        let said = |warnings: &[&str]| {
            first(&warnings.iter().map(|warning| (*warning).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(said(&[]), "");
        assert_eq!(said(&["no tasks"]), "no tasks");
        assert_eq!(said(&["no tasks", "a", "b"]), "no tasks; and 2 more, as --check says");
    }
}
