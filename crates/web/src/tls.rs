// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turns the configuration file into a configuration of rustls.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::crypto::ring::{self, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, version};
use webpki::EndEntityCert;

use crate::config::{ClientAuth, Curve, Tls, Version};

/// TLS settings. Certificates and keys are read again whenever their files change.
#[derive(Debug)]
pub struct Terms {
    tls: Tls,
    names: Arc<[String]>,
    stamps: Vec<Option<Stamp>>,
    config: Arc<ServerConfig>,
}

impl Terms {
    /// Reads all files that `tls` names.
    ///
    /// # Errors
    /// When a file is missing or invalid, or a name in `client_allowed_sans` is an e-mail address.
    pub fn new(tls: Tls) -> Result<Self> {
        let names: Arc<[String]> = tls.client_allowed_sans.clone().into();
        if let Some(name) = names.iter().find(|name| name.contains('@') && !name.contains("://")) {
            bail!(
                "client_allowed_sans: {name}: only host names, addresses and URIs are supported, not \
                 e-mail addresses"
            );
        }
        // Before the files are read, so that a change meanwhile is noticed.
        let stamps = stamps(&tls);
        let config = Arc::new(server_config(&tls)?);
        Ok(Self { tls, names, stamps, config })
    }

    /// Reads the files again if they changed.
    ///
    /// # Errors
    /// When they are now invalid. The old configuration stays in use, and the next call tries again.
    pub fn renew(&mut self) -> Result<()> {
        let stamps = stamps(&self.tls);
        if stamps != self.stamps {
            self.config = Arc::new(server_config(&self.tls)?);
            self.stamps = stamps;
        }
        Ok(())
    }

    /// The configuration for new connections.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Names of which a client's certificate must have one. If empty, any name will do.
    pub fn names(&self) -> Arc<[String]> {
        Arc::clone(&self.names)
    }
}

/// Whether a client's certificate has one of `names`, without wildcards, or `names` is empty.
pub fn is_welcome(chain: Option<&[CertificateDer<'_>]>, names: &[String]) -> bool {
    let shown = chain.and_then(<[_]>::first).and_then(|first| EndEntityCert::try_from(first).ok());
    let has = |shown: &EndEntityCert<'_>, name: &str| {
        let is_address = ServerName::try_from(name).is_ok_and(|name| {
            matches!(name, ServerName::IpAddress(_)) && shown.verify_is_valid_for_subject_name(&name).is_ok()
        });
        is_address || shown.valid_dns_names().chain(shown.valid_uri_names()).any(|own| own == name)
    };
    names.is_empty() || shown.is_some_and(|shown| names.iter().any(|name| has(&shown, name)))
}

/// Identifies the contents of a file: inode, size, and time of the last change.
type Stamp = (u64, u64, i64, i64);

fn files(tls: &Tls) -> impl Iterator<Item = &PathBuf> {
    [&tls.cert_file, &tls.key_file, &tls.client_ca_file].into_iter().flatten()
}

fn stamps(tls: &Tls) -> Vec<Option<Stamp>> {
    let stamp = |file: fs::Metadata| (file.ino(), file.size(), file.ctime(), file.ctime_nsec());
    files(tls).map(|file| fs::metadata(file).ok().map(stamp)).collect()
}

fn server_config(tls: &Tls) -> Result<ServerConfig> {
    let provider = Arc::new(provider(tls)?);
    let verifier = match tls.client_auth_type {
        ClientAuth::VerifyClientCertIfGiven | ClientAuth::RequireAndVerifyClientCert => {
            let (pem, name) = text(tls.client_ca.as_deref(), tls.client_ca_file.as_deref())?;
            let mut roots = RootCertStore::empty();
            for authority in certificates(&pem, &name)? {
                roots.add(authority).with_context(|| format!("{name}: not a CA certificate"))?;
            }
            let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
            let builder = match tls.client_auth_type {
                ClientAuth::VerifyClientCertIfGiven => builder.allow_unauthenticated(),
                _ => builder,
            };
            builder.build().with_context(|| format!("{name}: no CA certificates"))?
        }
        _ => WebPkiClientVerifier::no_client_auth(),
    };
    let (pem, cert_name) = text(tls.cert.as_deref(), tls.cert_file.as_deref())?;
    let chain = certificates(&pem, &cert_name)?;
    let (pem, name) = text(tls.key.as_deref(), tls.key_file.as_deref())?;
    let key = PrivateKeyDer::from_pem_slice(&pem).with_context(|| format!("{name}: no private key"))?;
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions(tls))
        .context("cipher_suites has no cipher suite for these TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .with_context(|| format!("{name}: does not match the certificate {cert_name}"))
}

/// PEM, and the name of its source.
fn text(inline: Option<&str>, file: Option<&Path>) -> Result<(Vec<u8>, String)> {
    match file {
        Some(path) => {
            let name = path.display().to_string();
            Ok((fs::read(path).with_context(|| format!("failed to read {name}"))?, name))
        }
        None => Ok((inline.unwrap_or_default().into(), "the file's own PEM".to_owned())),
    }
}

fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{name}: not a certificate"))?;
    if found.is_empty() {
        bail!("{name}: no certificate");
    }
    Ok(found)
}

fn versions(tls: &Tls) -> Vec<&'static SupportedProtocolVersion> {
    let known = [(Version::TLS12, &version::TLS12), (Version::TLS13, &version::TLS13)];
    let wanted = |version: Version| {
        tls.min_version.is_none_or(|min| min <= version) && tls.max_version.is_none_or(|max| version <= max)
    };
    known.into_iter().filter(|(version, _)| wanted(*version)).map(|(_, known)| known).collect()
}

fn provider(tls: &Tls) -> Result<CryptoProvider> {
    let mut provider = ring::default_provider();
    // As in Go, the suites of TLS 1.3 are always enabled.
    let is_old = |suite: &SupportedCipherSuite| suite.tls13().is_none();
    let name = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite());
    if !tls.cipher_suites.is_empty() {
        // rustls calls them TLS13_..., Go and RFC 8446 TLS_...
        let is_new = |wanted: &str| {
            let known = |suite: &SupportedCipherSuite| name(suite).replacen("TLS13_", "TLS_", 1) == wanted;
            provider.cipher_suites.iter().any(|suite| !is_old(suite) && known(suite))
        };
        for wanted in tls.cipher_suites.iter().filter(|wanted| !is_new(wanted)) {
            if !provider.cipher_suites.iter().any(|suite| is_old(suite) && name(suite) == *wanted) {
                let known: Vec<String> =
                    provider.cipher_suites.iter().filter(|s| is_old(s)).map(name).collect();
                bail!("cipher_suites: {wanted} is not supported; supported are: {}", known.join(", "));
            }
        }
        provider.cipher_suites.retain(|suite| !is_old(suite) || tls.cipher_suites.contains(&name(suite)));
    }
    if !tls.curve_preferences.is_empty() {
        let group = |curve: &Curve| -> Result<&'static dyn SupportedKxGroup> {
            match curve {
                Curve::X25519 => Ok(kx_group::X25519),
                Curve::CurveP256 => Ok(kx_group::SECP256R1),
                Curve::CurveP384 => Ok(kx_group::SECP384R1),
                Curve::CurveP521 => bail!("curve_preferences: CurveP521 is not supported"),
            }
        };
        provider.kx_groups = tls.curve_preferences.iter().map(group).collect::<Result<_>>()?;
    }
    Ok(provider)
}
