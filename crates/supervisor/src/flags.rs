// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use std::path::PathBuf;

use clap::Args;
use common::process::cli::{LogFormat, LogLevel};

use crate::kubelet;

/// Run exporters, and serve what all of them say at one port.
///
/// For containers and for systems without systemd. Each exporter is a process of its own without a port. It is
/// started again when it ends; one that this kernel does not support is named, and left out. /metrics has the
/// metrics of all, /metrics/NAME those of one. SIGTERM and SIGINT end all of them, SIGHUP starts those again
/// that could not be started, SIGUSR1 takes the programs of all out of the kernel.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Exporters to run, such as diskio. Default: all that are installed.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,

    /// One more argument for one exporter, as in --arg syscall=--syscall.latency. May be repeated.
    #[arg(long = "arg", value_name = "NAME=ARG", value_parser = argument)]
    pub arguments: Vec<(String, String)>,

    /// Folder with the exporters. Default: that of this program.
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,

    /// Address to listen on: HOST:PORT, :PORT for all IPv4 and IPv6 addresses, or fd://N for the Nth socket
    /// that systemd passes. May be repeated. Default: :9434, which EBPF_EXPORTERS_PORT_BASE moves.
    #[arg(long = "web.listen-address", value_name = "ADDR", value_parser = common::process::cli::listen_address)]
    pub listen: Vec<String>,

    /// File with TLS and authentication settings, in the format of exporter-toolkit's web configuration.
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub web_config: Option<PathBuf>,

    /// Maximum number of scrapes of all exporters served at the same time. Each holds their pages in memory.
    #[arg(long = "web.max-requests", value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_requests: u16,

    /// Names of pods.
    #[command(flatten)]
    pub kubelet: kubelet::Flags,

    /// Log messages of this severity and above, of the exporters too.
    #[arg(long = "log.level", value_name = "LEVEL", value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,

    /// Format of log messages. They go to standard error.
    #[arg(long = "log.format", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Logfmt)]
    pub log_format: LogFormat,
}

fn argument(text: &str) -> Result<(String, String), String> {
    let (name, argument) =
        text.split_once('=').ok_or("must be NAME=ARG, such as diskio=--max-series=4096")?;
    if argument.is_empty() {
        return Err(format!("there is no argument after {name}="));
    }
    Ok((name.to_owned(), argument.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::argument;

    #[test]
    fn an_argument_is_one_word_for_the_exporter_whatever_is_in_it() {
        let of = |name: &str, argument: &str| Ok((name.to_owned(), argument.to_owned()));
        assert_eq!(argument("diskio=--max-series=4096"), of("diskio", "--max-series=4096"));
        assert_eq!(argument("custom=--config.dir=/a b;$c"), of("custom", "--config.dir=/a b;$c"));
        assert!(argument("diskio").is_err() && argument("diskio=").is_err());
    }
}
