// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks an exporter over HTTP: one request a connection, bounded in time and size.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Head, Timed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::address::{Address, HERE};
use crate::config::{Config, Scheme};
use crate::tls;

/// Time limit for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Time limit for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Maximum size of an answer.
const MOST: usize = 64 << 20;

/// How a record of TLS begins that says that something is wrong.
const TLS_ALERT: u8 = 0x15;

/// Asks exporters.
#[derive(Debug)]
pub struct Client {
    scheme: Scheme,
    authorization: Option<String>,
    tls: Arc<ClientConfig>,
    server_name: Option<String>,
}

/// What an exporter answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Content.
    pub body: String,
    /// When it was asked.
    pub asked: Instant,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nobody listens there.
    Nobody,
    /// It does not speak HTTP, but TLS.
    WantsTls,
    /// Something else.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody listens there"),
            Self::WantsTls => {
                f.write_str("speaks TLS: ask https://HOST:PORT, or set scheme: https in --web.config")
            }
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Nobody,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Other("no answer in time".to_owned()),
            _ => Self::Other(error.to_string()),
        }
    }
}

impl Client {
    /// With these settings.
    ///
    /// # Errors
    /// When a file that they name is missing or invalid.
    pub fn new(config: &Config) -> Result<Self> {
        let authorization = config.basic_auth.as_ref().map(|user| {
            let both = format!("{}:{}", user.username, user.password.as_deref().unwrap_or_default());
            format!("Authorization: Basic {}\r\n", STANDARD.encode(both))
        });
        let tls = tls::client(&config.tls_config).context("TLS")?;
        let server_name = config.tls_config.server_name.clone();
        Ok(Self { scheme: config.scheme, authorization, tls, server_name })
    }

    /// The answer to `GET path`.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, address: &Address, path: &str) -> Result<Answer, Failure> {
        let stream = connect(address)?;
        let host =
            if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
        // HTTP/1.0 has neither chunks nor connections that stay open.
        let request = format!(
            "GET {}{path} HTTP/1.0\r\nHost: {host}:{}\r\nAccept: text/plain, application/json\r\n{}\r\n",
            address.below,
            address.port,
            self.authorization.as_deref().unwrap_or_default()
        );
        if !address.tls.unwrap_or(self.scheme == Scheme::Https) {
            return exchange(stream, &request);
        }
        let name = self.server_name.as_ref().unwrap_or(&address.host).clone();
        let name = ServerName::try_from(name).map_err(|error| Failure::Other(error.to_string()))?;
        let connection = ClientConnection::new(Arc::clone(&self.tls), name);
        let connection = connection.map_err(|error| Failure::Other(error.to_string()))?;
        exchange(StreamOwned::new(connection, stream), &request)
    }
}

/// Tries each address that a name has.
fn connect(address: &Address) -> Result<Timed, Failure> {
    let addresses: Vec<SocketAddr> = if address.host == HERE {
        // Without asking the resolver, which some hosts do not have.
        let here: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        here.map(|ip| SocketAddr::new(ip, address.port)).to_vec()
    } else {
        (address.host.as_str(), address.port).to_socket_addrs()?.collect()
    };
    if addresses.is_empty() {
        return Err(Failure::Other(format!("{} has no address", address.host)));
    }
    Ok(Timed::connect(addresses, CONNECT, Instant::now() + CONNECT + ANSWER)?)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Result<Answer, Failure> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let asked = Instant::now();
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let mut head = None;
    loop {
        let n = match stream.read(&mut buffer) {
            Ok(n) => n,
            // The other end closed TLS without saying so; the length tells whether all is here.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            // The other end may close before it has read the request, and has answered all the same.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && !bytes.is_empty() => 0,
            Err(error) => return Err(error.into()),
        };
        bytes.extend(buffer.iter().take(n));
        if bytes.len() > MOST {
            return Err(Failure::Other(format!("an answer of more than {} MB", MOST >> 20)));
        }
        if head.is_none() {
            head = parse(&bytes)?;
        }
        if let Some(Head { status, length: start, body: length }) = head {
            let body = bytes.get(start..).unwrap_or_default();
            let whole = length.is_none_or(|length| body.len() >= length);
            if n == 0 && !whole {
                return Err(Failure::Other("the answer ended early".to_owned()));
            }
            if n == 0 || length.is_some() && whole {
                let body = String::from_utf8_lossy(body.get(..length.unwrap_or(body.len())).unwrap_or(body));
                return Ok(Answer { status, body: body.into_owned(), asked });
            }
        } else if n == 0 {
            return Err(Failure::Other("the answer ended early".to_owned()));
        }
    }
}

/// The head of an answer; `None` while it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Failure> {
    if bytes.first() == Some(&TLS_ALERT) {
        return Err(Failure::WantsTls);
    }
    Head::parse(bytes).map_err(|_| Failure::Other("does not speak HTTP".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;
    use std::thread;

    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use rustls::crypto::ring;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig, ServerConnection};

    use super::*;

    /// A server that reads a request and answers with these bytes.
    fn answered(bytes: &'static [u8]) -> Result<Answer, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let n = client.read(&mut request).expect("a request");
            client.write_all(bytes).expect("sent");
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let auth = "scheme: http\nbasic_auth: {username: alice, password: sesame}\n";
        let config: Config = serde_saphyr::from_str(auth).expect("settings");
        let address = Address::new("127.0.0.1".to_owned(), port, None);
        let answer = Client::new(&config).expect("a client").get(&address, "/metrics");
        let request = server.join().expect("served");
        assert!(request.starts_with("GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:"), "{request}");
        assert!(request.contains("\r\nAuthorization: Basic YWxpY2U6c2VzYW1l\r\n"), "{request}");
        answer
    }

    #[test]
    fn an_answer_is_read_whole() {
        let answer = answered(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (200, "ab"));
        let answer = answered(b"HTTP/1.1 503 Service Unavailable\r\n\r\nab").expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (503, "ab"));
    }

    #[test]
    fn what_is_not_an_answer_is_told() {
        for (bytes, why) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"[..], "the answer ended early"),
            (b"HTTP/1.1 200", "the answer ended early"),
            (b"SSH-2.0-OpenSSH_9\r\n", "does not speak HTTP"),
            (b"\x15\x03\x03\x00\x02\x02\x16", "speaks TLS"),
        ] {
            let failure = answered(bytes).expect_err("no answer").to_string();
            assert!(failure.starts_with(why), "{failure}");
        }
    }

    #[test]
    fn nobody_is_not_an_error_of_somebody() {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let address = Address::new("127.0.0.1".to_owned(), port, None);
        let client = Client::new(&Config::default()).expect("a client");
        assert!(matches!(client.get(&address, "/"), Err(Failure::Nobody)));
    }

    /// A server that wants a certificate of the same authority, and answers one request.
    fn locked(authority: &CertifiedIssuer<'_, KeyPair>) -> u16 {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["exporters".to_owned()]).expect("a name");
        let certificate = certificate.signed_by(&key, authority).expect("signed");
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("a certificate");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            let (client, _) = listener.accept().expect("a client");
            let connection = ServerConnection::new(Arc::new(config)).expect("a connection");
            let mut stream = StreamOwned::new(connection, client);
            // A client without a certificate gets no further.
            if stream.read(&mut [0; 1024]).is_ok() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("sent");
            }
        });
        port
    }

    #[test]
    fn certificates_are_shown_and_verified() {
        let authority =
            CertifiedIssuer::self_signed(CertificateParams::default(), KeyPair::generate().expect("a key"));
        let authority = authority.expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["top".to_owned()]).expect("a name");
        let certificate = certificate.signed_by(&key, &authority).expect("signed");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("web.yml");
        for (name, text) in
            [("ca.crt", authority.pem()), ("top.crt", certificate.pem()), ("top.key", key.serialize_pem())]
        {
            fs::write(folder.path().join(name), text).expect("written");
        }
        let ask = |settings: &str| {
            fs::write(&path, settings).expect("written");
            let config = Config::read(&path).expect("settings");
            let address = Address::new("127.0.0.1".to_owned(), locked(&authority), Some(true));
            Client::new(&config).expect("a client").get(&address, "/metrics")
        };
        let all =
            "tls_config: {ca_file: ca.crt, cert_file: top.crt, key_file: top.key, server_name: exporters}";
        assert_eq!(ask(all).expect("an answer").body, "ok");
        for lacking in [
            "tls_config: {ca_file: ca.crt, server_name: exporters}",
            "tls_config: {ca_file: ca.crt, cert_file: top.crt, key_file: top.key}",
            "tls_config: {cert_file: top.crt, key_file: top.key, server_name: exporters}",
        ] {
            assert!(matches!(ask(lacking), Err(Failure::Other(_))), "{lacking}");
        }
    }
}
