// SPDX-License-Identifier: MIT OR Apache-2.0
//! Logs to standard error as logfmt or JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::process::cli::{LogFormat, LogLevel};

struct Logger {
    format: LogFormat,
}

/// Whether lines have no time, as where the journal adds one.
static WITHOUT_TIME: AtomicBool = AtomicBool::new(false);

/// Leaves the time out of all lines from now on.
pub fn leave_out_time() {
    WITHOUT_TIME.store(true, Ordering::Relaxed);
}

/// Starts logging. A second call has no effect.
pub fn start(level: LogLevel, format: LogFormat) {
    let filter = match level {
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Error => LevelFilter::Error,
    };
    if log::set_boxed_logger(Box::new(Logger { format })).is_ok() {
        log::set_max_level(filter);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let time = (!WITHOUT_TIME.load(Ordering::Relaxed))
            .then(|| humantime::format_rfc3339_millis(SystemTime::now()).to_string());
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        let message = quoted(&record.args().to_string());
        let line = match self.format {
            LogFormat::Logfmt => {
                let time = time.map_or_else(String::new, |time| format!("time={time} "));
                format!("{time}level={level} msg={message}\n")
            }
            LogFormat::Json => {
                let time = time.map_or_else(String::new, |time| format!("\"time\":\"{time}\","));
                format!("{{{time}\"level\":\"{level}\",\"msg\":{message}}}\n")
            }
        };
        // If standard error is closed, this cannot be reported anywhere.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// A JSON string, which logfmt readers accept as well.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn messages_stay_on_one_line() {
        assert_eq!(quoted("a \"b\"\\\n\u{1}é"), "\"a \\\"b\\\"\\\\\\n\\u0001é\"");
    }
}
