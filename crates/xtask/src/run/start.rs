// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make run`: runs every exporter that this kernel supports in the foreground, and shows what they say, as
//! `ebpf-exporters top` does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, IsTerminal};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use top::address::{Address, Subject};
use top::config::Config;
use top::show::{Options, Then, show};

use crate::release;
use crate::run::running::Running;
use crate::workspace::{Exporter, exporters};

/// Time between two answers of an exporter.
const LOOK: Duration = Duration::from_secs(2);

/// An exporter that was to be started.
struct Started {
    name: String,
    exporter: Result<Running>,
}

impl Started {
    /// What is shown of it. `told` are reasons that others have.
    fn subject(&self, told: &mut BTreeMap<String, String>) -> Result<Subject> {
        let (at, note) = match &self.exporter {
            Ok(running) => {
                let why = match why_without(running.warnings()) {
                    "" => first(running.warnings()),
                    why => why.to_owned(),
                };
                (Ok(Address::parse(running.address())?), once(told, &self.name, why))
            }
            Err(why) => (Err(once(told, &self.name, format!("{why:#}"))), String::new()),
        };
        Ok(Subject { name: self.name.clone(), at, wanted: true, note })
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

/// Builds them, starts them all and shows what they say until the user has enough, a signal comes or all
/// have ended: on a terminal again and again, else once.
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
    let start = |exporter: Exporter| Started {
        exporter: Running::start(&folder, &exporter, &[]),
        name: exporter.name,
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
    let mut all: Vec<Started> = chosen.into_iter().map(start).collect();
    let mut told = BTreeMap::new();
    let subjects = all.iter().map(|one| one.subject(&mut told)).collect::<Result<Vec<_>>>()?;
    let mut options = Options { interval: LOOK, lines: false, then: Then::Silence };
    if all.iter().all(|one| one.exporter.is_err()) {
        let reasons: BTreeSet<_> =
            all.iter().filter_map(|one| Some(format!("{:#}", one.exporter.as_ref().err()?))).collect();
        if let [reason] = &*reasons.into_iter().collect::<Vec<_>>() {
            bail!("no exporter runs here: {reason}");
        }
        options = Options { lines: true, then: Then::End, ..options };
        show(&subjects, &Config::default(), &options, &mut || Ok(false))?;
        bail!("no exporter runs here: the last column says why");
    }
    if !std::io::stdout().is_terminal() {
        println!("Ctrl-C ends them.");
    }
    let mut ended = || {
        let lives = |one: &mut Started| {
            one.exporter.as_mut().is_ok_and(|running| matches!(running.ended(), Ok(None)))
        };
        if signal.try_recv().is_ok() {
            return Ok(true);
        }
        if !all.iter_mut().any(lives) {
            bail!("all exporters have ended");
        }
        Ok(false)
    };
    show(&subjects, &Config::default(), &options, &mut ended)?;
    Ok(())
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
