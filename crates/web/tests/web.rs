// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program, started as an exporter starts it, with clients of every kind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};
use tempfile::TempDir;

/// Bytes of the exporter's answer: more than fits into the buffers on the way.
const BODY: usize = 3 << 20;

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate and its key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (parameters.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn sign_into(&self, folder: &Path, name: &str) {
        let (certificate, key) = self.sign(name);
        fs::write(folder.join("web.crt"), certificate).unwrap();
        fs::write(folder.join("web.key"), key).unwrap();
    }
}

/// The program, and a listener that stands for an exporter.
struct Web {
    child: Child,
    lines: BufReader<ChildStdout>,
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    folder: TempDir,
    authority: Authority,
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Web {
    fn start(more: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
        authority.sign_into(folder.path(), "localhost");
        fs::write(folder.path().join("ca.crt"), authority.0.pem()).unwrap();
        let config = folder.path().join("web.yml");
        fs::write(&config, format!("tls_server_config:\n  cert_file: web.crt\n  key_file: web.key\n{more}"))
            .unwrap();
        let name = format!("web-test/{}/{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let inner = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in inner.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if stream.read(&mut byte).unwrap() == 0 {
                            return;
                        }
                        request.push(byte[0]);
                    }
                    stream.write_all(&request).unwrap();
                    // A request with a body is answered, and its body is left unread.
                    if !request.starts_with(b"POST") {
                        // The client may close before the end.
                        let _ = stream.write_all(&vec![b'x'; BODY]);
                    }
                });
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ebpf-exporters-web"))
            .args([config.as_os_str(), name.as_ref(), "48".as_ref()])
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut web = Self { child, lines, address, asked, folder, authority };
        web.hear("tls ");
        web
    }

    /// Reads lines until one begins with `what`.
    fn hear(&mut self, what: &str) -> String {
        let mut said = String::new();
        loop {
            let start = said.len();
            assert_ne!(self.lines.read_line(&mut said).unwrap(), 0, "no {what:?} in {said:?}");
            if said[start..].starts_with(what) {
                return said.split_off(start);
            }
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn client(&self) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.0.pem().as_bytes()).unwrap()).unwrap();
        Client { roots, certificate: None, versions: rustls::ALL_VERSIONS, address: self.address }
    }
}

struct Client {
    roots: RootCertStore,
    certificate: Option<(String, String)>,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
    address: SocketAddr,
}

impl Client {
    fn connect(self) -> StreamOwned<ClientConnection, TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(self.versions).unwrap();
        let builder = builder.with_root_certificates(self.roots);
        let config = match self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        let tls = ClientConnection::new(config.into(), "localhost".try_into().unwrap()).unwrap();
        StreamOwned::new(tls, TcpStream::connect(self.address).unwrap())
    }

    fn ask(self, request: &str) -> io::Result<Vec<u8>> {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

static OLD: &[&rustls::SupportedProtocolVersion] = &[&version::TLS12];
static NEW: &[&rustls::SupportedProtocolVersion] = &[&version::TLS13];

const REQUEST: &str = "GET / HTTP/1.0\r\n\r\n";

#[test]
fn what_is_asked_and_answered_comes_through_whole() {
    let web = Web::start("");
    let long = format!("GET / HTTP/1.0\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    for request in [REQUEST, &long] {
        let answer = web.client().ask(request).unwrap();
        assert_eq!(answer.len(), request.len() + BODY);
        assert!(answer.starts_with(request.as_bytes()) && answer.ends_with(b"xxx"));
    }
    for versions in [OLD, NEW] {
        let client = Client { versions, ..web.client() };
        assert_eq!(client.ask(REQUEST).unwrap().len(), REQUEST.len() + BODY);
    }
    assert_eq!(web.asked(), 4);
}

#[test]
fn it_has_no_privileges_and_ends_with_its_exporter() {
    let mut web = thread::spawn(|| Web::start("")).join().unwrap();
    // The thread that started it has ended. For the kernel, this is the end of the parent.
    assert!(!web.child.wait().unwrap().success());
    let web = Web::start("");
    let status = fs::read_to_string(format!("/proc/{}/status", web.child.id())).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
    }
}

#[test]
fn signals_to_the_whole_unit_are_not_for_it() {
    let web = Web::start("");
    let pid = Pid::from_child(&web.child);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1] {
        kill_process(pid, signal).unwrap();
        assert!(web.client().ask(REQUEST).is_ok());
    }
}

#[test]
fn an_answer_is_not_lost_over_what_was_left_unread() {
    let web = Web::start("");
    let mut stream = web.client().connect();
    let head = "POST / HTTP/1.0\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b'y'; 1 << 20]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, head);
}

#[test]
fn who_takes_no_answer_is_let_go_and_costs_nothing() {
    let web = Web::start("");
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", web.child.id())).unwrap();
    let threads =
        || read("status").lines().find_map(|line| Some(line.strip_prefix("Threads:")?.trim().to_owned()));
    let mut stream = web.client().connect();
    stream.write_all(REQUEST.as_bytes()).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let began = Instant::now();
    while threads().unwrap() != "1" {
        assert!(began.elapsed() < Duration::from_secs(60));
        thread::park_timeout(Duration::from_millis(100));
    }
    assert!(began.elapsed() > Duration::from_secs(5));
    // Ticks in user and kernel mode, a hundred of them in a second.
    let stat = read("stat");
    let ticks: u32 = stat.split(' ').skip(13).take(2).map(|field| field.parse::<u32>().unwrap()).sum();
    assert!(ticks < 300, "{ticks} ticks");
}

#[test]
fn who_speaks_no_tls_gets_nowhere() {
    let web = Web::start("");
    let mut stream = TcpStream::connect(web.address).unwrap();
    stream.write_all(REQUEST.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // An alert, or a reset.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() < 16, "{answer:?}");
    // Many silent clients do not keep others out, and are disconnected soon.
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(web.address).unwrap()).collect();
    assert!(web.client().ask(REQUEST).is_ok());
    let began = Instant::now();
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // Closed, or reset.
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    assert!(began.elapsed() < Duration::from_secs(50));
    assert_eq!(web.asked(), 1);
}

#[test]
fn clients_show_a_certificate_where_they_must() {
    let required = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n";
    let web = Web::start(&format!("{required}  client_allowed_sans: [prometheus.example, other.example]\n"));
    let with = |certificate| Client { certificate, ..web.client() };
    assert!(with(None).ask(REQUEST).is_err());
    assert!(with(Some(Authority::new().sign("prometheus.example"))).ask(REQUEST).is_err());
    for other in ["somebody.example", "*.example"] {
        assert!(with(Some(web.authority.sign(other))).ask(REQUEST).is_err());
    }
    assert_eq!(web.asked(), 0);
    assert!(with(Some(web.authority.sign("prometheus.example"))).ask(REQUEST).is_ok());
    let optional = "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.crt\n";
    let web = Web::start(optional);
    let with = |certificate| Client { certificate, ..web.client() };
    assert!(with(None).ask(REQUEST).is_ok());
    assert!(with(Some(Authority::new().sign("a.example"))).ask(REQUEST).is_err());
}

#[test]
fn versions_suites_and_curves_are_those_of_the_file() {
    let web = Web::start("  min_version: TLS13\n  curve_preferences: [CurveP384]\n");
    assert!(Client { versions: OLD, ..web.client() }.ask(REQUEST).is_err());
    let mut stream = web.client().connect();
    stream.write_all(REQUEST.as_bytes()).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let group = stream.conn.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::secp384r1);
    let suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    let web = Web::start(&format!("  max_version: TLS12\n  cipher_suites: [{suite}]\n"));
    let mut stream = web.client().connect();
    stream.write_all(REQUEST.as_bytes()).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    assert_eq!(format!("{:?}", stream.conn.negotiated_cipher_suite().unwrap().suite()), suite);
}

#[test]
fn certificates_are_read_again_when_they_change() {
    let mut web = Web::start("");
    let shown = |web: &Web| {
        let mut stream = web.client().connect();
        stream.write_all(REQUEST.as_bytes()).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown(&web);
    web.authority.sign_into(web.folder.path(), "localhost");
    let second = shown(&web);
    assert_ne!(first, second);
    // If only one of two files has changed, the old ones stay in use, and the log says so.
    fs::write(web.folder.path().join("web.crt"), "").unwrap();
    assert_eq!(shown(&web), second);
    assert!(web.hear("warn ").contains("web.crt: no certificate"));
}

#[test]
fn without_tls_it_says_what_it_read_and_ends() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("web.yml");
    let run = |text: &str| {
        fs::write(&config, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_ebpf-exporters-web"))
            .arg(&config)
            .args(["x", "1"])
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let text = "basic_auth_users: {alice: $2y$x}\nhttp_server_config: {headers: {X-Frame-Options: deny}}\n";
    assert_eq!(run(text), (true, "user alice\t$2y$x\nheader X-Frame-Options\tdeny\nplain \n".to_owned()));
    let (good, said) = run("tls_server_config: {cert_file: no.crt, key_file: no.key}\n");
    assert!(!good && said.contains("no.crt") && said.starts_with("error "), "{said}");
}
