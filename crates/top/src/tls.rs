// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turns settings into a configuration of rustls.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::Tls;

/// How to speak TLS with exporters.
///
/// # Errors
/// When a file is missing or invalid.
pub fn client(tls: &Tls) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().context("no version of TLS")?;
    let builder = builder.with_root_certificates(roots(tls)?);
    let config = match (&tls.cert_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            let named = || certificate.display().to_string();
            let chain = CertificateDer::pem_file_iter(certificate).with_context(named)?;
            let chain = chain.collect::<Result<Vec<_>, _>>().with_context(named)?;
            let key = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
            builder.with_client_auth_cert(chain, key).with_context(named)?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => bail!("tls_config: cert_file and key_file belong together"),
    };
    Ok(Arc::new(config))
}

/// CA certificates that verify those of exporters.
fn roots(tls: &Tls) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let certificates = match (&tls.ca, &tls.ca_file) {
        (Some(_), Some(_)) => bail!("tls_config: both ca and ca_file"),
        (Some(text), None) => CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .context("tls_config: ca")?,
        (None, Some(file)) => {
            let named = || file.display().to_string();
            let certificates = CertificateDer::pem_file_iter(file).with_context(named)?;
            certificates.collect::<Result<Vec<_>, _>>().with_context(named)?
        }
        (None, None) => {
            // Some of a system's certificates may be of no use; others do.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        }
    };
    for certificate in certificates {
        roots.add(certificate).context("tls_config: not a CA certificate")?;
    }
    if roots.is_empty() {
        bail!("tls_config: there is no CA certificate");
    }
    Ok(roots)
}
