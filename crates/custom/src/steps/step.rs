// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a decoder is, and what decoders share.

use std::borrow::Cow;
use std::fmt::{Debug, Write};

/// One decoder of a label.
pub trait Step: Send + Sync + Debug {
    /// Decodes what the step before returned; the first one gets the bytes of the key.
    ///
    /// # Errors
    /// [`Stop::Skip`] if the row is to be left out, [`Stop::Wrong`] if the bytes cannot be decoded.
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop>;

    /// Whether equal bytes always decode to `text`. False for names that may become known later or
    /// change, such as that of a network interface.
    fn is_settled(&self, text: &[u8]) -> bool {
        let _ = text;
        true
    }

    /// Whether the step may be the first one of a label of so many bytes.
    fn takes(&self, bytes: usize) -> bool {
        let _ = bytes;
        true
    }
}

/// Why a key has no label values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The row is left out: no pattern matched.
    Skip,
    /// The bytes cannot be decoded, and why.
    Wrong(String),
}

/// A number in decimal text, as Go's Atoi reads it, or one of 64 bits without sign.
pub(super) fn integer(text: &[u8]) -> Result<i128, Stop> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i128>().ok());
    let number = number.filter(|number| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(number));
    number.ok_or_else(|| Stop::Wrong(format!("{} is no decimal number of 64 bits", shortened(text))))
}

/// A number without sign in decimal text.
pub(super) fn unsigned(text: &[u8]) -> Result<u64, Stop> {
    let number = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'));
    let number = number.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Stop::Wrong(format!("{} is no decimal number from 0 to 2^64-1", shortened(text))))
}

/// Bytes for an error message.
fn shortened(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let dots = if bytes.len() > SHOWN { "..." } else { "" };
    format!("`{}{dots}`", readable(&bytes[..bytes.len().min(SHOWN)]).escape_debug())
}

/// Bytes as text, with `\xHH` for each byte that is not UTF-8.
pub fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}
