// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decodes the bytes of a key to label values that a shell user knows.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::read::cgroups::Paths;
use crate::read::layout::number;
use crate::spec::Decode;

/// The label value of events whose key did not fit into a bounded map. A list of words
/// ([`Decode::Words`]) may contain the same word. There it stands for all values that have no word of
/// their own: see the list in the exporter's `main.rs`.
pub const OTHER: &str = "other";

/// The name in the key of the entry that counts such events, if the map's keys contain a name
/// (`FOLDED_NAME` in `bpf/maps.bpf.h`).
pub const FOLDED: &str = "\0other";

/// The label value of a name that users choose: the name itself. A backslash is added before the
/// name [`OTHER`], to distinguish it from that label value. One is also added before a name of
/// backslashes and [`OTHER`], so that no two names have the same label value.
pub fn shown(name: &str) -> Cow<'_, str> {
    match name.trim_start_matches('\\') {
        OTHER => Cow::Owned(format!("\\{name}")),
        _ => Cow::Borrowed(name),
    }
}

/// The label value of a name in a key.
fn name(bytes: &[u8]) -> String {
    if is_folded(bytes) {
        return OTHER.to_owned();
    }
    // The name may be cut inside a character, or may not be UTF-8.
    shown(&String::from_utf8_lossy(until_nul(bytes))).into_owned()
}

/// Whether a name in a key is [`FOLDED`].
pub fn is_folded(bytes: &[u8]) -> bool {
    bytes.starts_with(FOLDED.as_bytes())
}

/// Decodes labels and caches lookups.
#[derive(Debug, Default)]
pub struct Decoder {
    cgroups: Mutex<Paths>,
}

/// A label value, or the replacement for an undecodable one.
type Decoded = Result<String, String>;

impl Decoder {
    /// The label value of `bytes`.
    ///
    /// # Errors
    /// When the bytes cannot be decoded. The error is the label value to show instead.
    pub fn label(&self, decode: &Decode, bytes: &[u8]) -> Decoded {
        let n = number(bytes);
        match decode {
            Decode::Text => Ok(name(bytes)),
            Decode::Number => Ok(n.to_string()),
            Decode::Words(words) => {
                let word = usize::try_from(n).ok().and_then(|n| words.get(n));
                word.map(ToString::to_string).ok_or_else(|| format!("unknown:{n}"))
            }
            Decode::Syscall => Ok(syscall(n)),
            Decode::SyscallAbi => Ok(if is_compat(n) { "compat" } else { "native" }.to_owned()),
            Decode::Errno => errno(n),
            Decode::ErrnoOr(names) => match names.iter().find(|(number, _)| u64::from(*number) == n) {
                Some((_, name)) => Ok(name.to_string()),
                None => errno(n),
            },
            // 0 is the key of events whose key did not fit into the map.
            Decode::Cgroup if n == 0 => Ok(OTHER.to_owned()),
            Decode::Cgroup => Ok(self.cgroups().path(n)),
            Decode::Address => address(bytes),
        }
    }

    /// Forgets cached lookups that were not used since the last call.
    pub fn forget_unused(&self) {
        self.cgroups().forget_unused();
    }

    fn cgroups(&self) -> MutexGuard<'_, Paths> {
        self.cgroups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes before the first NUL.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Number of slots for native system calls in `bpf/syscall.bpf.c`. As many for compat ones follow.
pub const SYSCALL_SLOTS: u64 = 512;

/// The slot of invalid numbers.
pub const SYSCALL_INVALID: u64 = 2 * SYSCALL_SLOTS;

/// The slot that counts errors whose key did not fit into the map.
pub const SYSCALL_OTHER: u64 = SYSCALL_INVALID + 1;

fn is_compat(slot: u64) -> bool {
    (SYSCALL_SLOTS..SYSCALL_INVALID).contains(&slot)
}

#[cfg(target_arch = "aarch64")]
use syscalls::{aarch64 as native, arm as compat};
#[cfg(target_arch = "x86_64")]
use syscalls::{x86 as compat, x86_64 as native};

/// The kernel's name of a native syscall of this architecture.
pub fn syscall_name(number: u64) -> Option<&'static str> {
    native::Sysno::new(usize::try_from(number).ok()?).map(|call| call.name())
}

fn syscall(slot: u64) -> String {
    let id = (slot % SYSCALL_SLOTS) as usize;
    let name = match slot {
        SYSCALL_INVALID => return "invalid".to_owned(),
        SYSCALL_OTHER => return OTHER.to_owned(),
        slot if is_compat(slot) => compat::Sysno::new(id).map(|call| call.name()),
        _ => syscall_name(id as u64),
    };
    name.map_or_else(|| format!("sys_{id}"), ToOwned::to_owned)
}

/// The slots of a syscall name: native, compat, or both.
pub fn syscall_slots(name: &str) -> impl Iterator<Item = u64> {
    let slots = 0..SYSCALL_INVALID;
    slots.filter(move |slot| syscall(*slot) == name)
}

/// Error numbers that the kernel does not return to userland (include/linux/errno.h). With one of
/// the ERESTART numbers, a signal interrupted the syscall: the kernel restarts it or returns EINTR.
const KERNEL_ERRNOS: &[(u64, &str)] = &[
    (512, "ERESTARTSYS"),
    (513, "ERESTARTNOINTR"),
    (514, "ERESTARTNOHAND"),
    (515, "ENOIOCTLCMD"),
    (516, "ERESTART_RESTARTBLOCK"),
    (517, "EPROBE_DEFER"),
    (518, "EOPENSTALE"),
    (519, "ENOPARAM"),
    (524, "ENOTSUPP"),
];

/// The name of an error number. 0 is the key of events whose key did not fit into the map.
fn errno(n: u64) -> Decoded {
    if n == 0 {
        return Ok(OTHER.to_owned());
    }
    if let Some((_, name)) = KERNEL_ERRNOS.iter().find(|(number, _)| *number == n) {
        return Ok((*name).to_owned());
    }
    errno_name(n).ok_or_else(|| format!("unknown:{n}"))
}

/// The name of an error number, if it is one that userland sees.
pub fn errno_name(n: u64) -> Option<String> {
    let errno = Errno::from_raw(i32::try_from(n).ok()?);
    (errno != Errno::UnknownErrno).then(|| format!("{errno:?}"))
}

/// The text of an address. All zeros are the key of events whose key did not fit into the map.
fn address(bytes: &[u8]) -> Decoded {
    let bytes: [u8; 16] = bytes.try_into().map_err(|_| format!("unknown:{}", number(bytes)))?;
    let address = Ipv6Addr::from(bytes);
    if address.is_unspecified() {
        return Ok(OTHER.to_owned());
    }
    Ok(address.to_canonical().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(decode: Decode, bytes: &[u8]) -> Decoded {
        Decoder::default().label(&decode, bytes)
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn system_calls_have_the_names_of_their_table() {
        let name = |slot: u64| label(Decode::Syscall, &slot.to_ne_bytes()).expect("always has a name");
        assert_eq!((name(0), name(39)), ("read".to_owned(), "getpid".to_owned()));
        assert_eq!(name(SYSCALL_SLOTS + 64), "getppid");
        assert_eq!(name(511), "sys_511");
        assert_eq!(name(SYSCALL_INVALID), "invalid");
        assert_eq!(label(Decode::SyscallAbi, &512u64.to_ne_bytes()), Ok("compat".to_owned()));
        assert_eq!(label(Decode::SyscallAbi, &511u64.to_ne_bytes()), Ok("native".to_owned()));
        assert_eq!(syscall_slots("exit_group").collect::<Vec<u64>>(), [231, 512 + 252]);
    }

    #[test]
    fn error_numbers_are_named_as_in_manual_pages() {
        let name = |n: u32| label(Decode::Errno, &n.to_ne_bytes());
        assert_eq!(name(2), Ok("ENOENT".to_owned()));
        assert_eq!(name(11), Ok("EAGAIN".to_owned()));
        assert_eq!(name(512), Ok("ERESTARTSYS".to_owned()));
        assert_eq!(name(0), Ok("other".to_owned()));
        assert_eq!(name(4000), Err("unknown:4000".to_owned()));
    }

    #[test]
    fn addresses_are_those_that_people_write() {
        let mapped = Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 0x0001]).octets();
        assert_eq!(label(Decode::Address, &mapped), Ok("10.0.0.1".to_owned()));
        assert_eq!(label(Decode::Address, &Ipv6Addr::LOCALHOST.octets()), Ok("::1".to_owned()));
        assert_eq!(label(Decode::Address, &[0; 16]), Ok("other".to_owned()));
    }

    #[test]
    fn a_name_is_never_taken_for_what_found_no_room() {
        let name = |name: &str| label(Decode::Text, format!("{name}\0").as_bytes()).expect("a name");
        assert_eq!(name(FOLDED), "other");
        assert_eq!([name("other"), name("\\other")], ["\\other", "\\\\other"]);
        for same in ["", "others", "another", "tank", "\\", "\\tank", "oth\\er"] {
            assert_eq!(name(same), same);
        }
    }

    #[test]
    fn control_groups_that_are_not_found_are_gone() {
        assert_eq!(label(Decode::Cgroup, &u64::MAX.to_ne_bytes()), Ok("gone".to_owned()));
        assert_eq!(label(Decode::Cgroup, &0u64.to_ne_bytes()), Ok("other".to_owned()));
    }
}
