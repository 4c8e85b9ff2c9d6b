// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line for each exporter: name, state, address, headline.

use headlines::amount::safe;
use headlines::{Interval, Reading};

use crate::address::Subject;
use crate::history::History;
use crate::watch::{Look, Said};

/// Characters of a name that are shown.
const NAME: usize = 30;

/// Characters of a text that says why something is not so.
const WHY: usize = 300;

/// What an exporter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has not been heard of yet.
    Asked,
    /// Its programs run.
    Running,
    /// It runs without eBPF.
    Fallback,
    /// It waits for a kernel module.
    Waiting,
    /// It does not answer, or not well.
    Silent,
    /// It is not started.
    Stopped,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which subject it is about.
    pub subject: usize,
    /// NAME of the exporter.
    pub name: String,
    /// What it does.
    pub state: State,
    /// Where it is asked.
    pub address: String,
    /// Its headlines, or why there are none.
    pub says: Vec<String>,
}

impl State {
    /// The word that is shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Running => "running",
            Self::Fallback => "fallback",
            Self::Waiting => "waiting",
            Self::Silent => "silent",
            Self::Stopped => "stopped",
        }
    }
}

/// The lines to show. A port that nobody asked for has one only if an exporter answers there.
pub fn rows(subjects: &[Subject], histories: &[History]) -> Vec<Row> {
    let both = subjects.iter().zip(histories).enumerate();
    both.filter_map(|(number, (subject, history))| row(number, subject, history)).collect()
}

fn row(number: usize, subject: &Subject, history: &History) -> Option<Row> {
    let name = history.last().map_or(subject.name.as_str(), |said| &said.page.exporter);
    let address = subject.at.as_ref().map(|at| safe(&at.shown(), WHY)).unwrap_or_default();
    let line = |state, mut says: Vec<String>| {
        if !subject.note.is_empty() {
            let note = format!("({})", safe(&subject.note, WHY));
            match says.last_mut() {
                Some(last) => *last += &format!(" {note}"),
                None => says.push(note),
            }
        }
        Some(Row { subject: number, name: safe(name, NAME), state, address, says })
    };
    if let Err(why) = &subject.at {
        return line(State::Stopped, vec![safe(why, WHY)]);
    }
    let known = subject.wanted || history.last().is_some();
    match history.look() {
        None => known.then(|| line(State::Asked, Vec::new()))?,
        Some(Look::Said(said)) => {
            let (state, says) = says(said, history.recent());
            line(state, says)
        }
        Some(Look::Locked(why)) => line(State::Silent, vec![why.clone()]),
        Some(Look::Failed(why)) if known => line(State::Silent, vec![why.clone()]),
        Some(Look::Nobody) if known => line(State::Silent, vec!["nobody listens there".to_owned()]),
        Some(Look::Stranger) if known => {
            line(State::Silent, vec!["what answers there is not one of these exporters".to_owned()])
        }
        Some(_) => None,
    }
}

/// State and headlines of an exporter that answered.
fn says(said: &Said, interval: Option<Interval<'_>>) -> (State, Vec<String>) {
    let state = match said.scrape.label("ebpf_exporter_mode", "mode") {
        Some("waiting") => State::Waiting,
        Some("fallback") => State::Fallback,
        // Also where it does not tell of itself.
        _ => State::Running,
    };
    if state == State::Waiting {
        return (state, said.waits.iter().cloned().collect());
    }
    let Some(interval) = interval else { return (state, Vec::new()) };
    let mut says: Vec<String> =
        said.page.headlines.iter().filter_map(|headline| interval.text(headline)).collect();
    let reading = |wanted| said.page.headlines.iter().any(|headline| interval.read(headline) == wanted);
    if said.page.headlines.is_empty() {
        says.push("it has no headline".to_owned());
    } else if reading(Reading::NotMeasured) {
        let why = if state == State::Fallback { "others need eBPF" } else { "others are not measured here" };
        says.push(why.to_owned());
    } else if reading(Reading::NotYet) {
        says.push("…".to_owned());
    }
    (state, says)
}

#[cfg(test)]
pub mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use headlines::{Headline, Page, Scrape};

    use super::*;
    use crate::address::Address;

    /// A subject at a port of this machine.
    pub fn subject(name: &str, port: u16, wanted: bool) -> Subject {
        let at = Ok(Address::new("localhost".to_owned(), port, None));
        Subject { name: name.to_owned(), at, wanted, note: String::new() }
    }

    /// What an exporter says whose page is this, two seconds after the one before.
    pub fn history(name: &'static str, headlines: &[Headline], pages: &[&str]) -> History {
        let mut history = History::default();
        let start = Instant::now();
        for (number, text) in pages.iter().enumerate() {
            let page = Page {
                exporter: name.into(),
                metrics: "/metrics".into(),
                headlines: headlines.to_vec(),
                ..Page::default()
            };
            let scrape = Scrape::parse(text).expect("metrics");
            let at = start + Duration::from_secs(2 * number as u64);
            history.add(Look::Said(Arc::new(Said { page, scrape, at, waits: Some("zfs".to_owned()) })));
        }
        history
    }

    /// State and text of the only line.
    fn line(subject: Subject, history: History) -> Option<(State, String)> {
        let row = rows(&[subject], &[history]).pop()?;
        Some((row.state, row.says.join(", ")))
    }

    fn looked(look: Look) -> History {
        let mut history = History::default();
        history.add(look);
        history
    }

    #[test]
    fn a_line_says_what_an_exporter_does() {
        let calls = [
            Headline::rate("{value} calls/s", "calls_total").or("no calls"),
            Headline::gauge("{value} open", "open"),
        ];
        let mode = |mode: &str, n: u32| {
            format!("ebpf_exporter_mode{{mode=\"{mode}\"}} 1\ncalls_total {n}\nopen 7\n")
        };
        let (one, two) = (mode("ebpf", 1), mode("ebpf", 11));
        let of = |pages: &[&str]| {
            line(subject("x", 9101, false), history("syscall", &calls, pages)).expect("a line")
        };
        assert_eq!(of(&[&one, &two]), (State::Running, "5 calls/s, 7 open".to_owned()));
        assert_eq!(of(&[&one]), (State::Running, "7 open, …".to_owned()));
        assert_eq!(of(&[&one, &two, &one]), (State::Running, "7 open, …".to_owned()));
        assert_eq!(of(&[&mode("waiting", 0)]), (State::Waiting, "zfs".to_owned()));
        let fallback = "ebpf_exporter_mode{mode=\"fallback\"} 1\nopen 7\n";
        assert_eq!(of(&[fallback, fallback]), (State::Fallback, "7 open, others need eBPF".to_owned()));
        assert_eq!(
            line(subject("x", 9101, false), history("old", &[], &["a 1\n"])),
            Some((State::Running, "it has no headline".to_owned()))
        );
    }

    #[test]
    fn what_was_not_asked_for_and_is_no_exporter_has_no_line() {
        let failed = || Look::Failed("does not speak HTTP".to_owned());
        for look in [Look::Nobody, Look::Stranger, failed()] {
            assert_eq!(line(subject("x", 9101, false), looked(look)), None);
        }
        assert_eq!(line(subject("x", 9101, false), History::default()), None);
        for look in [Look::Nobody, Look::Stranger, failed()] {
            assert_eq!(
                line(subject("x", 9101, true), looked(look)).map(|(state, _)| state),
                Some(State::Silent)
            );
        }
        let locked = looked(Look::Locked("speaks TLS".to_owned()));
        assert_eq!(line(subject("x", 9101, false), locked), Some((State::Silent, "speaks TLS".to_owned())));
        let mut gone = history("diskio", &[], &["a 1\n"]);
        gone.add(Look::Nobody);
        assert_eq!(
            line(subject("x", 9101, false), gone),
            Some((State::Silent, "nobody listens there".to_owned()))
        );
        let why = Subject { at: Err("CAP_BPF is missing".to_owned()), ..subject("x", 1, true) };
        assert_eq!(line(why, History::default()), Some((State::Stopped, "CAP_BPF is missing".to_owned())));
    }

    #[test]
    fn an_exporter_cannot_move_the_cursor() {
        let mut history = history("\u{1b}[2J", &[], &["a 1\n"]);
        history.add(Look::Failed("x".to_owned()));
        let row = rows(&[subject("x", 9101, false)], &[history]).pop().expect("a line");
        assert_eq!(row.name, "\u{fffd}[2J");
    }
}
