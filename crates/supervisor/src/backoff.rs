// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long to wait before an exporter that ended is started again.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_secs(1);

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(64);

/// An exporter that ran this long is well: the next wait is the first again.
const STEADY: Duration = Duration::from_secs(60);

/// Waits that double.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The wait after a run of this length.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= STEADY {
            self.next = FIRST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_steady_run() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(59);
        let mut seconds = |ran| backoff.after(ran).as_secs();
        assert_eq!([(); 8].map(|()| seconds(short)), [1, 2, 4, 8, 16, 32, 64, 64]);
        assert_eq!([STEADY, short, short].map(seconds), [1, 2, 4]);
    }
}
