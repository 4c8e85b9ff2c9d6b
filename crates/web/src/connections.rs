// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is connected, and who goes when there are too many.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What part of them may be without a name before they make room for one another.
const STRANGERS: usize = 3;

/// Whether it is known who is there, and a number: those that are closed first come first.
type Key = (bool, u64);

/// Connections that are open.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    open: Mutex<BTreeMap<Key, TcpStream>>,
}

/// The place of one; it is free when this is dropped.
#[derive(Debug)]
pub struct Slot {
    connections: Arc<Connections>,
    key: Key,
}

impl Connections {
    /// So many at the same time.
    pub fn new(limit: usize) -> Self {
        Self { limit, open: Mutex::default() }
    }

    /// Lists a connection. Where there are too many, the oldest makes room: of those of whom it is
    /// not known who they are if they are a third, or else of the others. So neither those who
    /// say nothing keep others out, nor those who say something and no more.
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
                // It may have ended by itself just now.
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
    /// It is known who is there; unless it was closed to make room.
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
