// SPDX-License-Identifier: MIT OR Apache-2.0
//! Retransmits that the kernel counts and runs no program for.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use live::net::{Cable, inside, snmp};
use live::sh;
use live::truth::between;

use crate::{TRUTH, ours, start, unseen};

#[live::test]
fn a_retransmit_that_no_program_saw_is_counted_and_is_no_failure() {
    let _cable = Cable::new("");
    let target = Ipv4Addr::new(10, 99, 0, 100);
    sh(&format!("ip -n left neigh add {target} lladdr 02:00:00:00:00:01 dev cable nud permanent"));
    let exporter = start(&["--ebpf.preempts", "false"]);
    let _retransmit = exporter.deafen("retransmit_btf");
    let (delta, kernel) = between(
        &exporter,
        || snmp(TRUTH),
        || {
            // The SYN is retransmitted after one second.
            let target = SocketAddr::from((target, 9));
            inside("left", || TcpStream::connect_timeout(&target, Duration::from_millis(1800)).unwrap_err());
        },
    );
    println!("{TRUTH:?}: {:?}, the kernel {kernel:?}", ours(&delta));
    let [_, _, retransmits, _, _, _, _, syn, failures] = ours(&delta);
    assert_eq!((retransmits, kernel[2].clone()), (1.0, 1.0..=1.0));
    assert_eq!((syn, unseen(&delta)), (0.0, 1.0));
    assert_eq!((failures, kernel[8].clone()), (0.0, 0.0..=0.0));
    let destination = [("destination", "10.99.0.100")];
    assert_eq!(delta.of("ebpf_tcp_retransmits_by_dest_total", &destination), 1.0);
}
