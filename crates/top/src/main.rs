// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ebpf-exporters`: what is to be done with several exporters at once.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use supervisor::Flags;
use top::address::{HERE, all_of, subjects_of};
use top::config::Config;
use top::show::{Answered, Options, Then, show};
use top::suite;

/// What is to be done with several exporters at once.
#[derive(Parser)]
#[command(name = "ebpf-exporters", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Run(Flags),
    Top(Top),
}

/// Show name, state and headline of exporters, again and again.
///
/// Any user may do so: exporters are asked over HTTP. On a terminal, arrow keys choose one and open
/// it: its histograms as bars, its greatest series as a table. Elsewhere lines are printed.
#[derive(Args)]
struct Top {
    /// What to ask: HOST:PORT, https://HOST:PORT, or HOST for all exporters of that host. May be
    /// repeated. Default: all of this machine, at the ports that EBPF_EXPORTERS_PORT_BASE moves.
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<String>,

    /// Print lines once, and end: with code 1 if no exporter answers.
    #[arg(long)]
    once: bool,

    /// Time between two answers of an exporter. Rates and quantiles are of what came in between.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,

    /// File with TLS and authentication settings, named as in a scrape job of Prometheus: scheme,
    /// basic_auth, tls_config.
    #[arg(long = "web.config", value_name = "FILE", alias = "web.config.file")]
    web_config: Option<PathBuf>,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(100) {
        return Err("at least 100ms".to_owned());
    }
    Ok(interval)
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::Run(flags) => supervisor::run(&flags).unwrap_or_else(|error| {
            // The log has been started.
            log::error!("{error:#}");
            ExitCode::FAILURE
        }),
        Task::Top(flags) => show_all(&flags),
    }
}

fn show_all(flags: &Top) -> ExitCode {
    match top(flags) {
        Ok(Answered::No(why)) if flags.once => {
            let hint = "systemctl start ebpf-exporters.target starts those of this machine".to_owned();
            eprintln!("no exporter answers: {}", why.unwrap_or(hint));
            ExitCode::FAILURE
        }
        Ok(_) => ExitCode::SUCCESS,
        // Whoever reads the lines has enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebpf-exporters: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn top(flags: &Top) -> Result<Answered> {
    let config = flags.web_config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
    let mut subjects = Vec::new();
    for address in &flags.addresses {
        subjects.extend(subjects_of(address)?);
    }
    if flags.addresses.is_empty() {
        subjects = all_of(HERE, None)?;
    }
    let subjects = suite::expand(subjects, &config)?;
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).context("failed to watch for signals")?;
    }
    let then = if flags.once { Then::End } else { Then::More };
    let options = Options { interval: flags.interval, lines: flags.once, then };
    show(&subjects, &config, &options, &mut || Ok(ended.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;
    use common::fixture::same;

    use super::Arguments;

    #[test]
    fn the_manual_pages_are_current() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let mut command = Arguments::command().disable_help_subcommand(true).version(None::<&str>);
        command.build();
        let tasks: Vec<_> = command.get_subcommands().cloned().collect();
        for command in tasks.into_iter().chain([command]) {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
            let mut page = Vec::new();
            let manual = clap_mangen::Man::new(command.name(name.clone()).disable_version_flag(true));
            let manual = manual.section("1").source("ebpf-exporters").manual("User Commands");
            manual.render(&mut page).expect("a page");
            let page = String::from_utf8(page).expect("text");
            same(&folder.join(format!("{name}.1")), &page).expect("current");
        }
    }
}
