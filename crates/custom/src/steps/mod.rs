// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decoders: bytes to text, step by step.

mod golang;
pub mod regexp;

use std::borrow::Cow;
use std::fmt::Debug;

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
}

/// Why a key has no label values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The row is left out: no pattern matched.
    Skip,
    /// The bytes cannot be decoded, and why.
    Wrong(String),
}
