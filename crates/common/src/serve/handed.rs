// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections without an address: a supervisor makes a pair of sockets for each request, and hands one of
//! them to an exporter over a channel, which is the exporter's standard input. No port is open, and nobody
//! else can connect. In the other direction the exporter says what it would say to systemd.
//!
//! Standard input stays open when an exporter executes itself again.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use socket2::Socket;

/// Whether [`channel`] is in use.
static SUPERVISED: AtomicBool = AtomicBool::new(false);

/// Largest message about the state of an exporter, in bytes.
const MESSAGE: usize = 4096;

/// From now on [`channel`] is standard input.
pub fn begin() {
    SUPERVISED.store(true, Ordering::Relaxed);
}

/// The exporter's end of the channel, if a supervisor started it.
pub fn channel() -> Option<BorrowedFd<'static>> {
    SUPERVISED.load(Ordering::Relaxed).then(rustix::stdio::stdin)
}

/// A new channel: the supervisor's end, which does not wait, and the exporter's.
///
/// # Errors
/// When there are no descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Hands a connection to the exporter at the other end.
///
/// # Errors
/// When it is gone, or has not taken earlier ones.
pub fn hand(channel: impl AsFd, connection: impl AsFd) -> io::Result<()> {
    let connections = [connection.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&connections));
    rustix::net::sendmsg(channel, &[IoSlice::new(b"c")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for the next connection.
///
/// # Errors
/// `UnexpectedEof` when the supervisor is gone.
pub fn take(channel: impl AsFd) -> io::Result<Socket> {
    loop {
        let mut byte = [0; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut data = [IoSliceMut::new(&mut byte)];
        let received = rustix::net::recvmsg(&channel, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let messages = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(connections) => Some(connections),
            _ => None,
        });
        // Only one has room.
        if let Some(connection) = messages.flatten().next() {
            return Ok(connection.into());
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Says something to the supervisor, if there is one. It is lost if the supervisor does not read.
pub fn say(text: &str) {
    if let Some(channel) = channel() {
        let end = text.floor_char_boundary(MESSAGE);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if let Err(error) = rustix::net::send(channel, &text.as_bytes()[..end], flags) {
            log::debug!("failed to notify the supervisor: {error}");
        }
    }
}

/// The next thing that an exporter said; `None` if it has said nothing more.
///
/// # Errors
/// `UnexpectedEof` when it is gone.
pub fn hear(channel: impl AsFd) -> io::Result<Option<String>> {
    let mut buffer = [0; MESSAGE];
    match rustix::net::recv(channel, &mut buffer, RecvFlags::empty()) {
        Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok((length, _)) => Ok(Some(String::from_utf8_lossy(&buffer[..length.min(MESSAGE)]).into_owned())),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_connection_arrives_whole_and_the_end_is_told() {
        let (ours, theirs) = pair().expect("a channel");
        let (mut here, there) = UnixStream::pair().expect("a connection");
        hand(&ours, &there).expect("handed");
        drop(there);
        let taken = take(&theirs).expect("taken");
        here.write_all(b"ask").expect("sent");
        let mut asked = [0; 3];
        (&taken).read_exact(&mut asked).expect("read");
        assert_eq!(&asked, b"ask");
        drop(ours);
        assert_eq!(take(&theirs).expect_err("gone").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_exporter_that_died_costs_its_connections_and_nothing_else() {
        let (ours, theirs) = pair().expect("a channel");
        assert_eq!(hear(&ours).expect("nothing said"), None);
        let (mut here, there) = UnixStream::pair().expect("a connection");
        hand(&ours, &there).expect("handed");
        drop((there, theirs));
        assert_eq!(here.read(&mut [0; 1]).expect("the end"), 0);
        assert_eq!(hear(&ours).expect_err("gone").kind(), io::ErrorKind::UnexpectedEof);
        assert!(hand(&ours, &here).is_err());
    }
}
