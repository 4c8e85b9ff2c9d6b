// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of which the programs see one end only.

use live::exporter::Exporter;
use live::exposition::Exposition;
use live::sh;
use live::wireguard::{Tunnel, statistic};

use crate::{PACKETS, settle};

fn start() -> Exporter {
    sh("modprobe wireguard");
    Exporter::start("wireguard", &["--wireguard.detail", "packet", "--ebpf.preempts", "false"])
}

/// Messages that the left end sent by now, the exporter's number and the kernel's; and what was lost.
fn sent(exporter: &Exporter) -> [f64; 3] {
    settle();
    let text: Exposition = exporter.scrape();
    let ours = text.count(PACKETS, &[("netns", "left"), ("direction", "tx")]);
    let lost = text.count("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
    [ours, statistic("left", "tx_packets"), lost]
}

/// How much that has grown during `work`.
fn grown(exporter: &Exporter, work: impl FnOnce()) -> [f64; 3] {
    let before = sent(exporter);
    work();
    let after = sent(exporter);
    [0, 1, 2].map(|n| after[n] - before[n])
}

#[live::test(reattach, module("wireguard"), tool("wg"))]
fn a_message_whose_end_is_lost_leaves_no_start_to_the_next() {
    let exporter = start();
    let tunnel = Tunnel::new("");
    let exchange = |count| tunnel.exchange("left", "right", "10.98.0.2", count);
    exchange(1);
    let end = exporter.deafen("send_fexit");
    let [ours, kernel, _] = grown(&exporter, || exchange(5));
    assert!(ours == 0.0 && kernel >= 5.0, "{ours} sent, the interface {kernel}");
    let _end = end.attach();
    let [ours, kernel, lost] = grown(&exporter, || exchange(7));
    assert!(ours == kernel && kernel >= 7.0, "{ours} sent, the interface {kernel}");
    assert!(lost >= 1.0, "{lost} lost");
}

#[live::test(reattach, module("wireguard"), tool("wg"))]
fn a_message_whose_start_is_lost_is_not_counted() {
    let exporter = start();
    let tunnel = Tunnel::new("");
    let exchange = |count| tunnel.exchange("left", "right", "10.98.0.2", count);
    exchange(1);
    let start = exporter.deafen("send_fentry");
    let [ours, kernel, lost] = grown(&exporter, || exchange(5));
    assert!(ours == 0.0 && kernel >= 5.0, "{ours} sent, the interface {kernel}");
    assert!(lost >= kernel, "{lost} lost, the interface sent {kernel}");
    let _start = start.attach();
    let [ours, kernel, _] = grown(&exporter, || exchange(7));
    assert!(ours == kernel && kernel >= 7.0, "{ours} sent, the interface {kernel}");
}
