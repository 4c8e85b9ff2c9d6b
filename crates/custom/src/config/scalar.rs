// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types of YAML scalars, as the YAML package of ebpf_exporter (go.yaml.in/yaml/v2) sees them.

use super::yaml::Form;

/// A scalar with its type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// Nothing: the field keeps its zero value.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer of 64 bits, signed or not.
    Int(i128),
    /// Another number.
    Float(f64),
    /// Text.
    Text,
}

/// The type of a scalar.
pub fn resolve(text: &str, form: Form) -> Value {
    if form == Form::Text {
        return Value::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::Text;
    }
    let plain = text.replace('_', "");
    match (integer(&plain), decimal(&plain)) {
        (Some(integer), _) if form == Form::Float => Value::Float(integer as f64),
        (Some(integer), _) => Value::Int(integer),
        // So `09`, which is no octal number, is 9.
        (None, Some(decimal)) => Value::Float(decimal),
        (None, None) => Value::Text,
    }
}

/// An integer: decimal, 0x, 0o or just 0, 0b, with a sign.
fn integer(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (digits, radix) = match prefix.as_deref() {
        Some("0x") => (digits.get(2..)?, 16),
        Some("0o") => (digits.get(2..)?, 8),
        Some("0b") => (digits.get(2..)?, 2),
        Some(_) if digits.starts_with('0') => (digits.get(1..)?, 8),
        _ => (digits, 10),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let number = if text.starts_with('-') { -number } else { number };
    (number >= i128::from(i64::MIN)).then_some(number)
}

/// A decimal number with a fraction or an exponent.
fn decimal(text: &str) -> Option<f64> {
    let is_decimal = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    // One beyond the range of f64 is text there.
    text.chars().all(is_decimal).then(|| text.parse().ok())?.filter(|number: &f64| number.is_finite())
}

/// A Go duration such as `1h30m` or `1.5s`, in nanoseconds.
pub fn duration(text: &str) -> Option<i128> {
    let rest = text.strip_prefix(['+', '-']);
    let (mut rest, sign) = (rest.unwrap_or(text), if text.starts_with('-') { -1 } else { 1 });
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        // Digits past these are less than a nanosecond.
        let fraction = fraction.get(..18).unwrap_or(fraction);
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        sum = sum + whole * unit + fraction * unit / scale;
        if sum > i128::from(i64::MAX) {
            return None;
        }
        rest = after;
    }
    Some(sum * sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_have_the_types_of_yaml_v2() {
        use Value::{Bool, Float, Int, Null, Text};
        let table = [
            ("", Null),
            ("~", Null),
            ("NULL", Null),
            ("nULL", Text),
            ("y", Bool(true)),
            ("On", Bool(true)),
            ("off", Bool(false)),
            ("oFF", Text),
            ("0", Int(0)),
            ("-0", Int(0)),
            ("+12", Int(12)),
            ("1_000", Int(1000)),
            ("0x1F", Int(31)),
            ("0X1f", Int(31)),
            ("0o17", Int(15)),
            ("017", Int(15)),
            ("0b101", Int(5)),
            ("-0b101", Int(-5)),
            ("-0x10", Int(-16)),
            ("09", Float(9.0)),
            ("0x", Text),
            ("0xg", Text),
            ("0x-1", Text),
            ("--1", Text),
            ("+", Text),
            ("9223372036854775808", Int(9_223_372_036_854_775_808)),
            ("18446744073709551615", Int(18_446_744_073_709_551_615)),
            ("18446744073709551616", Float(18_446_744_073_709_551_616.0)),
            ("-9223372036854775808", Int(-9_223_372_036_854_775_808)),
            ("1.5", Float(1.5)),
            ("1.", Float(1.0)),
            (".5", Float(0.5)),
            (".", Text),
            ("1e3", Float(1000.0)),
            ("1e999", Text),
            ("0.000001", Float(0.000_001)),
            (".inf", Float(f64::INFINITY)),
            ("1:30", Text),
            ("2001-01-01", Text),
            ("10s", Text),
            ("read", Text),
        ];
        for (text, expected) in table {
            assert_eq!(resolve(text, Form::Plain), expected, "{text:?}");
            assert_eq!(resolve(text, Form::Text), Text, "{text:?}");
        }
        assert_eq!(resolve("5", Form::Float), Float(5.0));
        assert!(matches!(resolve(".NaN", Form::Plain), Float(number) if number.is_nan()));
    }

    #[test]
    fn durations_are_those_of_go() {
        let table = [
            ("0", Some(0)),
            ("10s", Some(10_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("300ms", Some(300_000_000)),
            ("1us", Some(1_000)),
            ("1\u{b5}s", Some(1_000)),
            ("1\u{3bc}s", Some(1_000)),
            ("1ns", Some(1)),
            (".5s", Some(500_000_000)),
            ("1.s", Some(1_000_000_000)),
            ("-1m", Some(-60_000_000_000)),
            ("+1m", Some(60_000_000_000)),
            ("1.0000000000000000000000001s", Some(1_000_000_000)),
            ("9223372036854775807ns", Some(9_223_372_036_854_775_807)),
            ("9223372036854775808ns", None),
            ("99999999999999999999h", None),
            ("", None),
            ("-", None),
            ("10", None),
            ("10 s", None),
            ("1d", None),
            (".s", None),
            ("1.2.3s", None),
            ("s", None),
            ("1\u{661}s", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration(text), expected, "{text:?}");
        }
    }
}
