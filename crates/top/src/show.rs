// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shows exporters: on a terminal the full screen, else lines.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use headlines::Unit;
use headlines::amount::amount;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::address::Subject;
use crate::config::Config;
use crate::detail::Detail;
use crate::history::History;
use crate::http::Client;
use crate::lines;
use crate::rows::{Row, rows};
use crate::screen::{self, View};
use crate::watch::{Look, watch};

/// How soon a key or a signal has its effect.
const SOON: Duration = Duration::from_millis(100);

/// Time limit for the first lines, beside the interval: that of answers and of some more.
const FIRST: Duration = Duration::from_secs(15);

/// How to show exporters.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time between two answers of an exporter.
    pub interval: Duration,
    /// Lines, also on a terminal.
    pub lines: bool,
    /// What comes after the first lines.
    pub then: Then,
}

/// What comes after the first lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The end.
    End,
    /// Nothing, until it is ended.
    Silence,
    /// More lines.
    More,
}

/// Whether any exporter answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// At least one.
    Yes,
    /// None, and why one did not, if more is known than that nobody listens.
    No(Option<String>),
}

/// Shows `subjects` until the user has enough, or until `ended` says so.
///
/// # Errors
/// When a file of the settings is of no use, the terminal fails, or `ended` fails.
pub fn show(
    subjects: &[Subject],
    config: &Config,
    options: &Options,
    ended: &mut dyn FnMut() -> Result<bool>,
) -> Result<Answered> {
    let client = Arc::new(Client::new(config)?);
    let (sender, looks) = mpsc::channel();
    watch(subjects, &client, options.interval, &sender)?;
    let mut board =
        Board { histories: subjects.iter().map(|_| History::default()).collect(), subjects, looks };
    if options.lines || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        board.print(options, ended)?;
    } else {
        let mut terminal = ratatui::try_init().context("failed to set up the terminal")?;
        let shown = board.draw(&mut terminal, options, ended);
        ratatui::try_restore().context("failed to restore the terminal")?;
        shown?;
    }
    let why = |history: &History| match history.look() {
        Some(Look::Failed(why) | Look::Locked(why)) => Some(why.clone()),
        _ => None,
    };
    Ok(match board.histories.iter().any(|history| history.last().is_some()) {
        true => Answered::Yes,
        false => Answered::No(board.histories.iter().find_map(why)),
    })
}

/// All that is known.
struct Board<'s> {
    subjects: &'s [Subject],
    histories: Vec<History>,
    looks: Receiver<(usize, Look)>,
}

impl Board<'_> {
    /// Waits for an answer, and takes all that have come. Returns whether one has.
    fn take(&mut self, limit: Duration) -> bool {
        let first = match self.looks.recv_timeout(limit) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => return false,
            // There is nobody to ask, so no event can come: what is shown stays for as long as it would.
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(limit);
                return false;
            }
        };
        for (number, look) in [first].into_iter().chain(self.looks.try_iter()) {
            if let Some(history) = self.histories.get_mut(number) {
                history.add(look);
            }
        }
        true
    }

    fn rows(&self) -> Vec<Row> {
        rows(self.subjects, &self.histories)
    }

    /// Whether each was asked, and those that answered were asked twice.
    fn is_complete(&self) -> bool {
        self.subjects.iter().zip(&self.histories).all(|(subject, history)| match history.look() {
            None => subject.at.is_err(),
            Some(Look::Said(_)) => history.recent().is_some_and(|interval| interval.is_known()),
            Some(_) => true,
        })
    }

    fn print(&mut self, options: &Options, ended: &mut dyn FnMut() -> Result<bool>) -> Result<()> {
        let limit = Instant::now() + options.interval + FIRST;
        while !self.is_complete() && Instant::now() < limit {
            if ended()? {
                return Ok(());
            }
            self.take(SOON);
        }
        loop {
            let mut out = io::stdout().lock();
            out.write_all(lines::table(&self.rows()).as_bytes())?;
            if options.then == Then::More {
                writeln!(out)?;
            }
            out.flush()?;
            drop(out);
            let next = Instant::now() + options.interval;
            while options.then == Then::Silence || Instant::now() < next {
                if options.then == Then::End || ended()? {
                    return Ok(());
                }
                self.take(SOON);
            }
        }
    }

    fn draw(
        &mut self,
        terminal: &mut DefaultTerminal,
        options: &Options,
        ended: &mut dyn FnMut() -> Result<bool>,
    ) -> Result<()> {
        let about = format!("every {}", amount(options.interval.as_secs_f64(), Unit::Seconds));
        let mut view = View::default();
        let mut stale = true;
        while !ended()? {
            let rows = self.rows();
            let opened = view.opened(&rows);
            let detail =
                opened.and_then(|row| self.histories.get(row.subject)).map(Detail::of).unwrap_or_default();
            if stale {
                terminal.draw(|frame| match opened {
                    Some(row) => screen::one(frame, &view, row, &detail),
                    None => screen::all(frame, &view, &rows, &about),
                })?;
            }
            stale = event::poll(SOON)?;
            if stale
                && let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
            {
                view.key(key, &rows, detail.histograms.len() + detail.series.len());
                if view.ended {
                    return Ok(());
                }
            }
            stale |= self.take(Duration::ZERO);
        }
        Ok(())
    }
}
