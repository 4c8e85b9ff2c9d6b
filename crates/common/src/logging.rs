// SPDX-License-Identifier: MIT OR Apache-2.0
//! Logs to standard error as logfmt or JSON, including libbpf's messages.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::SystemTime;

use libbpf_rs::PrintLevel;
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::cli::{LogFormat, LogLevel};

struct Logger {
    format: LogFormat,
}

/// The last error libbpf printed: more precise than the number it returns.
static LAST_LIBBPF_WARNING: Mutex<Option<String>> = Mutex::new(None);

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
    libbpf_rs::set_print(Some((PrintLevel::Debug, from_libbpf)));
}

/// The error with libbpf's last error message, which is then cleared.
pub fn with_details(error: &libbpf_rs::Error) -> String {
    match LAST_LIBBPF_WARNING.lock().ok().and_then(|mut last| last.take()) {
        Some(warning) => format!("{error:#}: {warning}"),
        None => format!("{error:#}"),
    }
}

/// We decide and report when a program is refused; libbpf's warnings are details.
fn from_libbpf(level: PrintLevel, message: String) {
    let message = message.trim();
    if level == PrintLevel::Warn
        && let Ok(mut last) = LAST_LIBBPF_WARNING.lock()
    {
        note(&mut last, message);
    }
    log::debug!(target: "libbpf", "{message}");
}

/// Keeps the verifier's verdict, its second-to-last line, in preference to the general messages
/// after it.
fn note(last: &mut Option<String>, message: &str) {
    if message.contains("BEGIN PROG LOAD LOG") {
        if let Some(verdict) = verdict(message) {
            *last = Some(verdict);
        }
    } else if !last.as_ref().is_some_and(|text| text.starts_with(VERDICT)) {
        let first = message.lines().next().unwrap_or_default().trim_start_matches("libbpf: ");
        let says_less = ["failed to load object", "failed to load BPF skeleton"];
        if first.contains("Couldn't load trivial BPF program") {
            // It goes on with guesses at the reason.
            *last = Some("the kernel rejects even an empty program".to_owned());
        } else if !first.contains("try raising 'ulimit -l'")
            && (last.is_none() || !says_less.iter().any(|words| first.starts_with(words)))
        {
            *last = Some(first.to_owned());
        }
    }
}

const VERDICT: &str = "verifier: ";

/// Why the verifier rejected a program, from its log.
pub fn verdict(log: &str) -> Option<String> {
    let mut lines = log.lines().filter(|line| !line.starts_with("processed ") && !line.contains("LOAD LOG"));
    lines.next_back().map(|line| format!("{VERDICT}{line}"))
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug | Level::Trace => "debug",
        };
        let message = quoted(&record.args().to_string());
        let line = match self.format {
            LogFormat::Logfmt => format!("time={time} level={level} msg={message}\n"),
            LogFormat::Json => format!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"msg\":{message}}}\n"),
        };
        // Nobody to tell when standard error is gone.
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
    use super::{note, quoted};

    #[test]
    fn the_verifiers_verdict_is_kept() {
        let mut last = None;
        note(&mut last, "libbpf: prog 'x': BPF program load failed: -EINVAL");
        assert_eq!(last.as_deref(), Some("prog 'x': BPF program load failed: -EINVAL"));
        let log = "libbpf: prog 'x': -- BEGIN PROG LOAD LOG --\nBPF_STX uses reserved fields\n\
                   processed 0 insns (limit 1000000)\n-- END PROG LOAD LOG --";
        note(&mut last, log);
        note(&mut last, "libbpf: failed to load object");
        assert_eq!(last.as_deref(), Some("verifier: BPF_STX uses reserved fields"));
    }

    #[test]
    fn what_says_less_and_what_libbpf_guesses_is_passed_over() {
        let mut last = None;
        note(
            &mut last,
            "libbpf: Error in bpf_object__probe_loading(): -EPERM. Couldn't load trivial BPF program. Make sure \
             your kernel supports BPF (CONFIG_BPF_SYSCALL=y) and/or that RLIMIT_MEMLOCK is set to big enough \
             value.",
        );
        note(&mut last, "libbpf: failed to load BPF skeleton 'x': -EPERM");
        assert_eq!(last.as_deref(), Some("the kernel rejects even an empty program"));
        let mut last = None;
        note(&mut last, "libbpf: map 'x': failed to create: -EPERM");
        note(
            &mut last,
            "libbpf: permission error while running as root; try raising 'ulimit -l'? current value: 64.0 KiB",
        );
        note(&mut last, "libbpf: failed to load object 'x'");
        assert_eq!(last.as_deref(), Some("map 'x': failed to create: -EPERM"));
    }

    #[test]
    fn messages_stay_on_one_line() {
        assert_eq!(quoted("a \"b\"\\\n\u{1}é"), "\"a \\\"b\\\"\\\\\\n\\u0001é\"");
    }
}
