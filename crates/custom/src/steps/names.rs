// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decoders that name numbers of the kernel: `errno`, `syscall`, `syscall_name`, `ifname`,
//! `majorminor`, `ksym`, `kstack`, `cgroup` and `container`.

use std::borrow::Cow;
use std::sync::Arc;

use common::read::decode::{errno_name, syscall_name};

use super::devices::{Disks, Interfaces};
use super::groups::{self, Cgroups};
use super::step::{Step, Stop, integer, unsigned};
use super::strace;
use super::symbols::Kallsyms;

fn text<'b>(text: String) -> Cow<'b, [u8]> {
    Cow::Owned(text.into_bytes())
}

/// The first bytes.
fn first<const N: usize>(step: &str, bytes: &[u8]) -> Result<[u8; N], Stop> {
    let short = || Stop::Wrong(format!("`{step}` takes {N} bytes, not {}", bytes.len()));
    bytes.first_chunk().copied().ok_or_else(short)
}

/// `errno`: the name of an error number in decimal text.
#[derive(Debug)]
pub struct ErrnoName;

impl Step for ErrnoName {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let n = unsigned(&bytes)?;
        Ok(text(match n {
            // The other name of EOPNOTSUPP.
            95 => "ENOTSUP".to_owned(),
            _ => errno_name(n).unwrap_or_else(|| format!("unknown:{n}")),
        }))
    }
}

fn syscall<'b>(name: Option<&'static str>, n: i128) -> Cow<'b, [u8]> {
    // A number below 0 is shown as the u64 that it is.
    name.map_or_else(|| text(format!("unknown_syscall:{}", n as u64)), |name| Cow::Borrowed(name.as_bytes()))
}

/// `syscall`: the name that ebpf_exporter gives to a syscall number in decimal text; see
/// [`SyscallName`] for the kernel's.
#[derive(Debug)]
pub struct SyscallHandler;

impl Step for SyscallHandler {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let n = integer(&bytes)?;
        Ok(syscall(strace::name(n), n))
    }
}

/// `syscall_name`: the kernel's name of a syscall number in decimal text, for the ABI of this
/// architecture.
#[derive(Debug)]
pub struct SyscallName;

impl Step for SyscallName {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let n = integer(&bytes)?;
        Ok(syscall(u64::try_from(n).ok().and_then(syscall_name), n))
    }
}

/// `ifname`: the network interface whose index the first 4 bytes are.
#[derive(Debug)]
pub struct Ifname(pub Arc<Interfaces>);

impl Step for Ifname {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let index = u32::from_ne_bytes(first("ifname", &bytes)?);
        Ok(text(self.0.name(index).unwrap_or_else(|| format!("unknown:{index}"))))
    }

    fn is_settled(&self, _: &[u8]) -> bool {
        false
    }

    fn takes(&self, bytes: usize) -> bool {
        bytes >= size_of::<u32>()
    }
}

/// `majorminor`: the block device whose number the first 4 bytes are, as the kernel's
/// `new_encode_dev` makes it.
#[derive(Debug)]
pub struct Majorminor(pub Arc<Disks>);

impl Step for Majorminor {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let device = u32::from_ne_bytes(first("majorminor", &bytes)?);
        let (major, minor) = ((device & 0xf_ff00) >> 8, (device & 0xff) | ((device >> 12) & 0xf_ff00));
        Ok(self.0.name(major, minor).map_or_else(|| text(format!("unknown:{major}:{minor}")), Cow::Owned))
    }

    fn is_settled(&self, _: &[u8]) -> bool {
        false
    }

    fn takes(&self, bytes: usize) -> bool {
        bytes >= size_of::<u32>()
    }
}

/// `ksym`: the kernel symbol at exactly the address that the 8 bytes are.
#[derive(Debug)]
pub struct Ksym(pub Option<Arc<Kallsyms>>);

impl Step for Ksym {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let address = u64::from_ne_bytes(first("ksym", &bytes)?);
        let name = self.0.as_ref().and_then(|symbols| symbols.exact(address));
        Ok(name.map_or_else(|| text(format!("unknown_addr:0x{address:x}")), Cow::Owned))
    }

    fn is_settled(&self, text: &[u8]) -> bool {
        !text.starts_with(b"unknown_addr:")
    }

    fn takes(&self, bytes: usize) -> bool {
        bytes >= size_of::<u64>()
    }
}

/// `kstack`: a stack of 8-byte addresses up to the first 0; each is the nearest kernel symbol at or
/// below it, one in a line.
#[derive(Debug)]
pub struct Kstack(pub Option<Arc<Kallsyms>>);

impl Step for Kstack {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let addresses: Vec<u64> = bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_ne_bytes(*word))
            .take_while(|n| *n != 0)
            .collect();
        let names = match &self.0 {
            Some(symbols) => symbols.nearest(&addresses),
            None => vec![None; addresses.len()],
        };
        let names: Vec<Vec<u8>> =
            names.into_iter().map(|name| name.unwrap_or_else(|| b"??".to_vec())).collect();
        Ok(Cow::Owned(names.join(&b'\n')))
    }

    fn takes(&self, bytes: usize) -> bool {
        bytes.is_multiple_of(size_of::<u64>())
    }
}

/// `cgroup`: the absolute path of the cgroup whose id is the decimal text.
#[derive(Debug)]
pub struct Cgroup(pub Arc<Cgroups>);

impl Step for Cgroup {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let id = integer(&bytes)?;
        Ok(self.0.path(id as u64).map_or_else(|| text(format!("unknown_cgroup_id:{id}")), Cow::Owned))
    }

    fn is_settled(&self, text: &[u8]) -> bool {
        !text.starts_with(b"unknown_cgroup_id:")
    }
}

/// `container`: the id of the container that a cgroup belongs to, from the cgroup's id in decimal
/// text. Empty for what is in no container.
///
/// It has all 64 digits, as the labels of cAdvisor and kube-state-metrics have it, so that series
/// can be joined with theirs. Who wants the 12 digits of `docker ps` adds the decoder `regexp` with
/// the pattern `^.{0,12}`; the other way around would not work. See [`common::read::containers`] for
/// the engines that are known.
#[derive(Debug)]
pub struct Container(pub Arc<Cgroups>);

impl Step for Container {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let path = self.0.path(integer(&bytes)? as u64).unwrap_or_default();
        Ok(Cow::Owned(groups::container(&path).unwrap_or_default().into_bytes()))
    }

    fn is_settled(&self, text: &[u8]) -> bool {
        // Of an unknown cgroup, or of one in no container.
        !text.is_empty()
    }
}
