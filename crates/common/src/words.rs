// SPDX-License-Identifier: MIT OR Apache-2.0
//! English for numbers.

/// A number and what it counts: `1 byte`, `2 bytes`. For nouns that take an s.
///
/// ```
/// use common::words::counted;
///
/// assert_eq!(counted(0, "probe"), "0 probes");
/// assert_eq!(counted(1, "probe"), "1 probe");
/// assert_eq!(counted(2, "probe"), "2 probes");
/// ```
pub fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
