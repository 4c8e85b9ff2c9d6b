// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kubelets that answer, and those that do not.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::kubelet::flags::Address;

const LIST: &str = r#"{"kind":"PodList","items":[{"metadata":{"name":"a","namespace":"b","uid":"c"}}]}"#;

fn settings(tls: bool, port: u16) -> Settings {
    let address = Address { tls, host: "127.0.0.1".to_owned(), port };
    Settings { address, token: None, authority: None, interval: ALL }
}

/// Whoever takes one connection at this port.
fn server(answer: impl FnOnce(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || answer(listener.accept().expect("a client").0));
    port
}

/// The head of a request.
fn request(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length > 0) {
        head.extend(byte);
    }
    String::from_utf8(head).expect("text")
}

/// What comes of an answer that is written until the one who asks has gone, or it is whole.
fn answered(parts: impl IntoIterator<Item = Vec<u8>> + Send + 'static) -> Result<Vec<Pod>, Failure> {
    let port = server(move |mut client| {
        assert!(request(&mut client).starts_with("GET /pods HTTP/1.0\r\nHost: 127.0.0.1:"));
        let _ = parts.into_iter().try_for_each(|part| client.write_all(&part));
    });
    pods(&settings(false, port))
}

fn reason(result: Result<Vec<Pod>, Failure>) -> Reason {
    let Failure { reason, text } = result.expect_err("no list");
    println!("{reason:?}: {text}");
    reason
}

#[test]
fn a_list_is_read_in_whatever_parts_it_comes() {
    let answer = format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{LIST}");
    let pods = answered(answer.clone().into_bytes().into_iter().map(|byte| vec![byte])).expect("a list");
    assert_eq!((pods.len(), pods[0].name.as_str()), (1, "a"));
    assert_eq!(answered([answer.into_bytes()]).expect("a list"), pods);
}

#[test]
fn each_failure_has_its_reason() {
    let answer = |bytes: &str| reason(answered([bytes.as_bytes().to_vec()]));
    for (bytes, expected) in [
        ("HTTP/1.1 401 Unauthorized\r\n\r\nUnauthorized", Reason::Denied),
        ("HTTP/1.1 403 Forbidden\r\n\r\nForbidden (user=x, verb=get)", Reason::Denied),
        ("HTTP/1.1 404 Not Found\r\n\r\n404 page not found", Reason::Status),
        ("HTTP/1.1 500 Internal Server Error\r\n\r\n", Reason::Status),
        ("HTTP/1.1 301 Moved\r\nLocation: http://elsewhere/\r\n\r\n", Reason::Status),
        ("", Reason::Format),
        ("HTTP/1.1 200", Reason::Format),
        ("SSH-2.0-OpenSSH_9\r\n", Reason::Format),
        ("\x15\x03\x01\x02\x02\x16", Reason::Format),
        ("HTTP/1.1 200 OK\r\n\r\n<html>", Reason::Format),
        ("HTTP/1.1 200 OK\r\n\r\n{\"kind\":\"PodList\",\"items\":[{\"metadata\":", Reason::Format),
        ("HTTP/1.1 200 OK\r\n\r\n\u{fffd}\0\0", Reason::Format),
    ] {
        assert_eq!(answer(bytes), expected, "{bytes}");
    }
    let long = std::iter::repeat_n(b"x-y: z\r\n".to_vec(), HEAD);
    assert_eq!(reason(answered([b"HTTP/1.1 200 OK\r\n".to_vec()].into_iter().chain(long))), Reason::Format);
    // 100 MB: one pod that has no end, and more pods than there can be.
    let start = b"HTTP/1.1 200 OK\r\n\r\n{\"kind\":\"PodList\",\"items\":[{\"spec\":\"".to_vec();
    let filler = std::iter::repeat_n(vec![b'x'; 1 << 20], 100);
    assert_eq!(reason(answered([start].into_iter().chain(filler))), Reason::Size);
    let start = b"HTTP/1.1 200 OK\r\n\r\n{\"kind\":\"PodList\",\"items\":[{}".to_vec();
    let filler = std::iter::repeat_n(b",{}".repeat(1 << 19), 70);
    assert_eq!(reason(answered([start].into_iter().chain(filler))), Reason::Format);
    // Nobody.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    assert_eq!(reason(pods(&settings(false, port))), Reason::Connection);
}

#[test]
fn a_kubelet_that_is_slow_is_not_waited_for() {
    let limit = Duration::from_millis(300);
    let ask = |port| {
        let began = Instant::now();
        assert_eq!(reason(pods_until(&settings(false, port), began + limit)), Reason::Timeout);
        assert!(began.elapsed() < 10 * limit, "{:?}", began.elapsed());
    };
    // One that says nothing, and one that always says a little.
    ask(server(|mut client| drop(client.read_to_end(&mut Vec::new()))));
    ask(server(|mut client| {
        request(&mut client);
        let _ = client.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"kind\":\"PodList\",\"items\":[");
        while client.write_all(b" ").is_ok() {
            // It is to be slow.
            thread::sleep(Duration::from_millis(5));
        }
    }));
    // One that takes the connection and never answers TLS.
    let port = server(|mut client| drop(client.read_to_end(&mut Vec::new())));
    assert_eq!(reason(pods_until(&settings(true, port), Instant::now() + limit)), Reason::Timeout);
}

/// A kubelet with TLS and a certificate for this name, which answers one request with a list if it has this token.
fn kubelet(authority: &CertifiedIssuer<'_, KeyPair>, name: &str, token: &'static str) -> u16 {
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let certificate = certificate.signed_by(&key, authority).expect("signed");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .expect("a certificate");
    server(move |client| {
        let connection = ServerConnection::new(Arc::new(config)).expect("a connection");
        let mut stream = StreamOwned::new(connection, client);
        let is_known = request(&mut stream).contains(&format!("\r\nAuthorization: Bearer {token}\r\n"));
        let answer = if is_known { "200 OK" } else { "401 Unauthorized" };
        // A client that does not like the certificate has gone.
        let _ = stream.write_all(format!("HTTP/1.0 {answer}\r\n\r\n{LIST}").as_bytes());
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

#[test]
fn the_token_goes_to_the_kubelet_and_to_nobody_else() {
    let authority = || {
        let params = CertificateParams::default();
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
    };
    let (ours, theirs) = (authority(), authority());
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path
    };
    let (ca, token) = (write("ca.crt", &ours.pem()), write("token", "sesame\n"));
    let ask = |port: u16, authority: Option<&Path>, token: &Path| {
        let (authority, token) = (authority.map(Path::to_owned), Some(token.to_owned()));
        pods(&Settings { token, authority, ..settings(true, port) })
    };
    let one = |authority| kubelet(authority, "127.0.0.1", "sesame");
    assert_eq!(ask(one(&ours), Some(&ca), &token).expect("a list").len(), 1);
    // Of another authority, and of another name.
    assert_eq!(reason(ask(one(&theirs), Some(&ca), &token)), Reason::Tls);
    assert_eq!(reason(ask(kubelet(&ours, "10.0.0.4", "sesame"), Some(&ca), &token)), Reason::Tls);
    assert_eq!(ask(kubelet(&theirs, "other", "sesame"), None, &token).expect("a list").len(), 1);
    // The file is read each time.
    write("token", "renewed");
    assert_eq!(reason(ask(one(&ours), Some(&ca), &token)), Reason::Denied);
    assert_eq!(ask(kubelet(&ours, "127.0.0.1", "renewed"), Some(&ca), &token).expect("a list").len(), 1);
    // Files that are of no use.
    for text in ["", "\n", "two words", "a\r\nX: y", &"é".repeat(9)] {
        let wrong = write("wrong", text);
        assert_eq!(reason(ask(1, Some(&ca), &wrong)), Reason::File, "{text:?}");
        assert_eq!(reason(ask(1, Some(&wrong), &token)), Reason::File, "{text:?}");
    }
    assert_eq!(reason(ask(1, Some(&ca), &folder.path().join("missing"))), Reason::File);
    // It speaks no TLS.
    let port = server(|mut client| drop(client.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")));
    assert_eq!(reason(ask(port, Some(&ca), &token)), Reason::Tls);
    // Without TLS nothing is shown.
    let port = server(|mut client| {
        let said = request(&mut client);
        let answer = if said.contains("Authorization") { "500 Shown" } else { "200 OK" };
        let _ = client.write_all(format!("HTTP/1.0 {answer}\r\n\r\n{LIST}").as_bytes());
    });
    let plain = Settings { token: Some(token), ..settings(false, port) };
    assert_eq!(pods(&plain).expect("a list").len(), 1);
}
