// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the kubelet is asked: flags, and what follows from them.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use common::process::cli::duration;

/// Where a pod has the token and the CA certificates of its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Ports of a kubelet, with TLS and without.
const PORTS: [u16; 2] = [10250, 10255];

/// Flags about the kubelet.
#[derive(Args, Clone, Debug)]
pub struct Kubelet {
    /// The kubelet of this node, such as https://10.0.0.4:10250. It is asked which pods it runs, and series with
    /// the label cgroup get the labels namespace, pod and container. Default: no kubelet is asked.
    #[arg(long = "kubelet.url", value_name = "URL", value_parser = address)]
    pub url: Option<Address>,

    /// File with the token to show to the kubelet. It is read again for each request, and only sent with TLS.
    /// Default: that of the pod's service account, if there is one.
    #[arg(long = "kubelet.token-file", value_name = "FILE", requires = "url")]
    pub token: Option<PathBuf>,

    /// File with the CA certificates that verify the kubelet's. Default: that of the pod's service account.
    #[arg(long = "kubelet.ca-file", value_name = "FILE", requires = "url")]
    pub authority: Option<PathBuf>,

    /// Do not verify the kubelet's certificate. Whoever listens at its address then gets the token.
    #[arg(long = "kubelet.insecure-skip-verify", requires = "url", conflicts_with = "authority")]
    pub insecure: bool,

    /// Shortest time between two requests. After failures it is longer.
    #[arg(long = "kubelet.interval", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub interval: Duration,
}

/// Where a kubelet listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Name or IP address; one of IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

fn address(text: &str) -> Result<Address, String> {
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err("must begin with https:// or http://".to_owned()),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let [secure, plain] = PORTS;
    let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, port.parse().map_err(|_| format!("{port:?} is not a port"))?),
        None => (rest, if tls { secure } else { plain }),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    // Kubernetes puts an address in place of $(NODE_IP), and never brackets. No group of an IPv6 address has five
    // digits, so such a port is none.
    let is_told_apart = rest.len() - host.len() == ":10250".len() && host.parse::<Ipv6Addr>().is_ok();
    if bracketed.is_none() && host.contains(':') && !is_told_apart {
        return Err("an IPv6 address must be in brackets, as in https://[fd00::4]:10250".to_owned());
    }
    let host = bracketed.unwrap_or(host).to_owned();
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_' | '%');
    if host.is_empty() || !host.chars().all(is_part) {
        return Err("must be https://HOST:PORT, without a path".to_owned());
    }
    Ok(Address { tls, host, port })
}

/// How the kubelet is asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom to ask.
    pub address: Address,
    /// File with the token.
    pub token: Option<PathBuf>,
    /// File with CA certificates; `None` to verify nothing.
    pub authority: Option<PathBuf>,
    /// Shortest time between two requests.
    pub interval: Duration,
}

impl Settings {
    /// What the flags say; `None` if no kubelet is to be asked.
    ///
    /// # Errors
    /// When a file is missing, or the flags contradict each other.
    pub fn new(flags: &Kubelet) -> Result<Option<Self>> {
        Self::in_account(flags, Path::new(ACCOUNT))
    }

    fn in_account(flags: &Kubelet, account: &Path) -> Result<Option<Self>> {
        let Some(address) = flags.url.clone() else { return Ok(None) };
        let given = [("--kubelet.token-file", &flags.token), ("--kubelet.ca-file", &flags.authority)];
        for (flag, file) in given.into_iter().filter_map(|(flag, file)| Some((flag, file.as_ref()?))) {
            if !address.tls {
                bail!("{flag} is of no use with http://: without TLS no token is sent, and nothing verified");
            }
            std::fs::metadata(file).with_context(|| format!("{flag}: {}", file.display()))?;
        }
        let own = |name: &str| Some(account.join(name)).filter(|file| address.tls && file.exists());
        let token = flags.token.clone().or_else(|| own("token"));
        let authority = flags.authority.clone().or_else(|| own("ca.crt")).filter(|_| !flags.insecure);
        if address.tls && authority.is_none() && !flags.insecure {
            bail!(
                "--kubelet.url: nothing verifies the kubelet's certificate, as there is no {}: give \
                 --kubelet.ca-file, or --kubelet.insecure-skip-verify",
                account.join("ca.crt").display()
            );
        }
        Ok(Some(Self { address, token, authority, interval: flags.interval }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        kubelet: Kubelet,
    }

    #[test]
    fn an_address_is_a_host_and_a_port_with_or_without_tls() {
        let at = |tls, host: &str, port| Ok(Address { tls, host: host.to_owned(), port });
        assert_eq!(address("https://10.0.0.4:10250"), at(true, "10.0.0.4", 10250));
        assert_eq!(address("https://node-1/"), at(true, "node-1", 10250));
        assert_eq!(address("http://localhost"), at(false, "localhost", 10255));
        assert_eq!(address("https://[fd00::4]:1"), at(true, "fd00::4", 1));
        assert_eq!(address("https://[fd00::4]"), at(true, "fd00::4", 10250));
        assert_eq!(address("https://fd00::4:10250"), at(true, "fd00::4", 10250));
        assert_eq!(address("https://::1:10250"), at(true, "::1", 10250));
        for wrong in [
            "",
            "10.0.0.4:10250",
            "https://",
            "https://:10250",
            "https://fd00::4",
            "https://fd00::4:1025",
            "https://10250:10250:10250",
            "https://a/pods",
            "https://a:b",
            "https://a:70000",
            "https://a b",
            "https://user@a",
            "HTTPS://a",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_service_account_is_used_unless_flags_say_otherwise() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = |arguments: &[&str]| {
            let cli = Cli::try_parse_from([&["x"], arguments].concat()).map_err(|error| error.to_string())?;
            Settings::in_account(&cli.kubelet, folder.path()).map_err(|error| format!("{error:#}"))
        };
        let files = |arguments: &[&str]| {
            let settings = settings(arguments).expect("settings").expect("a kubelet");
            (settings.token, settings.authority)
        };
        assert!(settings(&[]).expect("settings").is_none());
        let (url, insecure) = ("--kubelet.url=https://a", "--kubelet.insecure-skip-verify");
        let error = settings(&[url]).expect_err("no authority");
        assert!(error.contains("--kubelet.ca-file, or --kubelet.insecure-skip-verify"), "{error}");
        assert_eq!(files(&[url, insecure]), (None, None));
        let [token, authority] = ["token", "ca.crt"].map(|name| folder.path().join(name));
        for file in [&token, &authority] {
            fs::write(file, "").expect("written");
        }
        assert_eq!(files(&[url]), (Some(token.clone()), Some(authority.clone())));
        assert_eq!(files(&[url, insecure]), (Some(token.clone()), None));
        assert_eq!(files(&["--kubelet.url=http://a"]), (None, None));
        let other = format!("--kubelet.token-file={}", authority.display());
        assert_eq!(files(&[url, &other]), (Some(authority.clone()), Some(authority.clone())));
        assert!(settings(&["--kubelet.url=http://a", &other]).expect_err("a token").contains("http://"));
        let error = settings(&[url, "--kubelet.ca-file=/missing"]).expect_err("no file");
        assert!(error.starts_with("--kubelet.ca-file: /missing: "), "{error}");
        assert!(settings(&[insecure]).is_err() && settings(&[&other]).is_err());
        let both = format!("--kubelet.ca-file={}", authority.display());
        assert!(settings(&[url, insecure, &both]).is_err());
    }
}
