// SPDX-License-Identifier: MIT OR Apache-2.0
//! The full screen: all exporters, or one of them.

use headlines::amount::amount;
use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Bar, BarChart, Block, Borders, Cell, Paragraph, Row as Cells, Table, TableState};

use crate::detail::{Detail, Histogram};
use crate::rows::{Row, State};

/// Columns of a bar, and between bars.
const BAR: (u16, u16) = (7, 1);

/// Lines of the bars, their frame included.
const BARS: u16 = 11;

/// Lines of the table of histograms, names of columns included.
const HISTOGRAMS: u16 = 9;

/// Space between columns.
const GAP: u16 = 2;

/// What the user looks at.
#[derive(Debug, Default)]
pub struct View {
    /// The subject that is marked.
    selected: Option<usize>,
    /// Whether that is opened.
    open: bool,
    /// The line that is marked in the opened one: histograms, then series.
    line: usize,
    /// Whether the user has had enough.
    pub ended: bool,
}

impl View {
    /// Does what a key asks for. `rows` are the lines shown; `lines` is how many the opened exporter has.
    pub fn key(&mut self, key: KeyEvent, rows: &[Row], lines: usize) {
        let all = if self.open { lines } else { rows.len() };
        let at = if self.open { self.line } else { self.position(rows) };
        let ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        let to = match key.code {
            KeyCode::Char('c') if ctrl => return self.ended = true,
            KeyCode::Char('q') => return self.ended = true,
            KeyCode::Esc if !self.open => return self.ended = true,
            KeyCode::Esc | KeyCode::Left | KeyCode::Backspace | KeyCode::Char('h') => {
                return self.open = false;
            }
            KeyCode::Enter | KeyCode::Right | KeyCode::Char('l') if !self.open => {
                self.open = self.selected(rows).is_some();
                return self.line = 0;
            }
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => at + 1,
            KeyCode::PageUp => at.saturating_sub(10),
            KeyCode::PageDown => at + 10,
            KeyCode::Home => 0,
            KeyCode::End => all,
            _ => return,
        };
        let to = to.min(all.saturating_sub(1));
        if self.open {
            self.line = to;
        } else {
            self.selected = rows.get(to).map(|row| row.subject);
        }
    }

    /// The exporter that is opened.
    pub fn opened<'r>(&self, rows: &'r [Row]) -> Option<&'r Row> {
        self.selected(rows).filter(|_| self.open)
    }

    fn selected<'r>(&self, rows: &'r [Row]) -> Option<&'r Row> {
        rows.get(self.position(rows))
    }

    /// Where the marked line is now: lines come and go.
    fn position(&self, rows: &[Row]) -> usize {
        rows.iter().position(|row| Some(row.subject) == self.selected).unwrap_or_default()
    }
}

/// Draws all exporters.
pub fn all(frame: &mut Frame<'_>, view: &View, rows: &[Row], about: &str) {
    let [top, middle, bottom] = parts(frame.area(), 1);
    let running = rows.iter().filter(|row| row.state == State::Running).count();
    let title = match rows.len() {
        0 => "no exporter answers; systemctl start ebpf-exporters.target starts those of this machine"
            .to_owned(),
        all => format!("{running} of {all} exporters are running; {about}"),
    };
    frame.render_widget(Paragraph::new(title).style(Modifier::BOLD), top);
    let widest = |of: fn(&Row) -> &str, least: usize| {
        rows.iter().map(|row| of(row).chars().count()).max().unwrap_or_default().max(least) as u16
    };
    let [name, address] = [widest(|row| &row.name, 8), widest(|row| &row.address, 7)];
    let state = 8;
    let left = middle.width.saturating_sub(name + state + address + 3 * GAP).max(10);
    let lines = rows.iter().map(|row| {
        let says = wrapped(&row.says, usize::from(left));
        let height = says.len().max(1) as u16;
        let state = Cell::new(row.state.word()).style(colour(row.state));
        Cells::new([Cell::new(&*row.name), state, Cell::new(&*row.address), Cell::new(Text::from_iter(says))])
            .height(height)
    });
    let widths = [name, state, address, left].map(Constraint::Length);
    let table = table(lines.collect(), &widths, ["EXPORTER", "STATE", "ADDRESS", "HEADLINE"]);
    let mut marked = TableState::new().with_selected(view.position(rows));
    frame.render_stateful_widget(table, middle, &mut marked);
    keys(frame, bottom, "↑↓ choose  → open  q quit");
}

/// Draws one exporter.
pub fn one(frame: &mut Frame<'_>, view: &View, row: &Row, detail: &Detail) {
    let says = wrapped(&row.says, usize::from(frame.area().width));
    let [top, middle, bottom] = parts(frame.area(), 1 + says.len() as u16);
    let mut head = vec![Line::from(vec![
        Span::styled(format!("{} ", row.name), Modifier::BOLD),
        Span::styled(row.state.word(), colour(row.state)),
        Span::raw(format!(" {}", row.address)),
    ])];
    head.extend(says.into_iter().map(Line::from));
    frame.render_widget(Paragraph::new(head), top);
    keys(frame, bottom, "↑↓ choose  ← back  q quit");
    let count = detail.histograms.len();
    let (height, bars) = match count as u16 {
        0 => (0, 0),
        n => ((n + 1).min(HISTOGRAMS), BARS.min(middle.height / 2)),
    };
    let split = Layout::vertical([Constraint::Length(height), Constraint::Length(bars), Constraint::Min(0)]);
    let [upper, chart, lower] = split.areas(middle);
    let line = view.line.min((count + detail.series.len()).saturating_sub(1));
    if let Some(histogram) = detail.histograms.get(line.min(count.saturating_sub(1))) {
        histograms(frame, upper, detail, (line < count).then_some(line));
        chart_of(frame, chart, histogram, detail.seconds);
    }
    series(frame, lower, detail, line.checked_sub(count));
}

fn histograms(frame: &mut Frame<'_>, area: Rect, detail: &Detail, marked: Option<usize>) {
    let lines = detail.histograms.iter().map(|histogram| {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| quantile(histogram, q));
        let rate = amount(histogram.distribution.count() / detail.seconds.max(1e-9), headlines::Unit::Number);
        Cells::new([histogram.name.clone(), histogram.labels.clone(), rate, p50, p90, p99])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
    ];
    let table = table(lines.collect(), &widths, ["HISTOGRAM", "LABELS", "PER SEC", "P50", "P90", "P99"]);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(marked));
}

fn series(frame: &mut Frame<'_>, area: Rect, detail: &Detail, marked: Option<usize>) {
    let lines =
        detail.series.iter().map(|line| Cells::new([&*line.name, &*line.labels, &*line.rate, &*line.value]));
    let widths = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(9), Constraint::Length(9)];
    let table = table(lines.collect(), &widths, ["METRIC", "LABELS", "PER SEC", "VALUE"]);
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(marked));
}

fn quantile(histogram: &Histogram, q: f64) -> String {
    histogram.distribution.quantile(q).map(|value| amount(value, histogram.unit)).unwrap_or_default()
}

/// A histogram as bars, from the first bucket with an observation to the last, or as many as there is room for.
fn chart_of(frame: &mut Frame<'_>, area: Rect, histogram: &Histogram, seconds: f64) {
    let buckets = histogram.distribution.buckets();
    let seen = |(_, count): &(f64, f64)| *count > 0.0;
    let first = buckets.iter().position(seen).unwrap_or_default();
    let last = buckets.iter().rposition(seen).unwrap_or_default();
    let room = usize::from(area.width.saturating_sub(2) / (BAR.0 + BAR.1)).max(1);
    // Where there are too many, the slow ones are of more interest.
    let first = first.max((last + 1).saturating_sub(room));
    let bars = buckets.iter().take(last + 1).skip(first).map(|(bound, count)| {
        let label = if bound.is_finite() { amount(*bound, histogram.unit) } else { "more".to_owned() };
        Bar::default()
            .label(label)
            .value(count.round() as u64)
            .text_value(amount(*count, headlines::Unit::Number))
    });
    let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|q| quantile(histogram, q));
    let title = format!(
        " {}: p50 {p50}, p90 {p90}, p99 {p99}; {} in {} ",
        format!("{} {}", histogram.name, histogram.labels).trim_end(),
        amount(histogram.distribution.count(), headlines::Unit::Number),
        amount(seconds, headlines::Unit::Seconds),
    );
    let chart = BarChart::vertical(bars.collect::<Vec<_>>())
        .block(Block::new().borders(Borders::ALL).title(title))
        .bar_width(BAR.0)
        .bar_gap(BAR.1)
        .bar_style(Color::Cyan)
        .value_style(Style::new().fg(Color::Black).bg(Color::Cyan));
    frame.render_widget(chart, area);
}

fn table<'t, const N: usize>(
    lines: Vec<Cells<'t>>,
    widths: &[Constraint; N],
    names: [&'t str; N],
) -> Table<'t> {
    Table::new(lines, widths)
        .header(Cells::new(names).style(Modifier::BOLD))
        .column_spacing(GAP)
        .row_highlight_style(Modifier::REVERSED)
}

/// The area above, of some lines, the rest, and the last line.
fn parts(area: Rect, above: u16) -> [Rect; 3] {
    Layout::vertical([Constraint::Length(above), Constraint::Min(0), Constraint::Length(1)]).areas(area)
}

fn keys(frame: &mut Frame<'_>, area: Rect, text: &str) {
    frame.render_widget(Paragraph::new(text.to_owned()).style(Modifier::DIM), area);
}

fn colour(state: State) -> Color {
    match state {
        State::Running => Color::Green,
        State::Asked | State::Fallback | State::Waiting => Color::Yellow,
        State::Silent | State::Stopped => Color::Red,
    }
}

/// Texts with commas between them, in lines that break between two, and between words where one is too long.
fn wrapped(texts: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        let text = if number + 1 < texts.len() { format!("{text},") } else { text.clone() };
        let parts = if text.chars().count() <= width { vec![&*text] } else { text.split(' ').collect() };
        for part in parts {
            match lines.last_mut() {
                Some(line) if line.chars().count() + 1 + part.chars().count() <= width => {
                    line.push(' ');
                    line.push_str(part);
                }
                _ => lines.push(part.to_owned()),
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use headlines::Headline;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::history::History;
    use crate::rows::rows;
    use crate::rows::tests::{history, subject};

    fn drawn(width: u16, height: u16, draw: impl FnOnce(&mut Frame<'_>)) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(draw).expect("drawn");
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    fn page(reads: u32) -> String {
        format!(
            "ebpf_exporter_mode{{mode=\"ebpf\"}} 1\n# TYPE lag_microseconds histogram\n\
             lag_microseconds_bucket{{device=\"sda\",le=\"1024\"}} {}\nlag_microseconds_bucket{{device=\"sda\",le=\"2048\"}} {reads}\n\
             lag_microseconds_bucket{{device=\"sda\",le=\"+Inf\"}} {reads}\n\
             # TYPE moved_bytes_total counter\nmoved_bytes_total{{device=\"sda\"}} {}\n",
            reads / 4,
            reads * 4096
        )
    }

    fn example() -> (Vec<Row>, Vec<History>) {
        let lag = [
            Headline::quantile("p99 {value} on {device}", 0.99, "lag_microseconds").or("no reads"),
            Headline::rate("{device} moves {value}", "moved_bytes_total").or("nothing is moved"),
        ];
        let (one, two) = (page(0), page(400));
        let histories = vec![history("diskio", &lag, &[&one, &two]), history("tcp", &[], &["a 1\n"])];
        let subjects = [subject("x", 9101, false), subject("y", 9102, false)];
        (rows(&subjects, &histories), histories)
    }

    fn press(view: &mut View, code: KeyCode, rows: &[Row], lines: usize) {
        view.key(KeyEvent::new(code, KeyModifiers::NONE), rows, lines);
    }

    #[test]
    fn all_exporters_have_a_line() {
        let (rows, _) = example();
        let screen = drawn(70, 6, |frame| all(frame, &View::default(), &rows, "every 2 s"));
        assert_eq!(
            screen,
            [
                "2 of 2 exporters are running; every 2 s",
                "EXPORTER  STATE     ADDRESS  HEADLINE",
                "diskio    running   :9101    p99 2 ms on sda, sda moves 819 kB/s",
                "tcp       running   :9102    it has no headline",
                "",
                "↑↓ choose  → open  q quit",
            ]
        );
        let narrow = drawn(50, 6, |frame| all(frame, &View::default(), &rows, "every 2 s"));
        assert_eq!(narrow[2], "diskio    running   :9101    p99 2 ms on sda,");
        assert_eq!(narrow[3], "                             sda moves 819 kB/s");
    }

    #[test]
    fn one_exporter_shows_bars_and_series() {
        let (rows, histories) = example();
        let detail = Detail::of(&histories[0]);
        let screen = drawn(80, 24, |frame| one(frame, &View::default(), &rows[0], &detail));
        assert_eq!(screen[0], "diskio running :9101");
        assert_eq!(screen[1], "p99 2 ms on sda, sda moves 819 kB/s");
        assert!(
            screen[2].starts_with("HISTOGRAM") && screen[2].ends_with("P50       P90       P99"),
            "{screen:#?}"
        );
        assert!(
            screen[3].starts_with("lag_microseconds")
                && screen[3].ends_with("200       1.4 ms    1.9 ms    2 ms"),
            "{screen:#?}"
        );
        assert!(
            screen[4].contains("lag_microseconds device=sda: p50 1.4 ms, p90 1.9 ms, p99 2 ms; 400 in 2 s"),
            "{screen:#?}"
        );
        assert!(screen.iter().any(|line| line.contains("100") && line.contains("300")), "{screen:#?}");
        assert!(screen.iter().any(|line| line.contains("1 ms") && line.contains("2 ms")), "{screen:#?}");
        assert!(
            screen.iter().any(|line| line.starts_with("moved_bytes_total") && line.contains("819 kB/s")),
            "{screen:#?}"
        );
    }

    #[test]
    fn a_screen_of_any_size_can_be_drawn() {
        let (rows, histories) = example();
        let detail = Detail::of(&histories[0]);
        for (width, height) in [(1, 1), (5, 2), (20, 3), (300, 5), (30, 100)] {
            drawn(width, height, |frame| all(frame, &View::default(), &rows, ""));
            drawn(width, height, |frame| one(frame, &View::default(), &rows[0], &detail));
            drawn(width, height, |frame| one(frame, &View::default(), &rows[1], &Detail::default()));
        }
    }

    #[test]
    fn arrow_keys_open_and_leave_one() {
        let (rows, _) = example();
        let mut view = View::default();
        assert_eq!(view.opened(&rows), None);
        press(&mut view, KeyCode::Down, &rows, 0);
        press(&mut view, KeyCode::Down, &rows, 0);
        press(&mut view, KeyCode::Right, &rows, 0);
        assert_eq!(view.opened(&rows).map(|row| row.name.as_str()), Some("tcp"));
        // The line is that of the exporter, wherever it is.
        assert_eq!(view.opened(&rows[1..]).map(|row| row.name.as_str()), Some("tcp"));
        press(&mut view, KeyCode::Down, &rows, 3);
        press(&mut view, KeyCode::End, &rows, 3);
        assert_eq!(view.line, 2);
        press(&mut view, KeyCode::Left, &rows, 3);
        assert_eq!(view.opened(&rows), None);
        press(&mut view, KeyCode::Up, &rows, 0);
        press(&mut view, KeyCode::Enter, &rows, 0);
        assert_eq!((view.opened(&rows).map(|row| row.name.as_str()), view.line), (Some("diskio"), 0));
        press(&mut view, KeyCode::Esc, &rows, 0);
        assert!(!view.ended);
        view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &rows, 0);
        assert!(view.ended);
        press(&mut View::default(), KeyCode::Right, &[], 0);
    }
}
