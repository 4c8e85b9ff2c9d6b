// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks several exporters at once, over connections that are handed to them, with one deadline for all.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::serve::handed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Maximum size of an answer.
const MOST: usize = 64 << 20;

/// What is read at once.
const CHUNK: usize = 64 << 10;

/// What an exporter answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Its format.
    pub content_type: String,
    /// Content.
    pub body: Vec<u8>,
}

/// What came of asking, and after which time.
pub type Outcome = (Result<Answer, String>, Duration);

/// A request that has been sent.
struct Conversation {
    stream: UnixStream,
    input: Vec<u8>,
    outcome: Option<Outcome>,
}

/// What each exporter answers to `GET path` until `deadline`. Without a channel there is none to ask.
pub fn all(channels: &[Option<Arc<OwnedFd>>], path: &str, accept: &str, deadline: Instant) -> Vec<Outcome> {
    let began = Instant::now();
    let request = format!("GET {path} HTTP/1.0\r\nAccept: {accept}\r\n\r\n");
    let mut conversations: Vec<Result<Conversation, String>> = channels
        .iter()
        .map(|channel| {
            let channel = channel.as_ref().ok_or("it does not run")?;
            begin(channel, &request).map_err(|error| format!("failed to ask: {error}"))
        })
        .collect();
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut open: Vec<&mut Conversation> =
            conversations.iter_mut().flatten().filter(|one| one.outcome.is_none()).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        if open.is_empty() || left.is_zero() {
            break;
        }
        let ready: Vec<bool> = {
            let mut fds: Vec<PollFd<'_>> =
                open.iter().map(|one| PollFd::new(&one.stream, PollFlags::IN)).collect();
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            // Interrupted by a signal, or out of memory for a moment: the deadline ends this.
            let _ = poll(&mut fds, Some(&left));
            fds.iter().map(|fd| !fd.revents().is_empty()).collect()
        };
        for (one, _) in open.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            if let Some(result) = one.read(&mut chunk) {
                one.outcome = Some((result, began.elapsed()));
            }
        }
    }
    let late = || (Err("no answer in time".to_owned()), began.elapsed());
    let outcome = |one: Result<Conversation, String>| match one {
        Ok(one) => one.outcome.unwrap_or_else(late),
        Err(why) => (Err(why), Duration::ZERO),
    };
    conversations.into_iter().map(outcome).collect()
}

fn begin(channel: &OwnedFd, request: &str) -> io::Result<Conversation> {
    let (mut stream, theirs) = UnixStream::pair()?;
    // A new socket has room for that.
    stream.write_all(request.as_bytes())?;
    stream.set_nonblocking(true)?;
    handed::hand(channel.as_fd(), &theirs)?;
    Ok(Conversation { stream, input: Vec::new(), outcome: None })
}

impl Conversation {
    /// Reads what is there. Returns the result once it is known.
    fn read(&mut self, chunk: &mut [u8]) -> Option<Result<Answer, String>> {
        match self.stream.read(chunk) {
            Ok(0) => Some(parse(std::mem::take(&mut self.input))),
            Ok(length) => {
                self.input.extend_from_slice(chunk.get(..length).unwrap_or_default());
                (self.input.len() > MOST).then(|| Err(format!("an answer of more than {} MB", MOST >> 20)))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                None
            }
            Err(error) => Some(Err(error.to_string())),
        }
    }
}

/// The answer in all that came until the connection was closed.
fn parse(mut bytes: Vec<u8>) -> Result<Answer, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head)) = response.parse(&bytes) else {
        return Err("it ended before it answered".to_owned());
    };
    let header = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| str::from_utf8(header.value).ok())
    };
    let length: Option<usize> = header("Content-Length").and_then(|length| length.parse().ok());
    if length != Some(bytes.len() - head) {
        return Err("it ended before its answer did".to_owned());
    }
    let content_type = header("Content-Type").unwrap_or_default().to_owned();
    let status = response.code.unwrap_or_default();
    bytes.drain(..head);
    Ok(Answer { status, content_type, body: bytes })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// An exporter that gives these bytes to whoever asks, and then closes, or keeps silent.
    fn exporter(answer: Option<&'static [u8]>) -> Arc<OwnedFd> {
        let (ours, theirs) = handed::pair().expect("a channel");
        thread::spawn(move || {
            let connection = handed::take(&theirs).expect("a connection");
            let mut request = [0; 256];
            let length = (&connection).read(&mut request).expect("a request");
            assert!(request[..length].starts_with(b"GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n"));
            match answer {
                Some(answer) => (&connection).write_all(answer).expect("sent"),
                // Until the one who asks has gone.
                None => drop((&connection).read(&mut request)),
            }
        });
        ours.into()
    }

    fn said(outcome: &Outcome) -> Result<&str, &str> {
        outcome.0.as_ref().map(|answer| str::from_utf8(&answer.body).expect("text")).map_err(String::as_str)
    }

    #[test]
    fn one_that_dies_or_hangs_costs_its_own_answer() {
        let channels = [
            Some(exporter(Some(
                b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\ncontent-length: 2\r\n\r\nab",
            ))),
            Some(exporter(Some(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nab"))),
            Some(exporter(Some(b"HTTP/1.0 200"))),
            None,
        ];
        let outcomes = all(&channels, "/metrics", "text/plain", Instant::now() + SOON);
        let said: Vec<_> = outcomes.iter().map(said).collect();
        let expected = [
            Ok("ab"),
            Err("it ended before its answer did"),
            Err("it ended before it answered"),
            Err("it does not run"),
        ];
        assert_eq!(said, expected);
        assert_eq!(outcomes[0].0.as_ref().map(|answer| answer.content_type.as_str()), Ok("text/plain"));
        let outcomes = all(
            &[Some(exporter(None)), Some(exporter(Some(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")))],
            "/metrics",
            "text/plain",
            Instant::now() + Duration::from_millis(200),
        );
        assert_eq!(outcomes[0].0, Err("no answer in time".to_owned()));
        assert!(outcomes[0].1 >= Duration::from_millis(200));
        assert_eq!(outcomes[1].0.as_ref().map(|answer| answer.status), Ok(200));
    }
}
