// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process tells systemd.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::machine::Folder;

/// Receives the notifications of a process in systemd's place.
#[derive(Debug)]
pub struct Listener {
    socket: UnixDatagram,
    folder: Folder,
}

impl Listener {
    /// One that waits no longer than `limit` for a notification.
    ///
    /// # Panics
    /// When there is no folder for a socket.
    pub fn new(limit: Duration) -> Self {
        let folder = Folder::new();
        let socket = UnixDatagram::bind(folder.path("notify")).unwrap();
        socket.set_read_timeout(Some(limit)).unwrap();
        Self { socket, folder }
    }

    /// Makes a command send its notifications here.
    pub fn hear<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("NOTIFY_SOCKET", self.folder.path("notify"))
    }

    /// The lines of the next notification.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn hears(&self) -> io::Result<Vec<String>> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).lines().map(ToOwned::to_owned).collect())
    }

    /// All notifications up to the first whose first line is `last`, each in one line.
    ///
    /// # Panics
    /// When one does not come in time.
    #[track_caller]
    pub fn until(&self, last: &str) -> Vec<String> {
        let mut heard: Vec<String> = Vec::new();
        loop {
            let lines = self.hears().unwrap_or_else(|error| panic!("no {last} after {heard:?}: {error}"));
            heard.push(lines.join(" "));
            if lines[0] == last {
                return heard;
            }
        }
    }
}
