// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decoders: bytes to text, step by step.

pub mod cache;
pub mod devices;
#[cfg(test)]
pub mod fuzz;
mod golang;
pub mod groups;
pub mod labels;
mod names;
mod pci;
pub mod regexp;
#[cfg(test)]
mod scratch;
mod strace;
pub mod symbols;
#[cfg(test)]
mod tests;
mod text;
pub mod world;

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;

use crate::config::Decoder;
use pci::{Kind, Pci};
use world::World;

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

/// All decoders.
const NAMES: [&str; 20] = [
    "cgroup",
    "container",
    "dname",
    "errno",
    "hex",
    "ifname",
    "inet_ip",
    "kstack",
    "ksym",
    "majorminor",
    "pci_class",
    "pci_device",
    "pci_subclass",
    "pci_vendor",
    "regexp",
    "static_map",
    "string",
    "syscall",
    "syscall_name",
    "uint",
];

/// The decoder that the file names.
///
/// # Errors
/// When there is none of that name, or its settings are wrong.
pub fn by_name(spec: &Decoder, world: &World) -> Result<Box<dyn Step>, String> {
    let pci = |kind| Pci { kind, ids: world.pci.clone() };
    Ok(match spec.name.as_str() {
        "cgroup" => Box::new(names::Cgroup(Arc::clone(&world.cgroups))),
        "container" => Box::new(names::Container(Arc::clone(&world.cgroups))),
        "dname" => Box::new(text::Dname),
        "errno" => Box::new(names::ErrnoName),
        "hex" => Box::new(text::Hex),
        "ifname" => Box::new(names::Ifname(Arc::clone(&world.interfaces))),
        "inet_ip" => Box::new(text::InetIp),
        "kstack" => Box::new(names::Kstack(world.symbols.clone())),
        "ksym" => Box::new(names::Ksym(world.symbols.clone())),
        "majorminor" => Box::new(names::Majorminor(Arc::clone(&world.disks))),
        "pci_class" => Box::new(pci(Kind::Class)),
        "pci_device" => Box::new(pci(Kind::Device)),
        "pci_subclass" => Box::new(pci(Kind::Subclass)),
        "pci_vendor" => Box::new(pci(Kind::Vendor)),
        "regexp" => Box::new(regexp::Regexp::new(spec.regexps.as_deref())?),
        "static_map" => Box::new(text::StaticMap::new(spec.static_map.as_ref(), spec.allow_unknown)),
        "string" => Box::new(text::Text),
        "syscall" => Box::new(names::SyscallHandler),
        "syscall_name" => Box::new(names::SyscallName),
        "uint" => Box::new(text::Uint),
        name => return Err(format!("there is no decoder `{name}`; known are {}", NAMES.join(", "))),
    })
}

/// A number in decimal text, as Go's Atoi reads it, or one of 64 bits without sign.
fn integer(text: &[u8]) -> Result<i128, Stop> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i128>().ok());
    let number = number.filter(|number| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(number));
    number.ok_or_else(|| Stop::Wrong(format!("{} is no decimal number of 64 bits", shortened(text))))
}

/// A number without sign in decimal text.
fn unsigned(text: &[u8]) -> Result<u64, Stop> {
    let number = std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'));
    let number = number.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Stop::Wrong(format!("{} is no decimal number from 0 to 2^64-1", shortened(text))))
}

/// Bytes for an error message.
fn shortened(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let dots = if bytes.len() > SHOWN { "..." } else { "" };
    format!("`{}{dots}`", labels::readable(&bytes[..bytes.len().min(SHOWN)]).escape_debug())
}
