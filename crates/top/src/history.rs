// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is kept of the answers of one exporter.

use std::sync::Arc;

use headlines::Interval;

use crate::watch::{Look, Said};

/// The first answer of a process, the last two, and what came of asking last.
#[derive(Debug, Default)]
pub struct History {
    first: Option<Arc<Said>>,
    before: Option<Arc<Said>>,
    last: Option<Arc<Said>>,
    look: Option<Look>,
}

impl History {
    /// Adds what came of asking.
    pub fn add(&mut self, look: Look) {
        if let Look::Said(said) = &look {
            self.before = self.last.replace(Arc::clone(said));
            // What was counted by another process tells nothing about this one.
            if self.whole().is_none_or(|(interval, _)| !interval.is_known()) {
                self.first = Some(Arc::clone(said));
            }
        }
        self.look = Some(look);
    }

    /// What came of asking last; `None` at first.
    pub fn look(&self) -> Option<&Look> {
        self.look.as_ref()
    }

    /// The last good answer.
    pub fn last(&self) -> Option<&Said> {
        self.last.as_deref()
    }

    /// From the last answer but one to the last.
    pub fn recent(&self) -> Option<Interval<'_>> {
        let last = self.last.as_deref()?;
        let seconds = self.before.as_ref().map_or(0.0, |before| (last.at - before.at).as_secs_f64());
        Some(Interval::new(self.before.as_ref().map(|before| &before.scrape), &last.scrape, seconds))
    }

    /// From the first answer of this process to the last, and how many seconds that is.
    pub fn whole(&self) -> Option<(Interval<'_>, f64)> {
        let (first, last) = (self.first.as_deref()?, self.last.as_deref()?);
        let seconds = (last.at - first.at).as_secs_f64();
        Some((Interval::new(Some(&first.scrape), &last.scrape, seconds), seconds))
    }
}
