// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make run`: runs every exporter that this kernel supports in the foreground, by `ebpf-exporters run`, and
//! shows what they say, as `ebpf-exporters top` does.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, IsTerminal};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use headlines::{LIST, Listed, RUNNING, list_from_json};
use rustix::process::geteuid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use top::address::{Address, Subject};
use top::config::Config;
use top::show::{Options, Then, show};
use top::suite::subjects_of;

use crate::release;
use crate::run::running::{Running, message};
use crate::workspace::exporters;

/// Time between two answers of an exporter.
const LOOK: Duration = Duration::from_secs(2);

/// Time between two looks at exporters that are being started.
const START: Duration = Duration::from_millis(100);

/// What is said of each exporter besides its headline: reasons that others have are not told again.
fn noted(subjects: &mut [Subject], log: &[String]) {
    let mut told = BTreeMap::new();
    for subject in subjects {
        match &mut subject.at {
            Ok(_) => {
                let warnings = warnings_of(log, &subject.name);
                let why = match why_without(&warnings) {
                    "" => first(&warnings),
                    why => why.to_owned(),
                };
                subject.note = once(&mut told, &subject.name, why);
            }
            Err(why) => *why = once(&mut told, &subject.name, why.replace("cannot run: ", "")),
        }
    }
}

/// What an exporter warned of, from the log of the supervisor.
fn warnings_of(log: &[String], name: &str) -> Vec<String> {
    let start = format!("exporter={name} ");
    let lines = log.iter().filter_map(|line| line.strip_prefix(&start));
    lines.filter(|line| line.contains(" level=warn ")).map(|line| message(line).to_owned()).collect()
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

/// Waits until each exporter of the supervisor has been started or given up. Adds what it logs to `log`.
fn settled(suite: &mut Running, log: &mut Vec<String>) -> Result<Vec<Listed>> {
    loop {
        if suite.ended()?.is_some() {
            log.extend(suite.last_lines());
            bail!("{}", log.last().map_or("the exporters have ended", |last| message(last)));
        }
        let list = suite.get(LIST).ok().and_then(|list| list_from_json(&list).ok());
        log.extend(suite.lines());
        // Their warnings come before that they listen.
        let listens = |one: &Listed| {
            let start = format!("exporter={} ", one.exporter);
            log.iter().any(|line| line.starts_with(&start) && line.contains("listening to the supervisor"))
        };
        let is_known = |one: &Listed| one.state != "starting" && (one.state != RUNNING || listens(one));
        if let Some(list) = list.filter(|list| list.iter().all(is_known)) {
            return Ok(list);
        }
        thread::sleep(START);
    }
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
    let mut arguments = vec!["run".to_owned()];
    for exporter in exporters()? {
        match exporter.configs()?.filter(|folder| !has_configs(folder)) {
            Some(folder) => {
                println!("{} is left out: there is no config in {}", exporter.name, folder.display());
            }
            None => arguments.push(exporter.name),
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut suite = Running::start(&folder, release::SUITE, &arguments)?;
    let mut log = Vec::new();
    let list = settled(&mut suite, &mut log)?;
    let mut subjects = subjects_of(&list, &Address::parse(suite.address())?);
    noted(&mut subjects, &log);
    if !std::io::stdout().is_terminal() {
        println!("Metrics of all: http://{}/metrics. Ctrl-C ends them.", suite.address());
    }
    let mut ended = || {
        if signal.try_recv().is_ok() {
            return Ok(true);
        }
        // Nobody shows them any more.
        drop(suite.lines());
        if suite.ended()?.is_some() {
            bail!("all exporters have ended");
        }
        Ok(false)
    };
    let options = Options { interval: LOOK, lines: false, then: Then::Silence };
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
    fn warnings_are_those_of_the_exporter() {
        let log = [
            "exporter=tcp time=x level=warn msg=\"no hook\"",
            "exporter=tcp time=x level=info msg=\"listening\"",
            "exporter=dns time=x level=warn msg=\"no\"",
            "time=x level=warn msg=\"dns is not supported here\"",
        ];
        assert_eq!(warnings_of(&log.map(str::to_owned), "tcp"), ["no hook"]);
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
