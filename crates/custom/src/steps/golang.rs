// SPDX-License-Identifier: MIT OR Apache-2.0
//! Go's regular expressions (RE2 syntax, package regexp/syntax), rewritten for the crate regex.
//!
//! The two agree on most of the syntax. They differ in what `{`, `[` and `\` mean where they begin
//! nothing, and in that Go's `\d`, `\s`, `\w` and `\b` are ASCII. So that neither syntax is guessed
//! at, every literal is written in a form that has no other meaning.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Highest number in a repetition such as `a{2,1000}`.
const MAX_REPEAT: u32 = 1000;

/// Deepest nesting of groups. Go allows 1000; the crate's parser 250, counting other things too.
const MAX_DEPTH: usize = 100;

/// Longest pattern in bytes.
const MAX_LENGTH: usize = 64 << 10;

/// What a repetition operator would apply to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Item,
    Repetition,
}

/// Rewrites a pattern.
///
/// # Errors
/// When Go would refuse the pattern, and why.
pub fn translate(pattern: &str) -> Result<String, String> {
    if pattern.len() > MAX_LENGTH {
        return Err(format!("the pattern is longer than {MAX_LENGTH} bytes"));
    }
    let mut translator = Translator { rest: pattern, out: String::new(), names: BTreeSet::new() };
    translator.all()?;
    Ok(translator.out)
}

struct Translator<'p> {
    rest: &'p str,
    out: String,
    names: BTreeSet<&'p str>,
}

impl<'p> Translator<'p> {
    fn all(&mut self) -> Result<(), String> {
        let mut before = Before::Nothing;
        // What the opened groups follow is the same for all: nothing. After a group comes an item.
        let mut depth = 0usize;
        while let Some(c) = self.rest.chars().next() {
            let was = std::mem::replace(&mut before, Before::Item);
            match c {
                '(' => match self.open()? {
                    true => {
                        depth += 1;
                        before = Before::Nothing;
                        if depth > MAX_DEPTH {
                            return Err(format!("groups are nested deeper than {MAX_DEPTH}"));
                        }
                    }
                    // Flags for the rest of the group. Go repeats what is before them, which nobody
                    // means.
                    false => before = Before::Nothing,
                },
                ')' => {
                    depth = depth.checked_sub(1).ok_or("unexpected `)`")?;
                    self.copy(1);
                }
                '|' => {
                    before = Before::Nothing;
                    self.copy(1);
                }
                '*' | '+' | '?' => {
                    before = self.repeat(was, 1)?;
                }
                '{' => match repetition(self.rest)? {
                    Some(length) => before = self.repeat(was, length)?,
                    None => self.literal(),
                },
                '[' => self.class()?,
                '\\' => self.escape(was, &mut before)?,
                '.' | '^' | '$' => self.copy(1),
                _ => self.literal(),
            }
        }
        if depth > 0 {
            return Err("a `)` is missing".to_owned());
        }
        Ok(())
    }

    /// Skips bytes of the pattern, and returns them.
    fn skip(&mut self, bytes: usize) -> &'p str {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        skipped
    }

    fn copy(&mut self, bytes: usize) {
        let copied = self.skip(bytes);
        self.out.push_str(copied);
    }

    /// The next character of the pattern stands for itself.
    fn literal(&mut self) {
        if let Some(c) = self.rest.chars().next() {
            self.skip(c.len_utf8());
            push(&mut self.out, c);
        }
    }

    /// A repetition operator of `length` bytes, and the `?` that may follow it.
    fn repeat(&mut self, was: Before, length: usize) -> Result<Before, String> {
        let operator = &self.rest[..length];
        match was {
            Before::Nothing => return Err(format!("nothing before `{operator}` to repeat")),
            Before::Repetition => return Err(format!("`{operator}` repeats a repetition")),
            Before::Item => self.copy(length),
        }
        if self.rest.starts_with('?') {
            self.copy(1);
        }
        Ok(Before::Repetition)
    }

    /// What begins with `(`. Returns whether it opens a group.
    fn open(&mut self) -> Result<bool, String> {
        if !self.rest.starts_with("(?") {
            self.copy(1);
            return Ok(true);
        }
        for opening in ["(?P<", "(?<"] {
            let Some(named) = self.rest.strip_prefix(opening) else { continue };
            // Names have no meaning here, so that those that only Go allows do no harm.
            let (name, _) = named.split_once('>').ok_or("a `>` is missing after a group's name")?;
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return Err(format!("`{opening}{name}>` is no named group"));
            }
            if !self.names.insert(name) {
                return Err(format!("several groups are named `{name}`"));
            }
            self.skip(opening.len() + name.len() + 1);
            self.out.push('(');
            return Ok(true);
        }
        let end = self.rest.find([':', ')']).ok_or("a `)` is missing after `(?`")?;
        let flags = &self.rest[2..end];
        let (set, cleared) = flags.split_once('-').unwrap_or((flags, "i"));
        let known = |flags: &str| flags.bytes().all(|flag| b"imsU".contains(&flag));
        if !known(set) || !known(cleared) || cleared.is_empty() {
            return Err(format!("`(?{flags}` is no flags and no group that Go knows"));
        }
        let group = self.rest[end..].starts_with(':');
        self.skip(end + 1);
        // The crate refuses a flag that is given twice.
        let unique = |flags: &str| flags.bytes().map(char::from).collect::<BTreeSet<char>>();
        let cleared = if flags.contains('-') { unique(cleared) } else { BTreeSet::new() };
        let set = unique(set).difference(&cleared).collect::<String>();
        let cleared = cleared.into_iter().collect::<String>();
        let minus = if cleared.is_empty() { "" } else { "-" };
        match (group, set.is_empty() && cleared.is_empty()) {
            (true, _) => {
                let _ = write!(self.out, "(?{set}{minus}{cleared}:");
            }
            (false, false) => {
                let _ = write!(self.out, "(?{set}{minus}{cleared})");
            }
            (false, true) => {}
        }
        Ok(group)
    }

    /// What begins with a backslash, outside of a class.
    fn escape(&mut self, was: Before, before: &mut Before) -> Result<(), String> {
        let next = self.rest[1..].chars().next().ok_or("a backslash ends the pattern")?;
        match next {
            'A' | 'z' => self.copy(2),
            'b' | 'B' => {
                self.skip(2);
                let _ = write!(self.out, "(?-u:\\{next})");
            }
            'Q' => {
                self.skip(2);
                let end = self.rest.find("\\E");
                let quoted = self.skip(end.unwrap_or(self.rest.len()));
                for c in quoted.chars() {
                    push(&mut self.out, c);
                }
                if quoted.is_empty() {
                    *before = was;
                }
                if end.is_some() {
                    self.skip(2);
                }
            }
            _ if self.set()? => {}
            _ => {
                let c = self.character()?;
                push(&mut self.out, c);
            }
        }
        Ok(())
    }

    /// A set of characters such as `\d` or `\p{Greek}`, if one is next. Written so that it may stand
    /// inside a class too.
    fn set(&mut self) -> Result<bool, String> {
        let mut rest = self.rest.chars();
        let (Some('\\'), Some(kind)) = (rest.next(), rest.next()) else { return Ok(false) };
        let members = match kind {
            'd' => "[0-9]",
            'D' => "[^0-9]",
            's' => "[\\t\\n\\x0C\\r ]",
            'S' => "[^\\t\\n\\x0C\\r ]",
            'w' => "[0-9A-Za-z_]",
            'W' => "[^0-9A-Za-z_]",
            'p' | 'P' => return self.property(kind == 'P').map(|()| true),
            _ => return Ok(false),
        };
        self.skip(2);
        self.out.push_str(members);
        Ok(true)
    }

    /// `\pN`, `\p{Name}`, `\p{^Name}`, or with `\P`.
    fn property(&mut self, negated: bool) -> Result<(), String> {
        self.skip(2);
        let name = match self.rest.strip_prefix('{') {
            Some(braced) => {
                let (name, _) = braced.split_once('}').ok_or("a `}` is missing after `\\p{`")?;
                self.skip(name.len() + 2);
                name
            }
            None => {
                let c = self.rest.chars().next().ok_or("a name is missing after `\\p`")?;
                self.skip(c.len_utf8())
            }
        };
        let (negated, name) = name.strip_prefix('^').map_or((negated, name), |name| (!negated, name));
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(format!("`{name}` is no set of characters"));
        }
        let _ = write!(self.out, "\\{}{{{name}}}", if negated { 'P' } else { 'p' });
        Ok(())
    }

    /// An escaped character.
    fn character(&mut self) -> Result<char, String> {
        let rest = &self.rest[1..];
        let next = rest.chars().next().ok_or("a backslash ends the pattern")?;
        let (c, length) = match next {
            'a' => ('\x07', 1),
            'f' => ('\x0C', 1),
            'n' => ('\n', 1),
            'r' => ('\r', 1),
            't' => ('\t', 1),
            'v' => ('\x0B', 1),
            '0'..='7' => octal(rest).ok_or_else(|| format!("`\\{next}` refers to a group: Go cannot"))?,
            'x' => hex(rest).ok_or("no hexadecimal character after `\\x`")?,
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => (c, 1),
            c => return Err(format!("`\\{c}` has no meaning")),
        };
        self.skip(1 + length);
        Ok(c)
    }

    /// A class, `[...]`.
    fn class(&mut self) -> Result<(), String> {
        let whole = self.rest;
        let missing = || {
            let start: String = whole.chars().take(20).collect();
            format!("a `]` is missing after `{start}`")
        };
        self.copy(1);
        if self.rest.starts_with('^') {
            self.copy(1);
        }
        let mut first = true;
        loop {
            if self.rest.is_empty() {
                return Err(missing());
            }
            if self.rest.starts_with(']') && !first {
                self.copy(1);
                return Ok(());
            }
            first = false;
            if let Some(end) = self.rest.strip_prefix("[:").and_then(|named| named.find(":]")) {
                let name = &self.rest[2..2 + end];
                const NAMES: [&str; 14] = [
                    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
                    "space", "upper", "word", "xdigit",
                ];
                if !NAMES.contains(&name.trim_start_matches('^')) || name.starts_with("^^") {
                    return Err(format!("`[:{name}:]` is no class"));
                }
                self.copy(end + 4);
                continue;
            }
            if self.set()? {
                continue;
            }
            let low = self.member().ok_or_else(missing)??;
            push(&mut self.out, low);
            let range =
                self.rest.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && !rest.starts_with(']'));
            if range {
                self.skip(1);
                let high = self.member().ok_or_else(missing)??;
                if high < low {
                    return Err(format!("the range `{low}-{high}` is empty"));
                }
                self.out.push('-');
                push(&mut self.out, high);
            }
        }
    }

    /// The next character of a class.
    fn member(&mut self) -> Option<Result<char, String>> {
        let c = self.rest.chars().next()?;
        if c == '\\' {
            return Some(self.character());
        }
        self.skip(c.len_utf8());
        Some(Ok(c))
    }
}

/// Writes a literal character.
fn push(out: &mut String, c: char) {
    if c.is_ascii_alphanumeric() || !c.is_ascii() {
        out.push(c);
    } else {
        let _ = write!(out, "\\x{:02X}", u32::from(c));
    }
}

/// The length of a repetition such as `{2,3}` at the start of `text`. None if that is no repetition:
/// then `{` stands for itself.
fn repetition(text: &str) -> Result<Option<usize>, String> {
    let Some((inside, _)) = text[1..].split_once('}') else { return Ok(None) };
    let (low, high) = inside.split_once(',').map_or((inside, None), |(low, high)| (low, Some(high)));
    let is_number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits && (text.len() == 1 || !text.starts_with('0'))
    };
    let high = high.filter(|high| !high.is_empty());
    if !is_number(low) || high.is_some_and(|high| !is_number(high)) {
        return Ok(None);
    }
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number <= MAX_REPEAT);
    match (number(low), high.map(number)) {
        (None, _) | (_, Some(None)) => Err(format!("`{{{inside}}}` repeats more than {MAX_REPEAT} times")),
        (Some(low), Some(Some(high))) if low > high => Err(format!("`{{{inside}}}`: {low} is above {high}")),
        _ => Ok(Some(inside.len() + 2)),
    }
}

/// A character such as `101` at the start of `text`, and its length. None for `1` to `7` alone.
fn octal(text: &str) -> Option<(char, usize)> {
    let digits = text.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
    if digits == 1 && !text.starts_with('0') {
        return None;
    }
    let c = u32::from_str_radix(&text[..digits], 8).ok().and_then(char::from_u32)?;
    Some((c, digits))
}

/// A character such as `x41` or `x{10FFFF}` at the start of `text`, and its length.
fn hex(text: &str) -> Option<(char, usize)> {
    let digits = match text.strip_prefix("x{") {
        Some(braced) => braced.split_once('}')?.0,
        None => text.get(1..3)?,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let c = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)?;
    Some((c, if text.starts_with("x{") { digits.len() + 3 } else { 3 }))
}
