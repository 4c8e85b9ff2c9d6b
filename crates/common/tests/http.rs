// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HTTP server with clients that are slow, send invalid requests, ask for much, or are many.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::serve::http::{Limits, Reply, bind, serve};

const LIMITS: Limits = Limits {
    connections: 8,
    head_bytes: 4096,
    receive: Duration::from_millis(700),
    send: Duration::from_millis(700),
    idle: Duration::from_secs(2),
};

/// A server that answers `/big` with 32 MiB and everything else with its path.
fn server() -> SocketAddr {
    let listener = bind(&["127.0.0.1:0".to_owned()]).expect("a free port").remove(0);
    let address = listener.local_addr().expect("bound");
    let answer = |request: &common::serve::http::Request| match request.path.as_str() {
        "/big" => Reply { status: 200, headers: Vec::new(), body: vec![b'x'; 32 << 20] },
        path => Reply::text(200, path),
    };
    serve(listener.into(), LIMITS, |_| true, answer).expect("served");
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("valid");
    stream
}

/// Sends `head` and returns the whole answer.
fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = connect(address);
    // The server may close before it has read all.
    let _ = stream.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let mut stream = connect(server());
    // Two at once, then one more, which asks to close.
    stream.write_all(b"GET /1?y HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    stream.write_all(b"GET /3 HTTP/1.1\r\nconnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answer}");
    assert_eq!(answer.matches("\r\nContent-Length: 3\r\n").count(), 3, "{answer}");
    let bodies: Vec<&str> =
        ["/1\n", "/2\n", "/3\n"].into_iter().filter(|body| answer.contains(body)).collect();
    assert_eq!(bodies.len(), 3, "{answer}");
}

#[test]
fn an_idle_connection_is_closed_in_the_end() {
    let start = Instant::now();
    let answer = ask(server(), "GET /x HTTP/1.1\r\n\r\n");
    assert!(answer.ends_with("/x\n"), "{answer}");
    assert!(start.elapsed() >= LIMITS.idle, "{:?}", start.elapsed());
}

#[test]
fn old_clients_and_bodies_end_the_connection() {
    let address = server();
    let start = Instant::now();
    assert!(ask(address, "GET /x HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
    let answer = ask(address, "POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET / HTT");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.matches("HTTP/1.1").count() == 1, "{answer}");
    assert!(start.elapsed() < LIMITS.idle, "{:?}", start.elapsed());
}

#[test]
fn head_has_the_length_but_no_body() {
    let answer = ask(server(), "HEAD /x HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert!(answer.contains("\r\nContent-Length: 3\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn broken_requests_are_refused() {
    let address = server();
    let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    for (head, status) in [
        ("nonsense\r\n\r\n", "400"),
        ("GET http://a/ HTTP/1.1\r\n\r\n", "400"),
        ("GET  / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
        ("G\u{e9}T / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/2.0\r\n\r\n", "505"),
        ("\r\n\r\n", "400"),
        (&large, "431"),
    ] {
        let answer = ask(address, head);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:.40}: {answer}");
    }
    let mut bytes = connect(address);
    bytes.write_all(b"\xff\xfe\x00\r\n\r\n").expect("sent");
    let mut answer = String::new();
    bytes.read_to_string(&mut answer).expect("text");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(ask(address, "GET /still-alive HTTP/1.0\r\n\r\n").ends_with("/still-alive\n"));
}

#[test]
fn a_slow_sender_is_cut_off_in_time() {
    let address = server();
    let start = Instant::now();
    let mut stream = connect(address);
    let mut answer = String::new();
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".iter().cycle() {
        // One byte each 50 ms: each byte is in time, but the whole request is too late.
        if stream.write_all(&[*byte & 0x5f]).is_err() || start.elapsed() > Duration::from_secs(5) {
            break;
        }
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("valid");
        if stream.read_to_string(&mut answer).is_ok() {
            break;
        }
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_slow_reader_does_not_keep_others_waiting() {
    let address = server();
    let mut slow = connect(address);
    slow.write_all(b"GET /big HTTP/1.1\r\n\r\n").expect("sent");
    let start = Instant::now();
    assert!(ask(address, "GET /quick HTTP/1.0\r\n\r\n").ends_with("/quick\n"));
    assert!(start.elapsed() < Duration::from_millis(600), "{:?}", start.elapsed());
    // The client reads only now, after the server's timeout for sending.
    std::thread::park_timeout(LIMITS.send * 3);
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer);
    assert!(answer.len() < 32 << 20, "{} bytes", answer.len());
}

#[test]
fn many_silent_clients_do_not_keep_a_scrape_out() {
    let address = server();
    let silent: Vec<TcpStream> = (0..LIMITS.connections * 4).map(|_| connect(address)).collect();
    let start = Instant::now();
    assert!(ask(address, "GET /scrape HTTP/1.0\r\n\r\n").ends_with("/scrape\n"));
    assert!(start.elapsed() < LIMITS.receive, "{:?}", start.elapsed());
    drop(silent);
}

#[test]
fn a_taken_port_is_named_with_the_remedy() {
    let taken = server().to_string();
    let error = bind(std::slice::from_ref(&taken)).expect_err("taken");
    assert!(
        error.to_string().contains(&taken) && error.to_string().contains("--web.listen-address"),
        "{error}"
    );
    for wrong in ["nonsense", ":70000", "localhost", "256.0.0.1:1"] {
        let error = bind(&[wrong.to_owned()]).expect_err("malformed");
        assert!(error.to_string().contains(wrong), "{error}");
    }
}
