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
pub mod scratch;
mod step;
mod strace;
pub mod symbols;
#[cfg(test)]
mod tests;
mod text;
pub mod world;

use std::sync::Arc;

use crate::config::{DECODERS, Decoder};
use pci::{Kind, Pci};
// For the renderer, which is joined later.
#[allow(unused_imports)]
pub use step::{Step, Stop};
use world::World;

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
        name => return Err(format!("there is no decoder `{name}`; known are {}", DECODERS.join(", "))),
    })
}
