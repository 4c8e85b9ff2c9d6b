// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks the kubelet once, bounded in time and size.

use std::error::Error;
use std::fs;
use std::io::{self, BufReader, Cursor, ErrorKind, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Head, Timed};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned,
};

use crate::kubelet::flags::Settings;
use crate::kubelet::list::{self, Pod};

/// Time limit for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Time limit for all of it.
const ALL: Duration = Duration::from_secs(15);

/// Most of an answer that is read. A pod is some 10 kB, mostly of what is skipped.
const MOST: u64 = 32 << 20;

/// Maximum size of the head of an answer.
const HEAD: usize = 16 << 10;

/// Maximum size of a file with a token.
const TOKEN: u64 = 64 << 10;

/// What is read at once.
const CHUNK: usize = 8 << 10;

/// Why there is no list of pods.
#[derive(Debug)]
pub struct Failure {
    /// The kind.
    pub reason: Reason,
    /// What happened.
    pub text: String,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody took the connection, or it broke.
    Connection,
    /// The certificate is not accepted, or it does not speak TLS.
    Tls,
    /// There was no whole answer in time.
    Timeout,
    /// The kubelet does not let us have the list.
    Denied,
    /// Another status than 200.
    Status,
    /// It is no list of pods.
    Format,
    /// It is too long.
    Size,
    /// A file that flags name cannot be used.
    File,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Connection,
        Self::Tls,
        Self::Timeout,
        Self::Denied,
        Self::Status,
        Self::Format,
        Self::Size,
        Self::File,
    ];

    /// The word of a label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Denied => "denied",
            Self::Status => "status",
            Self::Format => "format",
            Self::Size => "size",
            Self::File => "file",
        }
    }
}

impl Failure {
    fn new(reason: Reason, text: impl ToString) -> Self {
        Self { reason, text: text.to_string() }
    }

    fn late() -> Self {
        Self::new(Reason::Timeout, "no whole answer in time")
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let is_tls = error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>);
        match error.kind() {
            _ if is_tls => Self::new(Reason::Tls, error),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::late(),
            ErrorKind::UnexpectedEof => Self::new(Reason::Format, "the answer ended early"),
            _ => Self::new(Reason::Connection, error),
        }
    }
}

/// The pods of the kubelet.
///
/// # Errors
/// When it does not answer with a list of them.
pub fn pods(settings: &Settings) -> Result<Vec<Pod>, Failure> {
    pods_until(settings, Instant::now() + ALL)
}

fn pods_until(settings: &Settings, until: Instant) -> Result<Vec<Pod>, Failure> {
    let address = &settings.address;
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    let mut request = format!(
        "GET /pods HTTP/1.0\r\nHost: {host}:{}\r\nUser-Agent: ebpf-exporters/{}\r\nAccept: application/json\r\n",
        address.port,
        env!("CARGO_PKG_VERSION")
    );
    if let Some(token) = token(settings)? {
        request += &format!("Authorization: Bearer {token}\r\n");
    }
    request += "\r\n";
    let tls = address.tls.then(|| tls(settings)).transpose()?;
    let addresses: Vec<SocketAddr> = (address.host.as_str(), address.port).to_socket_addrs()?.collect();
    let stream = Timed::connect(addresses, CONNECT, until)?;
    let Some(tls) = tls else { return exchange(stream, &request) };
    let name = ServerName::try_from(address.host.clone());
    let connection = name.map_err(|error| Failure::new(Reason::Tls, error)).and_then(|name| {
        ClientConnection::new(Arc::new(tls), name).map_err(|error| Failure::new(Reason::Tls, error))
    });
    exchange(StreamOwned::new(connection?, stream), &request)
}

/// The token, as it is at this moment: they are renewed.
fn token(settings: &Settings) -> Result<Option<String>, Failure> {
    let Some(file) = settings.token.as_ref().filter(|_| settings.address.tls) else { return Ok(None) };
    let wrong = |why: &str| Failure::new(Reason::File, format!("{}: {why}", file.display()));
    let mut token = String::new();
    let opened = fs::File::open(file).and_then(|opened| opened.take(TOKEN).read_to_string(&mut token));
    opened.map_err(|error| wrong(&error.to_string()))?;
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("this is not a token"));
    }
    Ok(Some(token.to_owned()))
}

fn tls(settings: &Settings) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Failure::new(Reason::Tls, error))?;
    let Some(file) = &settings.authority else {
        let anyone = Arc::new(Anyone(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth());
    };
    let wrong =
        |why: &dyn ToString| Failure::new(Reason::File, format!("{}: {}", file.display(), why.to_string()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))? {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"there is no CA certificate"));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Result<Vec<Pod>, Failure> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut bytes = Vec::new();
    let mut chunk = [0; CHUNK];
    let head = loop {
        let length = stream.read(&mut chunk)?;
        bytes.extend_from_slice(chunk.get(..length).unwrap_or_default());
        match Head::parse(&bytes) {
            Ok(Some(head)) => break head,
            Ok(None) if length > 0 && bytes.len() <= HEAD => {}
            _ => return Err(Failure::new(Reason::Format, "this is not an answer in HTTP")),
        }
    };
    match head.status {
        200 => {}
        status @ (401 | 403) => {
            let text = format!(
                "it answers {status}: the service account needs the verb get for nodes/pods, or before Kubernetes \
                 1.33 for nodes/proxy"
            );
            return Err(Failure::new(Reason::Denied, text));
        }
        status => return Err(Failure::new(Reason::Status, format!("it answers {status}"))),
    }
    let rest = Cursor::new(bytes.split_off(head.length.min(bytes.len())));
    let mut body = rest.chain(stream).take(MOST);
    let list = list::read(BufReader::with_capacity(CHUNK, &mut body));
    list.map_err(|error| match (body.limit(), error.is_io()) {
        (0, _) => Failure::new(Reason::Size, format!("a list of more than {} MB", MOST >> 20)),
        (_, true) => io::Error::from(error).into(),
        (_, false) => Failure::new(Reason::Format, format!("it is no list of pods: {error}")),
    })
}

/// Accepts all certificates.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
