// SPDX-License-Identifier: MIT OR Apache-2.0
//! Open connections, and which one to close when there are too many.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// If at least one in so many connections has not finished its handshake, one of these is closed.
const STRANGERS: usize = 3;

/// Whether the handshake is finished, and a number that grows. Lower keys are closed first.
type Key = (bool, u64);

/// Open connections.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    open: Mutex<BTreeMap<Key, TcpStream>>,
}

/// The place of a connection. Dropping it frees the place.
#[derive(Debug)]
pub struct Slot {
    connections: Arc<Connections>,
    key: Key,
}

impl Connections {
    /// At most `limit` connections at the same time.
    pub fn new(limit: usize) -> Self {
        Self { limit, open: Mutex::default() }
    }

    /// Adds a connection. If there are too many, closes the oldest: of those that have not finished
    /// their handshake if they are at least a third, else of the others. So clients cannot keep
    /// others out, neither by not finishing the handshake nor by idling after it.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn enter(self: &Arc<Self>, stream: &TcpStream, number: u64) -> io::Result<Slot> {
        let mut open = self.lock();
        if open.len() >= self.limit {
            let strangers = open.range(..(true, 0)).count();
            let from = (strangers < self.limit.div_ceil(STRANGERS), 0);
            let oldest = open.range(from..).next().map(|(key, _)| *key);
            if let Some(oldest) = oldest.and_then(|key| open.remove(&key)) {
                // It may have ended just now.
                let _ = oldest.shutdown(Shutdown::Both);
            }
        }
        let key = (false, number);
        open.insert(key, stream.try_clone()?);
        Ok(Slot { connections: Arc::clone(self), key })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Records that the handshake is finished, unless the connection was closed to make room.
    pub fn is_known(&mut self) {
        let mut open = self.connections.lock();
        if let Some(stream) = open.remove(&self.key) {
            self.key.0 = true;
            open.insert(self.key, stream);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.key);
    }
}
