// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses of a collector. The binary is linked statically with glibc, whose `getaddrinfo` crashes in
//! such a binary when the libraries of the host are of another version: names come from /etc/hosts only.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

const HOSTS: &str = "/etc/hosts";

/// Port of `http` URLs without one.
const PORT: u16 = 80;

/// How many addresses ureq tries at most.
const MAX_ADDRESSES: usize = 16;

/// Resolves hosts for ureq.
#[derive(Debug)]
pub struct Hosts;

impl Resolver for Hosts {
    fn resolve(
        &self,
        uri: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut resolved = self.empty();
        for address in addresses_of(uri).into_iter().take(MAX_ADDRESSES) {
            resolved.push(address);
        }
        if resolved.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(resolved) }
    }
}

/// The addresses of the host in a URL, read anew each time; empty if the host is unknown.
pub fn addresses_of(uri: &Uri) -> Vec<SocketAddr> {
    let file = fs::read(HOSTS).unwrap_or_default();
    let port = uri.port_u16().unwrap_or(PORT);
    let addresses = addresses(uri.host().unwrap_or_default(), &String::from_utf8_lossy(&file));
    addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
}

/// The addresses of a host: an IP address, `localhost`, or a name in `hosts`, the text of /etc/hosts.
fn addresses(host: &str, hosts: &str) -> Vec<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse() {
        return vec![address];
    }
    let mut found = Vec::new();
    for line in hosts.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        if words.any(|name| name.eq_ignore_ascii_case(host)) && !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() && host.eq_ignore_ascii_case("localhost") {
        found = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses_or_names_of_the_file() {
        let hosts = "127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # comment\n\n# 9.9.9.9 off\n\
                     nonsense off\n10.0.0.7  collector.example Collector # off\n10.0.0.8 collector\n\
                     10.0.0.7 collector\nfe80::1%eth0 scoped\n10.0.0.9";
        let cases: &[(&str, &str, &[&str])] = &[
            ("192.0.2.1", "", &["192.0.2.1"]),
            ("[2001:db8::1]", "", &["2001:db8::1"]),
            ("localhost", hosts, &["127.0.0.1", "::1"]),
            ("LocalHost", "", &["127.0.0.1", "::1"]),
            ("localhost", "127.0.0.5 localhost", &["127.0.0.5"]),
            ("collector", hosts, &["10.0.0.7", "10.0.0.8"]),
            ("COLLECTOR.example", hosts, &["10.0.0.7"]),
            ("off", hosts, &[]),
            ("scoped", hosts, &[]),
            ("comment", hosts, &[]),
            ("elsewhere.example", hosts, &[]),
            ("", hosts, &[]),
        ];
        for (host, hosts, expected) in cases {
            let expected: Vec<IpAddr> = expected.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(addresses(host, hosts), expected, "{host}");
        }
    }

    #[test]
    fn port_of_a_url_is_80_unless_given() {
        for (url, expected) in [("http://127.0.0.2", "127.0.0.2:80"), ("http://[::1]:4318/x", "[::1]:4318")] {
            assert_eq!(addresses_of(&url.parse().unwrap()), [expected.parse::<SocketAddr>().unwrap()]);
        }
    }
}
