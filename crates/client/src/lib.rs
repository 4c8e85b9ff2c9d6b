// SPDX-License-Identifier: MIT OR Apache-2.0
//! What asking over HTTP has in common, whoever is asked: a connection that is bounded in time, and the head of
//! an answer. TLS goes around [`Timed`].
//!
//! A request of HTTP/1.0 is answered without chunks, on a connection that is closed after it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Most headers of an answer.
const HEADERS: usize = 64;

/// A connection that ends at a time, however slowly bytes come.
#[derive(Debug)]
pub struct Timed {
    stream: TcpStream,
    until: Instant,
}

impl Timed {
    /// A connection to the first of these addresses that takes one within `limit`, which ends at `until`.
    ///
    /// # Errors
    /// Those of the last address. Without an address there is nothing to connect to.
    pub fn connect(
        addresses: impl IntoIterator<Item = SocketAddr>,
        limit: Duration,
        until: Instant,
    ) -> io::Result<Self> {
        let mut last = ErrorKind::AddrNotAvailable.into();
        for one in addresses {
            match TcpStream::connect_timeout(&one, limit) {
                Ok(stream) => return Ok(Self { stream, until }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// HTTP status.
    pub status: u16,
    /// Bytes of the head.
    pub length: usize,
    /// Bytes of the body, if the head tells.
    pub body: Option<usize>,
}

impl Head {
    /// The head of an answer that begins with `bytes`; `None` while it is not whole.
    ///
    /// # Errors
    /// When this is not an answer in HTTP.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, httparse::Error> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = response.parse(bytes)? else { return Ok(None) };
        let told = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let told = told.and_then(|header| str::from_utf8(header.value).ok()?.trim().parse().ok());
        Ok(response.code.map(|status| Self { status, length, body: told }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let answer = b"HTTP/1.1 200 OK\r\nX: y\r\nContent-length: 2\r\n\r\nab";
        for part in 0..answer.len() - 2 {
            assert_eq!(Head::parse(&answer[..part]), Ok(None), "{part}");
        }
        let head = Head { status: 200, length: answer.len() - 2, body: Some(2) };
        assert_eq!(Head::parse(answer), Ok(Some(head)));
        let silent = Head { status: 503, length: 36, body: None };
        assert_eq!(Head::parse(b"HTTP/1.0 503 Service Unavailable\r\n\r\nab"), Ok(Some(silent)));
        assert!(Head::parse(b"SSH-2.0-OpenSSH_9\r\n").is_err());
    }

    #[test]
    fn bytes_that_come_too_slowly_come_too_late() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            while client.write_all(b"x").is_ok() {
                // It is to be slow.
                thread::sleep(Duration::from_millis(5));
            }
        });
        let limit = Duration::from_millis(200);
        let mut stream = Timed::connect([address], limit, Instant::now() + limit).expect("connected");
        let error = stream.read_to_end(&mut Vec::new()).expect_err("too late");
        assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{error}");
        drop(stream);
        server.join().expect("it ended");
        assert!(Timed::connect([], limit, Instant::now() + limit).is_err());
    }
}
