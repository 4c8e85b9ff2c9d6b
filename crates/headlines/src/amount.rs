// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers with units, and foreign text, as people can read them in a terminal.

use crate::headline::Unit;

const TIMES: &[(f64, &str)] =
    &[(1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86_400.0, "d")];

const BYTES: &[(f64, &str)] =
    &[(1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"), (1e15, "PB")];

const NUMBERS: &[(f64, &str)] = &[(1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")];

/// A value and its unit, with about two digits: `1.3 ms`, `97 %`, `12 MB/s`.
///
/// ```
/// use headlines::{Unit, amount::amount};
///
/// assert_eq!(amount(1300.0, Unit::Microseconds), "1.3 ms");
/// assert_eq!(amount(0.9996, Unit::Ratio), "99.9 %");
/// assert_eq!(amount(12e6, Unit::BytesPerSecond), "12 MB/s");
/// ```
pub fn amount(value: f64, unit: Unit) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "unknown".to_owned() } else { "endless".to_owned() };
    }
    match unit {
        Unit::Seconds => scaled(value, TIMES, " "),
        Unit::Microseconds => scaled(value * 1e-6, TIMES, " "),
        Unit::Bytes => scaled(value, BYTES, " "),
        Unit::BytesPerSecond => scaled(value, BYTES, " ") + "/s",
        Unit::Ratio => percent(value * 100.0),
        Unit::Percent => percent(value),
        Unit::Number => scaled(value, NUMBERS, ""),
    }
}

/// The value in the largest of the steps in which it is at least 1.
fn scaled(value: f64, steps: &[(f64, &str)], space: &str) -> String {
    if value == 0.0 {
        // The base unit, not the smallest.
        let base = steps.iter().find(|(size, _)| *size == 1.0).map_or("", |(_, name)| name);
        return format!("0{space}{base}");
    }
    // What would be rounded to the next step is in that step.
    let fits = |(size, _): &&(f64, &str)| (value.abs() / size * 1.005) >= 1.0;
    let (size, name) = steps.iter().rev().find(fits).or(steps.first()).copied().unwrap_or((1.0, ""));
    format!("{}{space}{name}", digits(value / size))
}

/// Below 10 with one decimal, unless it is 0; below 0.1 with two digits.
fn digits(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        0.0 => "0".to_owned(),
        _ if size >= 9.95 => format!("{value:.0}"),
        _ if size >= 0.095 => format!("{value:.1}"),
        _ if size >= 0.000_1 => format!("{value:.*}", decimals(size)),
        _ => format!("{value:.0e}"),
    };
    if text.contains('.') && !text.contains('e') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

/// Decimals that show one digit other than 0.
fn decimals(size: f64) -> usize {
    if size >= 0.009_5 {
        2
    } else if size >= 0.000_95 {
        3
    } else {
        4
    }
}

/// Not all is never shown as all, and something never as nothing.
fn percent(value: f64) -> String {
    let text = match value {
        _ if (99.5..100.0).contains(&value) => format!("{:.1}", value.min(99.9)),
        _ => digits(value),
    };
    format!("{text} %")
}

/// Text from elsewhere, such as the value of a label, for a terminal: at most `most` characters, and
/// none that moves the cursor, hides or turns the text around.
///
/// ```
/// use headlines::amount::safe;
///
/// assert_eq!(safe("\u{1b}[2Jrm\u{202e}txt", 20), "\u{fffd}[2Jrm\u{fffd}txt");
/// assert_eq!(safe("postgres", 5), "post…");
/// ```
pub fn safe(text: &str, most: usize) -> String {
    let shown = |c: char| if c.is_control() || turns_or_hides(c) { char::REPLACEMENT_CHARACTER } else { c };
    let mut chars = text.chars().map(shown);
    let mut line: String = chars.by_ref().take(most).collect();
    if chars.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// Characters that are not seen but change how others are.
fn turns_or_hides(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_two_digits_and_the_unit_that_fits() {
        for (value, unit, expected) in [
            (0.0, Unit::Microseconds, "0 s"),
            (0.4, Unit::Microseconds, "400 ns"),
            (999.7, Unit::Microseconds, "1 ms"),
            (16_777_216.0, Unit::Microseconds, "17 s"),
            (34.0, Unit::Seconds, "34 s"),
            (59.9, Unit::Seconds, "1 min"),
            (7200.0, Unit::Seconds, "2 h"),
            (200_000.0, Unit::Seconds, "2.3 d"),
            (0.0, Unit::Bytes, "0 B"),
            (999.0, Unit::Bytes, "1 kB"),
            (4096.0, Unit::BytesPerSecond, "4.1 kB/s"),
            (1.0, Unit::Ratio, "100 %"),
            (0.9999, Unit::Ratio, "99.9 %"),
            (0.0004, Unit::Ratio, "0.04 %"),
            (0.0, Unit::Ratio, "0 %"),
            (25.0, Unit::Percent, "25 %"),
            (1.23, Unit::Number, "1.2"),
            (5.0, Unit::Number, "5"),
            (10.0, Unit::Number, "10"),
            (0.5, Unit::Number, "0.5"),
            (0.033, Unit::Number, "0.03"),
            (0.000_01, Unit::Number, "1e-5"),
            (999.0, Unit::Number, "1k"),
            (990.0, Unit::Number, "990"),
            (3400.0, Unit::Number, "3.4k"),
            (-2.5, Unit::Number, "-2.5"),
            (f64::NAN, Unit::Number, "unknown"),
            (f64::INFINITY, Unit::Seconds, "endless"),
        ] {
            assert_eq!(amount(value, unit), expected, "{value} {unit:?}");
        }
    }

    #[test]
    fn hostile_text_is_made_harmless() {
        let hostile = "a\u{9b}31m\u{7}\r\n\u{202e}\u{2066}\u{200b}\u{e0041}".to_owned() + &"b".repeat(300);
        let shown = safe(&hostile, 40);
        assert_eq!(shown.chars().count(), 40);
        assert!(!shown.chars().any(|c| c.is_control() || turns_or_hides(c)), "{shown:?}");
        assert_eq!(safe("", 3), "");
        assert_eq!(safe("abc", 3), "abc");
    }
}
