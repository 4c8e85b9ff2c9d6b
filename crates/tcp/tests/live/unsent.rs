// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connects that send no SYN, or send it later.

use std::io::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use live::exporter::Exporter;
use live::net::{Cable, inside};
use live::sh;
use socket2::{Domain, Socket, Type};

use crate::{RIGHT, measure, measure_with, serve, start};

/// Longer than any connect here takes by itself.
const LONG: Duration = Duration::from_millis(600);

fn socket() -> Socket {
    Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
}

/// Sets an option of TCP to 1.
fn set(socket: &Socket, option: i32) {
    let (one, size) = (1_i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the descriptor is open, and `one` is as long as is said.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const one).cast(), size)
    };
    assert_eq!(result, 0, "{}", Error::last_os_error());
}

/// A socket whose connect() leaves the SYN to the first write, also to servers not known yet.
fn deferring() -> Socket {
    sh("ip netns exec left sh -ec 'echo 5 > /proc/sys/net/ipv4/tcp_fastopen'");
    let socket = socket();
    set(&socket, libc::TCP_FASTOPEN_CONNECT);
    socket
}

#[live::test]
fn connects_that_send_no_syn_have_a_reason_of_their_own() {
    let _cable = Cable::new("");
    let listener = inside("right", || TcpListener::bind((RIGHT, 0)).unwrap());
    let target = listener.local_addr().unwrap().into();
    let from_the_same_port = || {
        let socket = socket();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::new(10, 99, 0, 1), 23456)).into()).unwrap();
        socket.connect(&target).map(|()| socket)
    };
    let delta = measure(|| {
        inside("left", || {
            let _first = from_the_same_port().unwrap();
            for _ in 0..23 {
                let error = from_the_same_port().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
            }
            for _ in 0..17 {
                deferring().connect(&target).unwrap();
            }
        });
    });
    let failed = |reason| delta.of("ebpf_tcp_connect_failures_total", &[("reason", reason)]);
    assert_eq!((failed("not_sent"), failed("aborted")), (40.0, 0.0), "{delta:?}");
}

#[live::test]
fn a_connection_that_is_restored_is_not_opened() {
    let _cable = Cable::new("");
    // Up to 6.8, kprobes are used in a PID namespace.
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--fork", "--kill-child", "--mount-proc", "ebpf-tcp-exporter"]);
    for exporter in [start(&[]), Exporter::spawn(&mut apart)] {
        let delta = measure_with(&exporter, || {
            inside("left", || {
                for _ in 0..13 {
                    let restored = socket();
                    set(&restored, libc::TCP_REPAIR);
                    restored.connect(&SocketAddr::from((RIGHT, 9)).into()).unwrap();
                }
            });
        });
        assert!(delta.of("ebpf_tcp_closes_total", &[]) >= 13.0, "{delta:?}");
        // The scrapes' own.
        assert!(delta.of("ebpf_tcp_connect_seconds_count", &[]) < 13.0, "{delta:?}");
    }
}

#[live::test]
fn the_time_of_a_connect_begins_with_the_syn() {
    let _cable = Cable::new("");
    let exporter = start(&[]);
    let page = exporter.scrape();
    let attached = |program| page.count("ebpf_exporter_ebpf_program_attached", &[("program", program)]);
    let hooked = attached("connect_fentry") + attached("connect_kprobe");
    let delta = measure_with(&exporter, || {
        serve(RIGHT, 11, |target| {
            let sockets: Vec<_> = (0..11)
                .map(|_| {
                    let socket = deferring();
                    socket.connect(&target.into()).unwrap();
                    socket
                })
                .collect();
            // This time must not count.
            std::thread::sleep(LONG);
            for socket in sockets {
                assert_eq!(socket.send(b"x").unwrap(), 1);
            }
        });
    });
    let connects = delta.of("ebpf_tcp_connect_seconds_count", &[]);
    let quick = delta.of("ebpf_tcp_connect_seconds_bucket", &[("le", "0.5")]);
    assert_eq!(connects, quick, "{delta:?}");
    // The scrapes' own are fewer.
    assert_eq!(connects >= 11.0, hooked > 0.0, "{connects} observed");
}
