// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS in front of an exporter, in a separate process without privileges.
//!
//! `ebpf-exporters-web FILE NAME CONNECTIONS`: FILE is the value of `--web.config.file`; NAME is
//! the exporter's abstract Unix socket; CONNECTIONS is the most that may be open at once. Standard
//! input is the listening socket. The exporter starts this program and reads lines from its
//! standard output, with a tab before the last word of the first three:
//!
//! - `user NAME HASH`, `header NAME VALUE`, `limit NANOSECONDS BURST`: settings that the exporter
//!   applies itself;
//! - `plain`: TLS is not configured, and this program exits; or `tls`: it now relays connections;
//! - `debug TEXT`, `warn TEXT`: for the exporter's log;
//! - `error TEXT`: why it exits.

mod config;
mod connections;
mod relay;
mod tls;

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use caps::CapSet;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::set_no_new_privs;
use rustls::ServerConnection;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use config::Config;
use connections::Connections;
use tls::Terms;

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let (Some(file), Some(exporter), Some(limit), None) =
        (arguments.next(), arguments.next(), arguments.next(), arguments.next())
    else {
        eprintln!("started by an exporter with --web.config.file, not by hand");
        return ExitCode::from(2);
    };
    match run(Path::new(&file), &exporter, &limit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The exporter may be gone.
            let _ = say("error", &format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path, exporter: &OsStr, limit: &OsStr) -> Result<()> {
    // When the exporter ends, the kernel kills this process. If it ended before, a write to it fails.
    set_parent_process_death_signal(Some(Signal::KILL)).context("failed to set the parent death signal")?;
    // Root would otherwise regain capabilities by executing a program.
    set_no_new_privs(true).context("failed to set no_new_privs")?;
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        // The system call filters of some sandboxes predate ambient capabilities.
        if let Err(error) = caps::clear(None, set) {
            say("debug", &format!("{set:?} capabilities: {error}"))?;
        }
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).context("failed to drop capabilities")?;
    }
    // A signal to the whole unit or terminal is for the exporter. This process ends with it.
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, Arc::default()).context("failed to ignore signals")?;
    }
    let config = Config::read(file).with_context(|| file.display().to_string())?;
    for (name, hash) in &config.basic_auth_users {
        say("user", &format!("{name}\t{hash}"))?;
    }
    for (name, value) in &config.http_server_config.headers {
        say("header", &format!("{name}\t{value}"))?;
    }
    match config.rate_limit.nanoseconds()? {
        0 => {}
        interval => say("limit", &format!("{interval}\t{}", config.rate_limit.burst))?,
    }
    let Some(tls) = config.tls_server_config else {
        return say("plain", "");
    };
    let terms = Terms::new(tls).with_context(|| format!("{}: tls_server_config", file.display()))?;
    let listener = io::stdin().as_fd().try_clone_to_owned().context("failed to take the listening socket")?;
    let limit = limit.to_str().and_then(|limit| limit.parse().ok()).context("no number of connections")?;
    let exporter = exporter.to_str().context("the exporter's socket has no readable name")?;
    say("tls", "")?;
    accept(&TcpListener::from(listener), terms, exporter, limit)
}

fn accept(listener: &TcpListener, mut terms: Terms, exporter: &str, limit: usize) -> Result<()> {
    let connections = Arc::new(Connections::new(limit));
    for number in 0.. {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            // Out of descriptors or memory. Connections that end free some.
            Err(error) => {
                say("warn", &format!("failed to accept a connection: {error}"))?;
                thread::park_timeout(Duration::from_millis(100));
                continue;
            }
        };
        if let Err(error) = terms.renew() {
            say("warn", &format!("keeping the old certificates: {error:#}"))?;
        }
        if let Err(error) = serve(&connections, client, number, &terms, exporter) {
            say("warn", &format!("failed to set up a connection: {error}"))?;
        }
    }
    Ok(())
}

/// Relays a connection in its own thread.
fn serve(
    connections: &Arc<Connections>,
    client: TcpStream,
    number: u64,
    terms: &Terms,
    exporter: &str,
) -> Result<()> {
    let mut slot = connections.enter(&client, number)?;
    let (tls, names) = (ServerConnection::new(terms.config())?, terms.names());
    let exporter = exporter.to_owned();
    let work = move || {
        if let Err(error) = relay::relay(tls, &client, &names, &exporter, || slot.is_known()) {
            // This fails only when the exporter is gone, and then this process ends too.
            let _ = say("debug", &format!("a connection ended: {error}"));
        }
    };
    thread::Builder::new().stack_size(256 << 10).spawn(work)?;
    Ok(())
}

/// Writes a line to the exporter.
fn say(what: &str, text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let line = text.replace('\n', " ");
    writeln!(out, "{what} {line}").and_then(|()| out.flush()).context("failed to write to the exporter")
}
