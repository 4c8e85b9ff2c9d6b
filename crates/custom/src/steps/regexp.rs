// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoder `regexp`, and patterns in Go's syntax.

use std::borrow::Cow;
use std::ops::Range;

use regex::{Regex, RegexBuilder};

use super::golang;
use super::step::{Step, Stop};

/// Most memory for one compiled pattern, in bytes.
const COMPILED: usize = 4 << 20;

/// A pattern in Go's syntax.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When the pattern is wrong, and why.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("bad pattern `{pattern}`: {why}");
        let translated = golang::translate(pattern).map_err(|why| refused(&why))?;
        let regex = RegexBuilder::new(&translated).size_limit(COMPILED).build();
        regex.map(Self).map_err(|error| {
            // The text of a syntax error repeats the translated pattern, which the user did not write.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            refused(last.trim_start_matches("error: "))
        })
    }

    /// Whether the pattern matches somewhere in `text`.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.0.is_match(&readable(text).0)
    }

    /// What the decoder makes of `text`. None if the pattern does not match, or has several groups.
    fn find(&self, text: &[u8]) -> Option<Range<usize>> {
        let (readable, starts) = readable(text);
        let found = match self.0.captures_len() {
            1 => self.0.find(&readable)?.range(),
            2 => {
                let captures = self.0.captures(&readable)?;
                // A group that took no part in the match is empty.
                captures.get(1).map_or(0..0, |group| group.range())
            }
            _ => return None,
        };
        let place = |at: usize| if starts.is_empty() { at } else { starts[at] };
        Some(place(found.start)..place(found.end))
    }
}

/// Replaces each byte that is not UTF-8 by the character U+FFFD, as which Go sees it. Also returns
/// the places in `text` of the result's bytes and of its end; none if both are the same.
fn readable(text: &[u8]) -> (Cow<'_, str>, Vec<usize>) {
    if let Ok(text) = std::str::from_utf8(text) {
        return (Cow::Borrowed(text), Vec::new());
    }
    let (mut readable, mut starts, mut at) = (String::with_capacity(text.len() + 8), Vec::new(), 0);
    for chunk in text.utf8_chunks() {
        readable.push_str(chunk.valid());
        starts.extend(at..at + chunk.valid().len());
        at += chunk.valid().len();
        for _ in chunk.invalid() {
            readable.push('\u{FFFD}');
            starts.extend([at; '\u{FFFD}'.len_utf8()]);
            at += 1;
        }
    }
    starts.push(at);
    (Cow::Owned(readable), starts)
}

/// `regexp`: the part that the first matching pattern matches, or its group if it has one. Rows that
/// no pattern matches are left out.
#[derive(Debug)]
pub struct Regexp(Vec<Pattern>);

impl Regexp {
    /// Compiles the patterns of a decoder.
    ///
    /// # Errors
    /// When there are none, or one is wrong.
    pub fn new(patterns: Option<&[String]>) -> Result<Self, String> {
        let patterns = patterns.ok_or("`regexp` needs a list `regexps` of patterns")?;
        patterns.iter().map(|pattern| Pattern::new(pattern)).collect::<Result<_, _>>().map(Self)
    }
}

impl Step for Regexp {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let found = self.0.iter().find_map(|pattern| pattern.find(&bytes)).ok_or(Stop::Skip)?;
        Ok(match bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[found]),
            Cow::Owned(mut bytes) => {
                bytes.truncate(found.end);
                bytes.drain(..found.start);
                Cow::Owned(bytes)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(patterns: &[&str], text: &[u8]) -> Result<Vec<u8>, Stop> {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        let step = Regexp::new(Some(&patterns)).unwrap_or_else(|why| panic!("{why}"));
        let owned = step.decode(Cow::Owned(text.to_owned())).map(Cow::into_owned);
        assert_eq!(step.decode(Cow::Borrowed(text)).map(Cow::into_owned), owned);
        owned
    }

    /// Pattern, text, and what Go's FindSubmatch gives the decoder.
    const TABLE: &[(&str, &str, Option<&str>)] = &[
        ("foo", "a foo b", Some("foo")),
        ("^foo", "a foo b", None),
        ("f(o+)", "a foo b", Some("oo")),
        ("f(?:o+)", "a foo b", Some("foo")),
        ("(?P<name>o+)", "foo", Some("oo")),
        ("(?<name>o+)", "foo", Some("oo")),
        ("(?P<1st>o+)", "foo", Some("oo")),
        ("(f)(o)", "foo", None),
        ("(x)?foo", "foo", Some("")),
        ("foo|()", "foo", Some("")),
        ("", "foo", Some("")),
        // A brace that begins no repetition stands for itself.
        ("foo{bar}", "foo{bar}", Some("foo{bar}")),
        ("{", "a{b", Some("{")),
        ("a{,2}", "a{,2}", Some("a{,2}")),
        ("a{01}", "a{01}", Some("a{01}")),
        ("a{ 1}", "a{ 1}", Some("a{ 1}")),
        ("a{1", "a{1", Some("a{1")),
        ("a{2}", "aaa", Some("aa")),
        ("a{2,}", "aaa", Some("aaa")),
        ("a{1,2}?", "aaa", Some("a")),
        ("}", "a}b", Some("}")),
        ("]", "a]b", Some("]")),
        // Quoted text.
        (r"\Qa.b(\E+", "a.b((", Some("a.b((")),
        (r"\Qa.b", "axb a.b", Some("a.b")),
        (r"\Q\E", "x", Some("")),
        // In classes only `^`, `]`, `-`, `\` and `[:` have a meaning.
        ("[a[b]+", "x[ab]", Some("[ab")),
        ("[[]", "a[", Some("[")),
        ("[]a]+", "x]a", Some("]a")),
        ("[^]a]+", "]bc]", Some("bc")),
        ("[a&&b]+", "x&a&b", Some("&a&b")),
        ("[a~~b]+", "x~a~b", Some("~a~b")),
        ("[+--]+", "x+,-.", Some("+,-")),
        ("[a-]+", "xa-", Some("a-")),
        ("[-a]+", "xa-", Some("a-")),
        ("[a-c-e]+", "b-ed", Some("b-e")),
        ("[[:alpha:]_]+", "1ab_2", Some("ab_")),
        ("[[:^alpha:]]+", "ab1_c", Some("1_")),
        ("[[:alpha]+", "1:al", Some(":al")),
        (r"[\d\-x]+", "a1-x", Some("1-x")),
        (r"[^\d]+", "1ab", Some("ab")),
        (r"[\D]+", "1ab", Some("ab")),
        (r"[\x41-\x{43}]+", "xABCD", Some("ABC")),
        ("[.*+?(){}|$ #]+", "a.*+?(){}|$ #b", Some(".*+?(){}|$ #")),
        // ASCII classes and boundaries.
        (r"\d+", "\u{661}12", Some("12")),
        (r"\w+", "\u{e9}ab", Some("ab")),
        (r"\W", "\u{e9}", Some("\u{e9}")),
        (r"\s", "\u{b}\u{a0}", None),
        (r"\S", "\u{b}", Some("\u{b}")),
        (r"\bx", "\u{e9}x", Some("x")),
        (r"a\Bb", "ab", Some("ab")),
        (r"\B", "a\u{212a}b", None),
        (r"\b{start}", "a {start}", None),
        (r"a\b{", "a{", Some("a{")),
        // Escapes.
        (r"\<\>\_\-\/\#\ ", r"<>_-/# ", Some(r"<>_-/# ")),
        (r"\a\f\t\n\r\v", "\u{7}\u{c}\t\n\r\u{b}", Some("\u{7}\u{c}\t\n\r\u{b}")),
        (r"\101\x42\x{43}", "ABC", Some("ABC")),
        (r"\012", "\n", Some("\n")),
        (r"\Aab\z", "ab", Some("ab")),
        (r"\pL+", "1\u{e9}a", Some("\u{e9}a")),
        (r"\p{Greek}\P{Greek}\p{^Greek}", "\u{3b1}bc", Some("\u{3b1}bc")),
        (r"[\p{Lu}\d]+", "aB1", Some("B1")),
        // Flags.
        ("(?i)FOO", "a foo", Some("foo")),
        ("(?i:F)oo", "Foo", Some("Foo")),
        ("(?i)k", "\u{212a}", Some("\u{212a}")),
        ("a.b", "a\nb", None),
        ("(?s)a.b", "a\nb", Some("a\nb")),
        ("b$", "ab\nc", None),
        ("(?m)b$", "ab\nc", Some("b")),
        ("a$", "a\n", None),
        ("(?U)a+", "aaa", Some("a")),
        ("(?ii-ss)A", "a", Some("a")),
        ("(?)a", "a", Some("a")),
        ("(?i-i)a", "A", None),
        // The first alternative wins, not the longest.
        ("a|ab", "ab", Some("a")),
        ("^*", "ab", Some("")),
        ("\u{e9}+", "a\u{e9}\u{e9}", Some("\u{e9}\u{e9}")),
        (" a # b", "x a # b", Some(" a # b")),
    ];

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, text, part) in TABLE {
            let part = part.map(|part| part.as_bytes().to_owned()).ok_or(Stop::Skip);
            assert_eq!(decode(&[pattern], text.as_bytes()), part, "`{pattern}` on {text:?}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for pattern in [
            "(",
            ")",
            "a)",
            "(a",
            "[",
            "[a",
            "[a--]",
            "[]",
            "[^",
            "[a-",
            "*",
            "a|*",
            "(*)",
            "+",
            "?",
            "a**",
            "a{2}{3}",
            "a+*",
            "a???",
            "a(?i)*",
            "{2}",
            "a{1001}",
            "a{2,1}",
            "a{99999999999}",
            r"\",
            r"\C",
            r"\Z",
            r"\1",
            r"\8",
            r"\E",
            r"\y",
            r"\x",
            r"\x4",
            r"\x{",
            r"\x{}",
            r"\x{110000}",
            r"\x{d800}",
            r"\p",
            r"\p{",
            r"\p{Nope}",
            r"\p{}",
            r"\k<a>",
            "[z-a]",
            "[[:nope:]]",
            r"[\b]",
            r"[\Q]",
            "(?",
            "(?x)a",
            "(?i",
            "(?z:a)",
            "(?-)a",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?<!a)",
            "(?P<a)",
            "(?P<>a)",
            "(?P<a-b>a)",
            "(?P=a)",
            "(?P<a>.)(?P<a>.)",
            "(?#a)",
            "(?>a)",
            r"\u00e9",
        ] {
            let refused = Pattern::new(pattern);
            assert!(refused.is_err(), "`{pattern}`");
        }
    }

    #[test]
    fn a_refusal_shows_the_pattern_and_why() {
        let why = |pattern| Pattern::new(pattern).unwrap_err();
        assert_eq!(why("a**"), "bad pattern `a**`: `*` repeats a repetition");
        assert_eq!(why("(a"), "bad pattern `(a`: a `)` is missing");
        assert_eq!(why(r"\p{Nope}"), r"bad pattern `\p{Nope}`: Unicode property not found");
        assert!(why(r"(\pL{500}){500}").contains("size limit"), "{}", why(r"(\pL{500}){500}"));
        assert!(Pattern::new(&"(".repeat(100_000)).is_err());
        assert!(Pattern::new(&"(".repeat(5_000)).is_err());
    }

    #[test]
    fn patterns_are_tried_in_turn() {
        assert_eq!(decode(&["x(.)", "(.)(.)", "b", "."], b"abc"), Ok(b"b".to_vec()));
        assert_eq!(decode(&[], b"abc"), Err(Stop::Skip));
        assert_eq!(Regexp::new(None).unwrap_err(), "`regexp` needs a list `regexps` of patterns");
    }

    /// Go sees each such byte as one character.
    #[test]
    fn bytes_that_are_not_utf8_are_characters() {
        assert_eq!(decode(&["^a(.)b$"], b"a\xffb"), Ok(b"\xff".to_vec()));
        assert_eq!(decode(&["^a..b"], b"a\xe2\x82b"), Ok(b"a\xe2\x82b".to_vec()));
        assert_eq!(decode(&["b(.*)"], b"\xff\xffb\xc3\xa9\xff"), Ok(b"\xc3\xa9\xff".to_vec()));
        assert_eq!(decode(&["(x)?b"], b"\xffb"), Ok(Vec::new()));
    }
}
