// SPDX-License-Identifier: MIT OR Apache-2.0
//! All exporters, as the thread that supervises them and those that answer requests see them.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headlines::Listed;

use crate::child::{Child, State};

/// All exporters, sorted by name.
#[derive(Debug, Default)]
pub struct Board {
    children: Mutex<Vec<Child>>,
    left_out: Mutex<BTreeSet<(String, String)>>,
}

/// What a request needs to know of an exporter.
#[derive(Clone, Debug)]
pub struct View {
    /// NAME, state and text.
    pub listed: Listed,
    /// What it does.
    pub state: State,
    /// How often it was started again.
    pub restarts: u64,
    /// Where it is asked, if it can be.
    pub channel: Option<Arc<OwnedFd>>,
}

impl Board {
    /// With these exporters.
    pub fn new(children: Vec<Child>) -> Self {
        Self { children: Mutex::new(children), left_out: Mutex::default() }
    }

    /// The exporters, for as long as nobody else looks at them.
    pub fn children(&self) -> MutexGuard<'_, Vec<Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exporters at this moment.
    pub fn views(&self) -> Vec<View> {
        let view = |child: &Child| View {
            listed: child.listed(),
            state: child.state.clone(),
            restarts: child.restarts,
            channel: child.channel.clone().filter(|_| child.state == State::Running),
        };
        self.children().iter().map(view).collect()
    }

    /// Notes families that were left out, and says so of those that are new.
    pub fn note_left_out(&self, families: Vec<(String, String)>) {
        let mut known = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        for (exporter, family) in families {
            if known.insert((exporter.clone(), family.clone())) {
                log::warn!(
                    "{family} of {exporter} is left out of the metrics of all: another exporter has that name \
                     with another type; /metrics/{exporter} has it"
                );
            }
        }
    }

    /// How many families of an exporter have been left out.
    pub fn left_out(&self, exporter: &str) -> usize {
        let known = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter(|(of, _)| of == exporter).count()
    }
}
