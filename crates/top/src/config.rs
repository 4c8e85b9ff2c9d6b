// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file that `--web.config` names: how exporters are asked. Keys have the names of a scrape job of
//! Prometheus, so that a part of one can be copied.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The whole file. An unknown key is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How addresses without `http://` or `https://` are asked.
    pub scheme: Scheme,
    /// Name and password.
    pub basic_auth: Option<BasicAuth>,
    /// Certificates.
    pub tls_config: Tls,
}

/// With or without TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Without.
    #[default]
    Http,
    /// With.
    Https,
}

/// A user of the exporters.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BasicAuth {
    /// Name.
    pub username: String,
    /// Password, or the file that has it.
    pub password: Option<String>,
    /// See `password`.
    pub password_file: Option<PathBuf>,
}

/// Certificates.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// CA certificates that verify those of exporters, or the file that has them. By default those of
    /// the system.
    pub ca: Option<String>,
    /// See `ca`.
    pub ca_file: Option<PathBuf>,
    /// Certificate to show to exporters.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
    /// The name that is in the certificates of exporters, where it is not that of the host.
    pub server_name: Option<String>,
}

impl Config {
    /// Reads the file. Other files that it names are found from its folder, as Prometheus does it.
    ///
    /// # Errors
    /// When a file cannot be read or is not as described.
    pub fn read(path: &Path) -> Result<Self> {
        let named = || path.display().to_string();
        let text = fs::read_to_string(path).with_context(named)?;
        let mut config: Self = serde_saphyr::from_str(&text).with_context(named)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let tls = &mut config.tls_config;
        let password = config.basic_auth.as_mut().map(|user| &mut user.password_file);
        let files = [&mut tls.ca_file, &mut tls.cert_file, &mut tls.key_file].into_iter().chain(password);
        for file in files.flatten() {
            *file = folder.join(&*file);
        }
        if let Some(user) = &mut config.basic_auth
            && let Some(file) = &user.password_file
        {
            if user.password.is_some() {
                bail!("{}: basic_auth has both password and password_file", path.display());
            }
            let password = fs::read_to_string(file).with_context(|| file.display().to_string())?;
            user.password = Some(password.trim().to_owned());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("secret"), "sesame\n").expect("written");
        fs::write(folder.path().join("web.yml"), text).expect("written");
        Config::read(&folder.path().join("web.yml"))
    }

    #[test]
    fn keys_are_those_of_a_scrape_job() {
        let text = "scheme: https\nbasic_auth:\n  username: alice\n  password_file: secret\n\
                    tls_config:\n  ca_file: ca.crt\n  server_name: db1\n";
        let config = read(text).expect("a configuration");
        assert_eq!(config.scheme, Scheme::Https);
        let user = config.basic_auth.expect("a user");
        assert_eq!((user.username.as_str(), user.password.as_deref()), ("alice", Some("sesame")));
        assert!(config.tls_config.ca_file.is_some_and(|file| file.is_absolute() && file.ends_with("ca.crt")));
        assert_eq!(read("{}").expect("nothing").scheme, Scheme::Http);
    }

    #[test]
    fn what_has_no_effect_is_an_error() {
        for text in [
            "basic_auth_users: {alice: x}",
            "tls_config: {insecure_skip_verify: true}",
            "scheme: gopher",
            "basic_auth: {username: a, password: b, password_file: secret}",
            "basic_auth: {username: a, password_file: missing}",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
