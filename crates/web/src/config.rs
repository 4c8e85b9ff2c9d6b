// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file that `--web.config.file` names, as exporter-toolkit defines it:
//! <https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Deserializer};

/// The whole file. An unknown key is an error. A key without a value counts as absent.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// TLS. If absent, connections are plain.
    pub tls_server_config: Option<Tls>,
    /// Settings of HTTP.
    #[serde(deserialize_with = "or_default")]
    pub http_server_config: Http,
    /// Limit for the rate of requests.
    #[serde(deserialize_with = "or_default")]
    pub rate_limit: RateLimit,
    /// Users and the bcrypt hashes of their passwords. If empty, no password is needed.
    #[serde(deserialize_with = "texts")]
    pub basic_auth_users: BTreeMap<String, String>,
}

/// The value of a key, or the default if it has none.
fn or_default<'d, D: Deserializer<'d>, T: Deserialize<'d> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Texts by name. The text is empty if a name has no value.
fn texts<'d, D: Deserializer<'d>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let texts: BTreeMap<String, Option<String>> = or_default(from)?;
    Ok(texts.into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect())
}

/// A text; None if it is absent or empty.
fn some<'d, D: Deserializer<'d>, T: From<String>>(from: D) -> Result<Option<T>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    Ok(text.filter(|text| !text.is_empty()).map(T::from))
}

/// `rate_limit`: one request per interval, and a burst after a pause. No limit without interval.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimit {
    /// Such as `100ms`.
    pub interval: Option<String>,
    /// The most requests at once.
    #[serde(deserialize_with = "or_default")]
    pub burst: u32,
}

impl RateLimit {
    /// Nanoseconds from one request to the next; 0 for any number of requests.
    ///
    /// # Errors
    /// When the interval is not a duration, or `burst` is 0.
    pub fn nanoseconds(&self) -> Result<u64> {
        let interval = self.interval.as_deref().filter(|text| *text != "0");
        let Some(text) = interval else { return Ok(0) };
        let interval =
            humantime::parse_duration(text).with_context(|| format!("rate_limit: interval {text:?}"))?;
        if self.burst == 0 {
            bail!("rate_limit: an interval with a burst of 0 would reject every request");
        }
        interval.as_nanos().try_into().context("rate_limit: interval")
    }
}

/// `http_server_config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Accepted without effect: only HTTP/1.1 is supported.
    pub http2: Option<bool>,
    /// Headers to add to every answer.
    #[serde(deserialize_with = "texts")]
    pub headers: BTreeMap<String, String>,
}

/// `tls_server_config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// Certificate chain, or the file that has it.
    #[serde(deserialize_with = "some")]
    pub cert: Option<String>,
    /// See `cert`.
    #[serde(deserialize_with = "some")]
    pub cert_file: Option<PathBuf>,
    /// Private key, or the file that has it.
    #[serde(deserialize_with = "some")]
    pub key: Option<String>,
    /// See `key`.
    #[serde(deserialize_with = "some")]
    pub key_file: Option<PathBuf>,
    /// CA certificates that verify those of clients, or the file that has them.
    #[serde(deserialize_with = "some")]
    pub client_ca: Option<String>,
    /// See `client_ca`.
    #[serde(deserialize_with = "some")]
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients have to send a certificate.
    #[serde(deserialize_with = "or_default")]
    pub client_auth_type: ClientAuth,
    /// Names of which a client's certificate must have one.
    #[serde(deserialize_with = "or_default")]
    pub client_allowed_sans: Vec<String>,
    /// Oldest version of TLS.
    pub min_version: Option<Version>,
    /// Newest version of TLS.
    pub max_version: Option<Version>,
    /// Cipher suites of TLS 1.2. As in Go, those of TLS 1.3 are accepted without effect.
    #[serde(deserialize_with = "or_default")]
    pub cipher_suites: Vec<String>,
    /// Key exchange groups, in order of preference.
    #[serde(deserialize_with = "or_default")]
    pub curve_preferences: Vec<Curve>,
    /// Accepted without effect, as in Go's library.
    pub prefer_server_cipher_suites: Option<bool>,
}

/// `client_auth_type`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients are not asked for a certificate.
    #[default]
    #[serde(alias = "")]
    NoClientCert,
    /// A certificate is requested and not verified. Not supported.
    RequestClientCert,
    /// A certificate is required and not verified. Not supported.
    RequireAnyClientCert,
    /// A certificate is requested, and verified if the client sends one.
    VerifyClientCertIfGiven,
    /// A certificate is required and verified.
    RequireAndVerifyClientCert,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.0.
    TLS10,
    /// 1.1.
    TLS11,
    /// 1.2.
    TLS12,
    /// 1.3.
    TLS13,
}

/// Key exchange groups.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum Curve {
    X25519,
    CurveP256,
    CurveP384,
    CurveP521,
}

/// Headers that may be set.
const HEADERS: [&str; 5] = [
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
];

impl Config {
    /// Reads a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// When the file cannot be read, or its contents are invalid or contradictory.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).context("failed to read it")?;
        let mut config = Self::parse(&text)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        if let Some(tls) = &mut config.tls_server_config {
            for file in [&mut tls.cert_file, &mut tls.key_file, &mut tls.client_ca_file].into_iter().flatten()
            {
                *file = folder.join(&*file);
            }
        }
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self> {
        let said = text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
        let config: Option<Self> = if said {
            serde_saphyr::from_str(text).map_err(|error| anyhow!("{}", error.without_snippet()))?
        } else {
            None
        };
        let mut config = config.unwrap_or_default();
        config.tls_server_config = config.tls_server_config.filter(Tls::is_wanted);
        for (name, value) in &config.http_server_config.headers {
            if !HEADERS.contains(&name.as_str()) {
                bail!("http_server_config: header {name} cannot be set; allowed are: {}", HEADERS.join(", "));
            }
            if value.contains(['\r', '\n']) {
                bail!("http_server_config: header {name} has more than one line");
            }
        }
        if let Some(name) = config.basic_auth_users.keys().find(|name| name.contains([':', '\t', '\n'])) {
            bail!("basic_auth_users: {name:?} is not a valid user name");
        }
        config.rate_limit.nanoseconds()?;
        if let Some(tls) = &config.tls_server_config {
            tls.check().context("tls_server_config")?;
        }
        Ok(config)
    }
}

impl Tls {
    /// Whether TLS is wanted. TLS versions and cipher suites alone do not enable it.
    fn is_wanted(&self) -> bool {
        let files = [&self.cert_file, &self.key_file, &self.client_ca_file];
        let texts = [&self.cert, &self.key, &self.client_ca];
        files.into_iter().any(Option::is_some)
            || texts.into_iter().any(Option::is_some)
            || self.client_auth_type != ClientAuth::NoClientCert
            // Without TLS, every client would be admitted, not only those listed.
            || !self.client_allowed_sans.is_empty()
    }

    fn check(&self) -> Result<()> {
        for (what, text, file) in [
            ("cert", &self.cert, &self.cert_file),
            ("key", &self.key, &self.key_file),
            ("client_ca", &self.client_ca, &self.client_ca_file),
        ] {
            match (text, file) {
                (Some(_), Some(_)) => bail!("both {what} and {what}_file"),
                (None, None) if what != "client_ca" => bail!("neither {what} nor {what}_file"),
                _ => {}
            }
        }
        let verifies = [ClientAuth::VerifyClientCertIfGiven, ClientAuth::RequireAndVerifyClientCert]
            .contains(&self.client_auth_type);
        let has_ca = self.client_ca.is_some() || self.client_ca_file.is_some();
        match (self.client_auth_type, verifies, has_ca) {
            (ClientAuth::NoClientCert, _, false) | (_, true, true) => {}
            (ClientAuth::NoClientCert, _, true) => bail!("client_ca without client_auth_type"),
            (auth, true, false) => bail!("client_auth_type {auth:?} without client_ca or client_ca_file"),
            (auth, false, _) => bail!(
                "client_auth_type {auth:?} verifies nothing and is not supported; use \
                 RequireAndVerifyClientCert or VerifyClientCertIfGiven"
            ),
        }
        if !self.client_allowed_sans.is_empty()
            && self.client_auth_type != ClientAuth::RequireAndVerifyClientCert
        {
            bail!("client_allowed_sans without client_auth_type RequireAndVerifyClientCert");
        }
        if self.max_version.is_some_and(|version| version < Version::TLS12) {
            bail!("max_version: TLS versions before 1.2 are not safe and not supported");
        }
        if self.min_version > self.max_version && self.max_version.is_some() {
            bail!("min_version is above max_version");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_changes_nothing() {
        for text in ["", "\n", "# nothing\n", "basic_auth_users: {}\n"] {
            let config = Config::parse(text).expect(text);
            assert!(config.tls_server_config.is_none() && config.basic_auth_users.is_empty(), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_as_if_it_were_absent() {
        for text in [
            "---\n",
            "null\n",
            "basic_auth_users:\n",
            "tls_server_config:\nhttp_server_config:\nrate_limit:\nbasic_auth_users:\n",
            "tls_server_config: {}\n",
            "tls_server_config:\n  cert_file: \"\"\n  key_file: \"\"\n",
            "tls_server_config: {cert: '', key: '', client_ca: '', client_ca_file: '', client_auth_type: ''}\n",
            // Versions and cipher suites alone do not enable TLS.
            "tls_server_config:\n  min_version: TLS13\n  cipher_suites:\n  client_allowed_sans:\n",
            "http_server_config:\n  http2:\n  headers:\n",
            "rate_limit:\n  interval:\n  burst:\n",
            "rate_limit: {interval: 0, burst: 0}\n",
        ] {
            let config = Config::parse(text).unwrap_or_else(|error| panic!("{text}: {error:#}"));
            assert!(config.tls_server_config.is_none(), "{text}");
            assert!(
                config.basic_auth_users.is_empty() && config.http_server_config.headers.is_empty(),
                "{text}"
            );
            assert_eq!(config.rate_limit.nanoseconds().expect(text), 0, "{text}");
        }
        // An empty hash is kept here. The exporter, which checks hashes, refuses it.
        let users = Config::parse("basic_auth_users:\n  alice:\n").expect("valid").basic_auth_users;
        assert_eq!(users.get("alice").map(String::as_str), Some(""));
        let text = "tls_server_config:\n  cert: ''\n  cert_file: a\n  key: PEM\n  key_file:\n  client_auth_type:\n  \
                    min_version:\n  max_version:\n  curve_preferences:\n  prefer_server_cipher_suites:\n";
        let tls = Config::parse(text).expect(text).tls_server_config.expect("there");
        assert_eq!((tls.cert, tls.key.as_deref()), (None, Some("PEM")));
        assert_eq!(tls.client_auth_type, ClientAuth::NoClientCert);
    }

    #[test]
    fn what_the_toolkit_documents_is_taken() {
        let text = "\
tls_server_config:
  cert_file: web.crt
  key_file: web.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
  client_allowed_sans: [prometheus.example]
  min_version: TLS12
  max_version: TLS13
  cipher_suites:
    - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
  prefer_server_cipher_suites: true
  curve_preferences: [CurveP256, X25519]
http_server_config:
  http2: true
  headers:
    X-Frame-Options: deny
rate_limit: {interval: 100ms, burst: 20}
basic_auth_users:
  alice: $2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze
";
        let config = Config::parse(text).expect("valid");
        let tls = config.tls_server_config.expect("there");
        assert_eq!(tls.curve_preferences, [Curve::CurveP256, Curve::X25519]);
        assert_eq!(config.basic_auth_users.len(), 1);
        assert_eq!(
            (config.rate_limit.nanoseconds().expect("valid"), config.rate_limit.burst),
            (100_000_000, 20)
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let tls = |rest: &str| format!("tls_server_config:\n  cert_file: a\n  key_file: b\n{rest}");
        for (text, why) in [
            ("tls_server_confg: {}".to_owned(), "tls_server_confg"),
            ("tls_server_config: {cert_file: a}".to_owned(), "neither key nor key_file"),
            ("tls_server_config: {cert_file: a, key_file: \"\"}".to_owned(), "neither key nor key_file"),
            ("tls_server_config: {min_version: \"\"}".to_owned(), "TLS12"),
            (tls("  cert: c\n"), "both cert and cert_file"),
            (tls("  certfile: c\n"), "certfile"),
            (tls("  client_ca_file: c\n"), "client_ca without client_auth_type"),
            (tls("  client_auth_type: RequireAndVerifyClientCert\n"), "without client_ca"),
            (tls("  client_auth_type: RequireAnyClientCert\n"), "verifies nothing"),
            (tls("  client_allowed_sans: [a]\n"), "client_allowed_sans without"),
            ("tls_server_config: {client_allowed_sans: [a]}".to_owned(), "neither cert nor cert_file"),
            (tls("  max_version: TLS11\n"), "before 1.2"),
            (tls("  min_version: TLS13\n  max_version: TLS12\n"), "above max_version"),
            ("http_server_config: {headers: {Server: x}}".to_owned(), "header Server"),
            ("basic_auth_users: {\"a:b\": c}".to_owned(), "not a valid user name"),
            ("rate_limit: {interval: often, burst: 1}".to_owned(), "interval \"often\""),
            ("rate_limit: {interval: 1s}".to_owned(), "burst of 0"),
            ("basic_auth_users: [a]".to_owned(), ""),
        ] {
            let error = format!("{:#}", Config::parse(&text).expect_err(&text));
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
