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

/// Time from a connection until it is known who is there. Later on the exporter's limits hold.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Time in which a client that is sent something, or an exporter, takes some of it.
const STALLED: Duration = Duration::from_secs(10);

/// Time after the last word in which a client may go on talking, see [`part`].
const LINGER: Duration = Duration::from_millis(500);

/// What is read from the exporter at once.
const CHUNK: usize = 16 << 10;

/// Hands on what both sides say, until either ends; says when `is_known` who the client is.
///
/// # Errors
/// When the client does not speak TLS, is not welcome, or either side breaks off.
pub fn relay(
    mut tls: ServerConnection,
    client: &TcpStream,
    names: &[String],
    exporter: &str,
    is_known: impl FnOnce(),
) -> io::Result<()> {
    client.set_nonblocking(true)?;
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
                // Says why, if it gets that far.
                let _ = tls.write_tls(&mut &*client);
                return Err(io::Error::other(error));
            }
        }
    }
    Ok(())
}

/// Says the rest, and that it is the end. Closing with unread input makes the kernel reset the
/// connection, and the client may lose the answer over it.
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

/// From the exporter: how much, and nothing where there is none yet.
fn answer(tls: &mut ServerConnection, mut exporter: &UnixStream) -> io::Result<Option<usize>> {
    let mut chunk = [0; CHUNK];
    let length = match passing(exporter.read(&mut chunk)) {
        // It did not read all that it was sent.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Some(0),
        other => other?,
    };
    tls.writer().write_all(&chunk[..length.unwrap_or(0)])?;
    Ok(length)
}

/// What is on its way to the exporter.
#[derive(Default)]
struct Request {
    bytes: Vec<u8>,
    /// The exporter takes no more: it has answered, or is about to end.
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

    /// Whether some of it was taken, or none will be.
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

/// Nothing where it would have to wait.
fn passing(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Waits until one of them is as wanted, or broken; one of which nothing is wanted is not looked
/// at, as what is broken would be reported again and again.
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
