// SPDX-License-Identifier: MIT OR Apache-2.0
//! The port of an exporter, from its spec and a base, and the process that holds it if it is in
//! use: `/proc/net/tcp` lists the socket, `/proc/PID/fd` the process.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use caps::Capability;

use crate::kernel::permissions;
use crate::spec::Spec;

/// Environment variable that moves the default ports of all exporters: it replaces 9100 as the number
/// that they count from. Units read it from one file, so that one setting moves all, by one distance:
/// 9101 and 9435 become 19101 and 19435 with 19100.
pub const BASE: &str = "EBPF_EXPORTERS_PORT_BASE";

/// A base for examples, which no other program is known to use.
pub const EXAMPLE: u16 = 19100;

/// The base of the ports in specs.
const OWN_BASE: u16 = 9100;

/// The port of the exporter that `spec` describes, with `base` instead of 9100; `None` if that is not
/// a valid port.
pub fn moved(spec: &Spec, base: u16) -> Option<u16> {
    let port = i32::from(spec.port) - i32::from(OWN_BASE) + i32::from(base);
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// The port to listen on if no address is given and [`BASE`] is `base`.
///
/// # Errors
/// When `base` is not a valid base; the error is a message for the user.
pub fn of(spec: &Spec, base: Option<&OsStr>) -> Result<u16, String> {
    let Some(base) = base.filter(|base| !base.is_empty()) else { return Ok(spec.port) };
    let text = base.to_string_lossy();
    let number = Some(&text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|text| text.parse().ok()).filter(|number| *number > 0);
    number.and_then(|number| moved(spec, number)).ok_or_else(|| {
        format!(
            "{BASE}={text}: must be a number from 1 to {}, such as {EXAMPLE}, with which this exporter listens \
             on port {}",
            u16::MAX - spec.port.saturating_sub(OWN_BASE),
            moved(spec, EXAMPLE).unwrap_or(EXAMPLE)
        )
    })
}

/// The kernel keeps this many bytes of a process's name.
const COMM_LEN: usize = 15;

/// A socket that blocks the port.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    address: SocketAddr,
    listens: bool,
    user: u32,
    inode: u64,
}

/// The process that holds the address `wanted`, or why it is not known. Follows "taken by" in a
/// message.
pub fn by_whom(wanted: SocketAddr) -> String {
    let mut held = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        held.extend(text.lines().filter_map(parse).filter(|held| conflicts(held.address, wanted)));
    }
    held.sort_by_key(|held| !held.listens);
    let Some(held) = held.first() else { return "a socket that /proc/net/tcp does not show".to_owned() };
    match holder(Path::new("/proc"), held.inode) {
        Holder::Process(pid) if pid == std::process::id() => "this process, for another address".to_owned(),
        Holder::Process(pid) => format!("{} (pid {pid})", name(&PathBuf::from(format!("/proc/{pid}")))),
        // With CAP_SYS_PTRACE every process is visible, even if /proc hides others.
        Holder::Nobody if permissions::has(Capability::CAP_SYS_PTRACE) => {
            format!("a socket of user {}, which belongs to the kernel or to another PID namespace", held.user)
        }
        Holder::Nobody | Holder::Closed => format!(
            "a process of user {} that this process may not inspect (run ss -ltnp as root to see it)",
            held.user
        ),
    }
}

/// Parses a line of `/proc/net/tcp` or `/proc/net/tcp6`; `None` for the heading.
fn parse(line: &str) -> Option<Held> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, state, _, _, _, user, _, inode, ..] = fields[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    Some(Held {
        address: SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?),
        // TCP_LISTEN.
        listens: state == "0A",
        user: user.parse().ok()?,
        inode: inode.parse().ok()?,
    })
}

/// Parses an address: words of 32 bits in the machine's byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = hex.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?).into())
        }
        _ => None,
    }
}

/// Whether listening on one of them prevents listening on the other.
fn conflicts(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && (covers(a, b) || covers(b, a))
}

/// The process that has a socket open.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// The first one found, among the processes that this one may inspect.
    Process(u32),
    /// None of the processes that this one may inspect; others could not be inspected.
    Closed,
    Nobody,
}

fn holder(proc: &Path, inode: u64) -> Holder {
    let name = format!("socket:[{inode}]");
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let mut nobody = Holder::Nobody;
    for pid in pids {
        let files = match fs::read_dir(proc.join(pid.to_string()).join("fd")) {
            Ok(files) => files,
            // The process has ended in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => {
                nobody = Holder::Closed;
                continue;
            }
        };
        let mut targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        if targets.any(|target| target == Path::new(&name)) {
            return Holder::Process(pid);
        }
    }
    nobody
}

/// The name of a process. If the kernel truncated it, the name of its program.
fn name(process: &Path) -> String {
    let comm = fs::read(process.join("comm")).unwrap_or_default();
    let comm = String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(&comm)).into_owned();
    let program = fs::read_link(process.join("exe")).ok();
    let program =
        program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    program.filter(|program| comm.len() == COMM_LEN && program.starts_with(&comm)).unwrap_or(comm)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::symlink;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_base_moves_ports_of_all_ranges_by_one_distance() {
        let custom = Spec::new("custom", 9435, "");
        assert_eq!(moved(&Spec::new("diskio", 9101, ""), EXAMPLE), Some(19101));
        assert_eq!(moved(&custom, EXAMPLE), Some(19435));
        assert_eq!((moved(&custom, 65200), moved(&custom, 65201)), (Some(65535), None));
        let said = of(&custom, Some(OsStr::new("65201"))).expect_err("no port");
        assert!(said.contains("from 1 to 65200"), "{said}");
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = "   3: 0100007F:238D 00000000:0000 0A 00000000:00000000 00:00000000 00000000   113        0 \
                    4711 1 0000000000000000 100 0 0 10 0";
        let held = Held { address: address("127.0.0.1:9101"), listens: true, user: 113, inode: 4711 };
        assert_eq!(parse(line), Some(held));
        let line = "   0: 00000000000000000000000001000000:238E 00000000000000000000000000000000:0000 01 \
                    00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0";
        let held = Held { address: address("[::1]:9102"), listens: false, user: 0, inode: 12 };
        assert_eq!(parse(line), Some(held));
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        assert_eq!(parse(heading), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn an_address_of_all_conflicts_with_each() {
        for (one, other, expected) in [
            ("127.0.0.1:9101", "127.0.0.1:9101", true),
            ("127.0.0.1:9101", "127.0.0.1:9102", false),
            ("127.0.0.1:9101", "127.0.0.2:9101", false),
            ("0.0.0.0:9101", "127.0.0.2:9101", true),
            ("[::]:9101", "127.0.0.2:9101", true),
            ("[::]:9101", "0.0.0.0:9101", true),
            ("[::]:9101", "[::1]:9101", true),
            ("0.0.0.0:9101", "[::1]:9101", false),
            ("[::ffff:127.0.0.1]:9101", "127.0.0.1:9101", true),
        ] {
            assert_eq!(conflicts(address(one), address(other)), expected, "{one} {other}");
            assert_eq!(conflicts(address(other), address(one)), expected, "{other} {one}");
        }
    }

    #[test]
    fn the_first_process_that_has_it_open_is_found_among_those_that_hide() {
        let proc = tempfile::tempdir().expect("a temporary folder");
        for (pid, target) in
            [("12", "socket:[8]"), ("117", "socket:[7]"), ("9", "pipe:[7]"), ("1002", "socket:[7]")]
        {
            let folder = proc.path().join(pid).join("fd");
            fs::create_dir_all(&folder).expect("made");
            symlink(target, folder.join("3")).expect("made");
        }
        fs::create_dir_all(proc.path().join("5")).expect("made");
        fs::create_dir_all(proc.path().join("net")).expect("made");
        assert_eq!(holder(proc.path(), 7), Holder::Process(117));
        assert_eq!(holder(proc.path(), 9), Holder::Nobody);
        // A directory that cannot be read as one stands for one that may not be read.
        fs::create_dir(proc.path().join("4")).expect("made");
        fs::write(proc.path().join("4/fd"), "").expect("written");
        assert_eq!(holder(proc.path(), 7), Holder::Process(117));
        assert_eq!(holder(proc.path(), 9), Holder::Closed);
    }

    #[test]
    fn a_name_that_the_kernel_cut_is_that_of_the_program() {
        let process = tempfile::tempdir().expect("a temporary folder");
        let is = |comm: &[u8], expected: &str| {
            fs::write(process.path().join("comm"), comm).expect("written");
            assert_eq!(name(process.path()), expected);
        };
        symlink("/usr/bin/ebpf-diskio-exporter", process.path().join("exe")).expect("made");
        is(b"ebpf-diskio-exp\n", "ebpf-diskio-exporter");
        is(b"ebpf\n", "ebpf");
        is(b"mysqld_exporter\n", "mysqld_exporter");
        is(b"a\xff\n", "a\u{fffd}");
    }

    #[test]
    fn a_listener_of_this_process_is_known_as_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        assert_eq!(by_whom(address), "this process, for another address");
        drop(listener);
        assert_eq!(by_whom(address), "a socket that /proc/net/tcp does not show");
    }
}
