// SPDX-License-Identifier: MIT OR Apache-2.0
//! The common command line of all exporters, spelled as in node_exporter.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, ValueEnum};

use crate::exposition::native::Schema;
use crate::read::self_metrics::REVISION;
use crate::serve::{http, ports};
use crate::spec::Spec;

/// The whole command line of an exporter with its own flags `F`.
#[derive(Clone, Debug, Parser)]
pub struct Cli<F: Args> {
    /// Common flags.
    #[command(flatten)]
    pub common: Common,
    /// Flags of this exporter.
    #[command(flatten)]
    pub own: F,
}

/// For an exporter without flags of its own.
#[derive(Args, Clone, Debug, Default)]
pub struct NoFlags {}

/// Flags that every exporter has.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Address to listen on: HOST:PORT, :PORT for all IPv4 and IPv6 addresses, or fd://N for the Nth
    /// socket, counted from 0, that systemd passes (see systemd.socket). May be repeated.
    /// Default: the exporter's own port, which EBPF_EXPORTERS_PORT_BASE moves.
    #[arg(long = "web.listen-address", value_name = "ADDR", value_parser = listen_address)]
    pub listen: Vec<String>,

    /// HTTP path of the metrics.
    #[arg(long = "web.telemetry-path", value_name = "PATH", default_value = "/metrics", value_parser = absolute_path)]
    pub telemetry_path: String,

    /// File with TLS and authentication settings, in the format of exporter-toolkit's web
    /// configuration.
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub web_config: Option<PathBuf>,

    /// Maximum number of scrapes served at the same time; 0 means no limit.
    #[arg(long = "web.max-requests", value_name = "N", default_value_t = 40)]
    pub max_requests: usize,

    /// Resolution of native histograms, from 0 to 3: a bucket's bounds are a factor of 2, 1.41, 1.19 or
    /// 1.09 apart. Only a scrape in protobuf has native histograms.
    #[arg(long = "web.native-histogram-schema", value_name = "N", default_value = "3", value_parser = schema)]
    pub native_schema: Schema,

    /// Do not export metrics about the exporter itself (ebpf_exporter_*, process_*).
    #[arg(long = "web.disable-exporter-metrics")]
    pub disable_exporter_metrics: bool,

    /// Log messages of this severity and above.
    #[arg(long = "log.level", value_name = "LEVEL", value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,

    /// Format of log messages. They go to standard error.
    #[arg(long = "log.format", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Logfmt)]
    pub log_format: LogFormat,

    /// Serve connections that `ebpf-exporters run` hands over on standard input.
    #[arg(long, hide = true, conflicts_with_all = ["listen", "web_config", "textfile", "once", "check", "telemetry_path"])]
    pub supervised: bool,

    /// Load, attach and verify every probe, print one line per probe, and exit.
    #[arg(long, conflicts_with_all = ["once", "textfile"])]
    pub check: bool,

    /// Whether the kernel preempts programs, instead of asking the kernel. For tests.
    #[arg(long = "ebpf.preempts", value_name = "BOOL", hide = true)]
    pub preempts: Option<bool>,

    /// With --check: load every program whose hook exists here, not only the chosen ones, and
    /// attach none. For tests.
    #[arg(long = "check.programs", requires = "check", hide = true)]
    pub check_programs: bool,

    /// Attach, wait for DURATION or SIGINT, print one scrape or write it to --textfile.path, and exit.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = duration)]
    pub once: Option<Option<Duration>>,

    /// Write metrics to this file for node_exporter's textfile collector instead of serving HTTP. Its
    /// name must end in .prom.
    #[arg(long = "textfile.path", value_name = "FILE", value_parser = textfile)]
    pub textfile: Option<PathBuf>,

    /// How often to write the textfile.
    #[arg(long = "textfile.interval", value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub textfile_interval: Duration,

    /// Use eBPF: on (exit if the kernel refuses it), off (export only what is known without it), or
    /// auto (off if the kernel refuses it).
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Ebpf::Auto)]
    pub ebpf: Ebpf,

    /// Capabilities to keep after attaching: none, all, or a list such as cap_bpf,cap_perfmon.
    /// Default: only those that reading needs on this kernel.
    #[arg(long = "capabilities.keep", value_name = "LIST", value_parser = Keep::parse)]
    pub keep: Option<Keep>,

    /// File with BTF for this kernel, if the kernel does not provide it.
    #[arg(long = "btf.path", value_name = "FILE")]
    pub btf: Option<PathBuf>,

    /// Maximum number of entries of each bounded map. What does not fit counts under "other".
    #[arg(long = "max-series", value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub max_series: u32,
}

/// Severities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it, and would become help text")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// Log formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it, and would become help text")]
pub enum LogFormat {
    Logfmt,
    Json,
}

/// Whether to use eBPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it, and would become help text")]
pub enum Ebpf {
    Auto,
    On,
    Off,
}

/// Capabilities to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All capabilities of the process.
    All,
    /// These; the list may be empty.
    Only(Vec<caps::Capability>),
}

impl Keep {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::Only(Vec::new())),
            list => {
                let capability = |name: &str| {
                    let name = name.trim().to_uppercase();
                    name.parse().map_err(|_| format!("{name} is not a capability; see capabilities(7)"))
                };
                list.split(',').map(capability).collect::<Result<_, _>>().map(Self::Only)
            }
        }
    }
}

fn absolute_path(text: &str) -> Result<String, String> {
    match text {
        "/" | "/-/healthy" | "/-/ready" | headlines::PATH => Err("this path is reserved".to_owned()),
        text if text.starts_with('/') => Ok(text.to_owned()),
        _ => Err("a path must start with /".to_owned()),
    }
}

/// Checks the syntax of an address only. Listening shows whether the host exists.
///
/// # Errors
/// When it is malformed. The error is the message for the user.
pub fn listen_address(text: &str) -> Result<String, String> {
    if let Some(number) = text.strip_prefix(http::PASSED) {
        let wrong = |_| format!("{}N needs the number of a socket, from 0", http::PASSED);
        return number.parse::<usize>().map(|_| text.to_owned()).map_err(wrong);
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) => {
            Err("an IPv6 address must be in brackets, as in [::1]:9101".to_owned())
        }
        Some((_, port)) if port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("an address must be HOST:PORT or :PORT".to_owned()),
    }
}

fn schema(text: &str) -> Result<Schema, String> {
    let schema = text.parse().ok().and_then(Schema::new);
    schema.ok_or_else(|| "must be 0, 1, 2 or 3".to_owned())
}

fn textfile(text: &str) -> Result<PathBuf, String> {
    if text.ends_with(".prom") {
        Ok(text.into())
    } else {
        Err("the name must end in .prom: node_exporter reads no other files".to_owned())
    }
}

/// A length of time such as `5s`.
///
/// # Errors
/// When the text is not a length of time, or it is 0. The error is the message for the user.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(zero) if zero.is_zero() => Err("must be longer than 0".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}

/// The command line of the exporter that `spec` describes.
pub fn command<F: Args>(spec: &Spec) -> Command {
    let name = format!("ebpf-{}-exporter", spec.name);
    let about = format!("Prometheus exporter: {}", spec.summary);
    let after = format!(
        "Listens on :{} by default, or with {}={} in the environment on :{}. See also {name}.service.",
        spec.port,
        ports::BASE,
        ports::EXAMPLE,
        ports::moved(spec, ports::EXAMPLE).unwrap_or(ports::EXAMPLE)
    );
    Cli::<F>::command().name(name.clone()).bin_name(name).about(about).after_help(after)
}

/// Parses the command line of the exporter that `spec` describes. Without an address it listens on
/// its own port, counted from `base`, the value of [`ports::BASE`] in the environment.
///
/// # Errors
/// When an argument or `base` is wrong, and for `--help` and `--version`. [`clap::Error::exit`]
/// prints the text and exits with the right status.
pub fn parse<F: Args>(
    spec: &Spec,
    arguments: impl IntoIterator<Item = OsString>,
    base: Option<&OsStr>,
) -> Result<Cli<F>, clap::Error> {
    let version = format!("{} (revision {REVISION})", env!("CARGO_PKG_VERSION"));
    let mut command = command::<F>(spec).version(version);
    let matches = command.try_get_matches_from_mut(arguments)?;
    let mut cli = Cli::<F>::from_arg_matches(&matches)?;
    if cli.common.listen.is_empty() {
        let port = ports::of(spec, base).map_err(|why| command.error(ErrorKind::ValueValidation, why))?;
        cli.common.listen.push(format!(":{port}"));
    }
    if cli.common.ebpf == Ebpf::Off && cli.common.check {
        return Err(command.error(ErrorKind::ArgumentConflict, "--ebpf off leaves --check without probes"));
    }
    Ok(cli)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_base(base: Option<&str>, arguments: &[&str]) -> Result<Common, clap::Error> {
        let spec = Spec::new("test", 9105, "does it work?");
        let words = std::iter::once("x").chain(arguments.iter().copied());
        parse::<NoFlags>(&spec, words.map(Into::into), base.map(OsStr::new)).map(|cli| cli.common)
    }

    fn parsed(arguments: &[&str]) -> Result<Common, clap::Error> {
        with_base(None, arguments)
    }

    #[test]
    fn a_base_moves_the_port_and_an_address_wins() {
        let listens = |base, arguments| with_base(base, arguments).expect("valid").listen;
        assert_eq!(listens(Some("19100"), &[]), [":19105"]);
        assert_eq!(listens(Some("9100"), &[]), [":9105"]);
        assert_eq!(listens(Some("65530"), &[]), [":65535"]);
        assert_eq!(listens(Some(""), &[]), [":9105"]);
        let both = ["--web.listen-address=:1", "--web.listen-address=[::1]:2"];
        for base in [None, Some("19100"), Some("none")] {
            assert_eq!(listens(base, &both), [":1", "[::1]:2"]);
        }
    }

    #[test]
    fn what_is_no_base_is_refused_with_what_would_be_one() {
        for wrong in ["none", "0", "-1", "+1", "65531", "70000", " 19100", "19100 "] {
            let error = with_base(Some(wrong), &[]).expect_err(wrong);
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
            let said = error.to_string();
            let sentence = format!(
                "{}={wrong}: must be a number from 1 to 65530, such as 19100, with which this exporter \
                 listens on port 19105\n",
                ports::BASE
            );
            assert!(said.contains(&sentence), "{said}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let flags = parsed(&[]).expect("no flag is needed");
        assert_eq!(flags.listen, [":9105"]);
        assert_eq!(flags.telemetry_path, "/metrics");
        assert_eq!(flags.textfile_interval, Duration::from_secs(15));
        assert_eq!((flags.log_level, flags.log_format), (LogLevel::Info, LogFormat::Logfmt));
        assert_eq!((flags.once, flags.keep), (None, None));
        assert_eq!(flags.native_schema, Schema::FINEST);
    }

    #[test]
    fn once_takes_an_optional_duration() {
        assert_eq!(parsed(&["--once"]).expect("valid").once, Some(None));
        assert_eq!(parsed(&["--once=2s"]).expect("valid").once, Some(Some(Duration::from_secs(2))));
        let both = parsed(&["--once=2s", "--textfile.path=x.prom"]).expect("valid");
        assert!(both.once.is_some() && both.textfile.is_some());
    }

    #[test]
    fn wrong_usage_exits_with_2_and_names_the_flag() {
        for wrong in [
            &["--nonsense"][..],
            &["--web.listen-address", "localhost"],
            &["--web.listen-address", ":70000"],
            &["--web.listen-address", "::1:9101"],
            &["--web.listen-address", "::1"],
            &["--web.listen-address", "fd://first"],
            &["--web.telemetry-path", "metrics"],
            &["--web.telemetry-path", "/"],
            &["--textfile.path", "metrics.txt"],
            &["--textfile.interval", "0s"],
            &["--once=soon"],
            &["--max-series", "0"],
            &["--web.native-histogram-schema", "4"],
            &["--web.native-histogram-schema=-1"],
            &["--log.level", "loud"],
            &["--check", "--once"],
            &["--capabilities.keep", "cap_everything"],
            &["--ebpf", "off", "--check"],
        ] {
            let error = parsed(wrong).expect_err(wrong[0]);
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
            assert!(error.to_string().contains(wrong[0].split('=').next().expect("a word")), "{error}");
        }
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets() {
        let wrong = parsed(&["--web.listen-address", "::1:9101"]).expect_err("which is the port?");
        assert!(wrong.to_string().contains("brackets, as in [::1]:9101"), "{wrong}");
        for right in
            ["[::1]:9101", "[fe80::1%eth0]:9101", "127.0.0.1:9101", "localhost:9101", ":9101", "fd://0"]
        {
            assert_eq!(parsed(&["--web.listen-address", right]).expect(right).listen, [right]);
        }
    }

    #[test]
    fn capabilities_are_read_as_setpriv_spells_them() {
        let kept = parsed(&["--capabilities.keep", "cap_bpf,CAP_PERFMON"]).expect("valid").keep;
        assert_eq!(kept, Some(Keep::Only(vec![caps::Capability::CAP_BPF, caps::Capability::CAP_PERFMON])));
        assert_eq!(parsed(&["--capabilities.keep", "none"]).expect("valid").keep, Some(Keep::Only(vec![])));
    }
}
