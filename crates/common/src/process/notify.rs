// SPDX-License-Identifier: MIT OR Apache-2.0
//! What systemd is told of this process: sd_notify(3). `systemctl status` shows the texts. A supervisor that is
//! not systemd is told the same.

use sd_notify::NotifyState;

use crate::serve::handed;

/// Says what the process does, while it starts or instead of measuring.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&in_one_line(text))]);
}

/// Says that the start is over, and what came of it.
pub fn ready(text: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&in_one_line(text))]);
}

/// Says that the process is not stuck.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// Says that the process ends because a signal asked for it.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("detaching probes")]);
}

/// The next line of a message would be another assignment.
fn in_one_line(text: &str) -> String {
    text.lines().collect::<Vec<_>>().join(" ")
}

fn send(state: &[NotifyState<'_>]) {
    if handed::channel().is_some() {
        return handed::say(&state.iter().map(|one| format!("{one}\n")).collect::<String>());
    }
    if let Err(error) = sd_notify::notify(state) {
        log::warn!("failed to notify systemd: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_be_taken_for_an_assignment() {
        assert_eq!(in_one_line("cannot run:\nREADY=1\r\nMAINPID=1\n"), "cannot run: READY=1 MAINPID=1");
    }
}
