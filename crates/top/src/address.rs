// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where exporters are asked.

use std::fs;

use anyhow::{Context, Result, bail};

/// The scrape jobs of all exporters: their names and ports.
const JOBS: &str = include_str!("../../../prometheus/prometheus.yml");

/// The ports of [`JOBS`] count from this number.
const BASE: u16 = 9100;

/// Another number that they count from, in the environment of the exporters.
const BASE_VARIABLE: &str = "EBPF_EXPORTERS_PORT_BASE";

/// The file from which their units take it.
const DEFAULTS: &str = "/etc/default/ebpf-exporters";

/// The host that is asked if none is given.
pub const HERE: &str = "localhost";

/// Address of an exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether it speaks TLS; `None` where the settings say it for all.
    pub tls: Option<bool>,
    /// What its paths begin with, where a supervisor answers for it.
    pub below: String,
}

/// Something to show a line for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What it is called until it says so itself.
    pub name: String,
    /// Where it is asked, or why it is not.
    pub at: Result<Address, String>,
    /// Whether the user named it. Otherwise it is shown only if an exporter answers.
    pub wanted: bool,
    /// What else is known of it, such as why it lacks something.
    pub note: String,
}

impl Address {
    /// The address of an exporter, or of a supervisor.
    pub fn new(host: String, port: u16, tls: Option<bool>) -> Self {
        Self { host, port, tls, below: String::new() }
    }

    /// For a person: without the host if it is this one.
    pub fn shown(&self) -> String {
        let host = if self.host == HERE { "" } else { self.host.as_str() };
        if host.contains(':') { format!("[{host}]:{}", self.port) } else { format!("{host}:{}", self.port) }
    }

    /// Reads `HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn parse(text: &str) -> Result<Self> {
        match split(text)? {
            (host, Some(port), tls) => Ok(Self::new(host, port, tls)),
            _ => bail!("{text:?} has no port"),
        }
    }
}

/// What a user's argument stands for: one exporter, or with `HOST` alone all of that host.
///
/// # Errors
/// When it is no address.
pub fn subjects_of(text: &str) -> Result<Vec<Subject>> {
    let (host, port, tls) = split(text)?;
    let Some(port) = port else { return all_of(&host, tls) };
    let address = Address::new(host, port, tls);
    Ok(vec![Subject { name: "?".to_owned(), at: Ok(address), wanted: true, note: String::new() }])
}

/// All exporters that a host may have.
///
/// # Errors
/// When the number that ports count from is not one.
pub fn all_of(host: &str, tls: Option<bool>) -> Result<Vec<Subject>> {
    // That of this machine says nothing about others.
    let base = if host == HERE { base()? } else { BASE };
    let subject = |(name, port): (String, u16)| {
        let port = i32::from(port) - i32::from(BASE) + i32::from(base);
        let port = u16::try_from(port).with_context(|| format!("{BASE_VARIABLE}={base} is too large"))?;
        let at = Ok(Address::new(host.to_owned(), port, tls));
        Ok(Subject { name, at, wanted: false, note: String::new() })
    };
    // Where there is none, it has no line.
    jobs(JOBS).into_iter().chain([("?".to_owned(), supervisor::PORT)]).map(subject).collect()
}

/// Host, port and whether TLS is asked for.
fn split(text: &str) -> Result<(String, Option<u16>, Option<bool>)> {
    let (tls, rest) = match text.split_once("://") {
        Some(("http", rest)) => (Some(false), rest),
        Some(("https", rest)) => (Some(true), rest),
        Some((scheme, _)) => bail!("{text:?}: {scheme} is neither http nor https"),
        None => (None, text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
        None => rest.rsplit_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(|port| port.parse().with_context(|| format!("{text:?}: {port:?} is not a port")));
    let host = if host.is_empty() { HERE } else { host };
    if host.contains(['/', '@', '?', '#', ' ']) || host.contains(':') && !rest.starts_with('[') {
        bail!("{text:?} is no address: HOST, HOST:PORT or https://HOST:PORT");
    }
    Ok((host.to_owned(), port.transpose()?, tls))
}

/// Names and ports in a scrape configuration.
fn jobs(config: &str) -> Vec<(String, u16)> {
    let job = |text: &str| {
        let port = text.split_once("localhost:")?.1.split('"').next()?.parse().ok()?;
        Some((text.lines().next()?.trim().to_owned(), port))
    };
    config.split("job_name: ebpf-").skip(1).filter_map(job).collect()
}

/// The number that the ports of this machine's exporters count from.
fn base() -> Result<u16> {
    let told = std::env::var(BASE_VARIABLE).ok().filter(|text| !text.is_empty());
    let text = told.or_else(|| base_in(&fs::read_to_string(DEFAULTS).ok()?));
    let Some(text) = text else { return Ok(BASE) };
    text.parse().with_context(|| format!("{BASE_VARIABLE}={text:?} is not a number of a port"))
}

fn base_in(defaults: &str) -> Option<String> {
    let mut lines =
        defaults.lines().filter_map(|line| line.trim().strip_prefix(BASE_VARIABLE)?.strip_prefix('='));
    let last = lines.next_back()?.trim_matches(['"', '\'']);
    (!last.is_empty()).then(|| last.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let address = |host: &str, port, tls| Address::new(host.to_owned(), port, tls);
        for (text, expected, shown) in [
            ("localhost:9101", address("localhost", 9101, None), ":9101"),
            (":9101", address("localhost", 9101, None), ":9101"),
            ("http://db1:9101/", address("db1", 9101, Some(false)), "db1:9101"),
            ("https://10.0.0.1:9", address("10.0.0.1", 9, Some(true)), "10.0.0.1:9"),
            ("[::1]:9101", address("::1", 9101, None), "[::1]:9101"),
        ] {
            let read = Address::parse(text).expect(text);
            assert_eq!((read.shown(), read), (shown.to_owned(), expected), "{text}");
        }
        for text in ["ftp://a:1", "a:b", "a:70000", "::1", "a b:1", "http://u:p@a:1", "a:1/metrics"] {
            assert!(subjects_of(text).is_err(), "{text}");
        }
        assert!(Address::parse("db1").is_err());
    }

    #[test]
    fn a_host_stands_for_all_its_exporters() {
        let all = subjects_of("https://db1").expect("a host");
        assert!(all.len() >= 16 && all.iter().all(|one| !one.wanted), "{all:?}");
        let disks = all.iter().find(|one| one.name == "diskio").expect("diskio");
        let address = Address::new("db1".to_owned(), 9101, Some(true));
        assert_eq!(disks.at, Ok(address));
    }

    #[test]
    fn the_number_that_ports_count_from_is_read_as_systemd_does() {
        assert_eq!(base_in("# EBPF_EXPORTERS_PORT_BASE=1\nARGS=--x\n"), None);
        assert_eq!(
            base_in("EBPF_EXPORTERS_PORT_BASE=1\nEBPF_EXPORTERS_PORT_BASE=\"19100\"\n").as_deref(),
            Some("19100")
        );
        assert_eq!(base_in("EBPF_EXPORTERS_PORT_BASE=\n"), None);
    }
}
