// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decoders that need nothing but the bytes: `uint`, `string`, `hex`, `static_map`, `inet_ip` and
//! `dname`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use common::read::decode::until_nul;

use super::step::{Step, Stop};

/// `uint`: a number of 1, 2, 4 or 8 bytes in the byte order of this machine, as decimal text.
#[derive(Debug)]
pub struct Uint;

impl Step for Uint {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let n = match *bytes {
            [byte] => u64::from(byte),
            [a, b] => u64::from(u16::from_ne_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_ne_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            _ => return Err(Stop::Wrong(format!("`uint` takes 1, 2, 4 or 8 bytes, not {}", bytes.len()))),
        };
        Ok(Cow::Owned(n.to_string().into_bytes()))
    }

    fn takes(&self, bytes: usize) -> bool {
        matches!(bytes, 1 | 2 | 4 | 8)
    }
}

/// `string`: the bytes before the first NUL.
#[derive(Debug)]
pub struct Text;

impl Step for Text {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        Ok(match bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(until_nul(bytes)),
            Cow::Owned(mut bytes) => {
                bytes.truncate(until_nul(&bytes).len());
                Cow::Owned(bytes)
            }
        })
    }
}

/// `hex`: each byte as two lower-case digits.
#[derive(Debug)]
pub struct Hex;

impl Step for Hex {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        Ok(Cow::Owned(hex(&bytes)))
    }
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| DIGITS[usize::from(digit)]).collect()
}

/// `static_map`: the word for a text.
#[derive(Debug)]
pub struct StaticMap {
    /// Words by text; None: the file has no map.
    words: Option<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Whether texts without a word stay as they are.
    allow_unknown: bool,
}

impl StaticMap {
    /// The decoder with the words of a file.
    pub fn new(words: Option<&BTreeMap<String, String>>, allow_unknown: bool) -> Self {
        let bytes = |(text, word): (&String, &String)| (text.clone().into(), word.clone().into());
        Self { words: words.map(|words| words.iter().map(bytes).collect()), allow_unknown }
    }
}

impl Step for StaticMap {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let Some(words) = &self.words else { return Ok(Cow::Borrowed(b"empty mapping")) };
        Ok(match words.get(&*bytes) {
            Some(word) => Cow::Owned(word.clone()),
            None if self.allow_unknown => bytes,
            None => Cow::Owned([b"unknown:", &*bytes].concat()),
        })
    }
}

/// `inet_ip`: an address of IPv4 or IPv6. An IPv4 address in IPv6 is shown as IPv4.
#[derive(Debug)]
pub struct InetIp;

impl Step for InetIp {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let text = if let Ok(four) = <[u8; 4]>::try_from(&*bytes) {
            Ipv4Addr::from(four).to_string().into_bytes()
        } else if let Ok(sixteen) = <[u8; 16]>::try_from(&*bytes) {
            Ipv6Addr::from(sixteen).to_canonical().to_string().into_bytes()
        } else if bytes.is_empty() {
            b"<nil>".to_vec()
        } else {
            [b"?", hex(&bytes).as_slice()].concat()
        };
        Ok(Cow::Owned(text))
    }
}

/// `dname`: a DNS name in the format of packets, with dots. What is none stays as it is.
#[derive(Debug)]
pub struct Dname;

impl Step for Dname {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        if bytes.is_empty() {
            return Ok(Cow::Borrowed(b"."));
        }
        let (mut name, mut rest) = (Vec::with_capacity(bytes.len()), &*bytes);
        let mut first = true;
        while let Some((length, after)) = rest.split_first() {
            let Some((label, after)) = after.split_at_checked(usize::from(*length)) else { return Ok(bytes) };
            if !first {
                name.push(b'.');
            }
            first = false;
            name.extend_from_slice(label);
            rest = after;
        }
        Ok(Cow::Owned(name))
    }
}
