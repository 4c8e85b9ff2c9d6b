// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection: TLS on one side, the exporter on the other.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::getppid;
use rustls::ServerConnection;

use crate::tls::is_welcome;

/// Time limit for the TLS handshake. After it, the exporter's own limits apply.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Time limit without progress while data waits to be sent to the client or to the exporter.
const STALLED: Duration = Duration::from_secs(10);

/// How long to read and discard what the client still sends after the answer, see [`part`].
const LINGER: Duration = Duration::from_millis(500);

/// The most bytes to read from the exporter at once.
const CHUNK: usize = 16 << 10;

/// Does the TLS handshake, then copies data between client and exporter until either closes. Calls
/// `is_known` when the client is authenticated.
///
/// # Errors
/// When the handshake fails, the client's certificate has none of `names`, the exporter's socket
/// belongs to another process, or a connection breaks or makes no progress.
pub fn relay(
    mut tls: ServerConnection,
    client: &TcpStream,
    names: &[String],
    exporter: &str,
    is_known: impl FnOnce(),
) -> io::Result<()> {
    client.set_nonblocking(true)?;
    // An answer in several writes would wait for the client to acknowledge the first: 40 ms.
    client.set_nodelay(true)?;
    shake_hands(&mut tls, client)?;
    if !is_welcome(tls.peer_certificates(), names) {
        return Err(io::Error::other("the client's certificate has none of client_allowed_sans"));
    }
    is_known();
    let exporter = UnixStream::connect_addr(&SocketAddr::from_abstract_name(exporter)?)?;
    if Some(socket_peercred(&exporter)?.pid) != getppid() {
        return Err(io::Error::other("the exporter's socket belongs to another process"));
    }
    exporter.set_nonblocking(true)?;
    let mut request = Request::default();
    let mut progress = Instant::now();
    loop {
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        request.take(&mut tls, state.plaintext_bytes_to_read())?;
        if state.peer_has_closed() {
            return Ok(());
        }
        let (mut of_client, mut of_exporter) = (PollFlags::empty(), PollFlags::empty());
        of_client.set(PollFlags::IN, request.is_empty());
        of_client.set(PollFlags::OUT, tls.wants_write());
        of_exporter.set(PollFlags::OUT, !request.is_empty());
        of_exporter.set(PollFlags::IN, !tls.wants_write());
        let is_owed = tls.wants_write() || !request.is_empty();
        let deadline = is_owed.then(|| progress + STALLED);
        let [client_is, exporter_is] =
            wait([(client.as_fd(), of_client), (exporter.as_fd(), of_exporter)], deadline)?;
        let mut moved = false;
        if client_is.contains(PollFlags::OUT) {
            moved |= passing(tls.write_tls(&mut &*client))?.is_some();
        }
        if request.is_empty() && !client_is.difference(PollFlags::OUT).is_empty() {
            match passing(tls.read_tls(&mut &*client))? {
                Some(0) => return Ok(()),
                read => moved |= read.is_some(),
            }
        }
        if !request.is_empty() && !exporter_is.is_empty() {
            moved |= request.give(&exporter);
        }
        if !tls.wants_write() && !exporter_is.is_empty() {
            match answer(&mut tls, &exporter)? {
                Some(0) => return part(tls, client),
                read => moved |= read.is_some(),
            }
        }
        if moved || !is_owed {
            progress = Instant::now();
        }
    }
}

fn shake_hands(tls: &mut ServerConnection, client: &TcpStream) -> io::Result<()> {
    let deadline = Some(Instant::now() + HANDSHAKE);
    while tls.is_handshaking() {
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, tls.wants_write());
        let [ready] = wait([(client.as_fd(), wanted)], deadline)?;
        if ready.contains(PollFlags::OUT) {
            passing(tls.write_tls(&mut &*client))?;
        }
        if !ready.difference(PollFlags::OUT).is_empty() {
            if passing(tls.read_tls(&mut &*client))? == Some(0) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = tls.process_new_packets() {
                // Sends the alert that says why. This may fail too.
                let _ = tls.write_tls(&mut &*client);
                return Err(io::Error::other(error));
            }
        }
    }
    Ok(())
}

/// Sends the rest of the answer and a close_notify, then reads until the client closes. If the
/// connection were closed with unread input, the kernel would reset it, and the client could lose
/// the end of the answer.
fn part(mut tls: ServerConnection, client: &TcpStream) -> io::Result<()> {
    tls.send_close_notify();
    let mut deadline = Some(Instant::now() + STALLED);
    while tls.wants_write() {
        wait([(client.as_fd(), PollFlags::OUT)], deadline)?;
        passing(tls.write_tls(&mut &*client))?;
    }
    client.shutdown(Shutdown::Write)?;
    deadline = Some(Instant::now() + LINGER);
    let mut rest = [0; 4096];
    while wait([(client.as_fd(), PollFlags::IN)], deadline).is_ok() {
        let mut client = client;
        if passing(client.read(&mut rest))? == Some(0) {
            break;
        }
    }
    Ok(())
}

/// Moves bytes from the exporter to the TLS session. Returns how many, or None if it has to wait.
fn answer(tls: &mut ServerConnection, mut exporter: &UnixStream) -> io::Result<Option<usize>> {
    let mut chunk = [0; CHUNK];
    let length = match passing(exporter.read(&mut chunk)) {
        // The exporter closed its socket with unread input.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Some(0),
        other => other?,
    };
    tls.writer().write_all(&chunk[..length.unwrap_or(0)])?;
    Ok(length)
}

/// Decrypted bytes that the exporter has not taken yet.
#[derive(Default)]
struct Request {
    bytes: Vec<u8>,
    /// Sending failed: the exporter has answered, or is about to end. Later bytes are discarded.
    is_over: bool,
}

impl Request {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn take(&mut self, tls: &mut ServerConnection, length: usize) -> io::Result<()> {
        let start = self.bytes.len();
        self.bytes.resize(start + length, 0);
        tls.reader().read_exact(&mut self.bytes[start..])?;
        if self.is_over {
            self.bytes.clear();
        }
        Ok(())
    }

    /// Sends bytes to the exporter. Returns whether some were sent, or all were discarded.
    fn give(&mut self, mut to: &UnixStream) -> bool {
        match passing(to.write(&self.bytes)) {
            Ok(None) => return false,
            Ok(Some(length)) => drop(self.bytes.drain(..length)),
            Err(_) => {
                self.bytes.clear();
                self.is_over = true;
            }
        }
        true
    }
}

/// None if the operation would block or was interrupted.
fn passing(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Waits until a side has one of its wanted events or is broken. Sides without wanted events are
/// not polled, because a broken one would be reported again and again.
fn wait<const N: usize>(
    sides: [(BorrowedFd<'_>, PollFlags); N],
    deadline: Option<Instant>,
) -> io::Result<[PollFlags; N]> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left =
            left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let looked_at = || (0..N).filter(|side| !sides[*side].1.is_empty());
        let mut ready: Vec<PollFd<'_>> =
            looked_at().map(|side| PollFd::from_borrowed_fd(sides[side].0, sides[side].1)).collect();
        match poll(&mut ready, left.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => {
                let mut found = [PollFlags::empty(); N];
                looked_at().zip(&ready).for_each(|(side, ready)| found[side] = ready.revents());
                return Ok(found);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
