// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests of which the programs see one end only, or the start of one and the end of the next.

use std::time::Duration;

use live::WithoutUdev;
use live::block::{self, Device};
use live::exporter::Exporter;
use live::exposition;

use crate::Delta;

const READS: u64 = 200;

/// A read takes less, and the time between the uses of a request that the tests compare is longer.
const LONGEST: (&str, Duration) = ("1048576", Duration::from_micros(1_100_000));

fn start() -> (Exporter, Device) {
    (Exporter::start("diskio", &["--ebpf.preempts", "false"]), block::fast())
}

/// As many as that the requests of the device are used again and again.
fn reads(device: &Device) {
    assert_eq!(block::direct_reads(device, READS, 4096), 0);
}

/// Waits so long that a latency from before is longer than any other.
fn pause() {
    std::thread::sleep(LONGEST.1);
}

/// Reads between two scrapes, and how many of them are no longer than a read takes.
fn between([before, after]: [exposition::Exposition; 2], device: &Device) -> (f64, f64, f64) {
    let delta = Delta(exposition::Delta(before, after));
    let lost = delta.0.of("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
    (delta.ios(&device.name, "read"), delta.up_to(LONGEST.0, &device.name, "read"), lost)
}

#[live::test]
fn a_request_whose_end_is_lost_leaves_no_start_to_the_next() {
    let (exporter, device) = start();
    let _alone = WithoutUdev::now();
    let complete = exporter.deafen("rq_complete_btf");
    reads(&device);
    let _complete = complete.attach();
    pause();
    let before = exporter.scrape();
    reads(&device);
    let exact = READS as f64;
    assert_eq!(between([before, exporter.scrape()], &device), (exact, exact, 0.0));
}

#[live::test]
fn a_request_whose_start_is_lost_has_no_latency() {
    let (exporter, device) = start();
    let _alone = WithoutUdev::now();
    reads(&device);
    let _deaf = ["rq_insert_btf", "rq_issue_btf"].map(|program| exporter.deafen(program));
    pause();
    let before = exporter.scrape();
    reads(&device);
    let (ios, _, lost) = between([before, exporter.scrape()], &device);
    assert_eq!(ios, 0.0);
    assert!(lost >= READS as f64, "{lost} lost");
}

#[live::test]
fn the_start_of_one_request_and_the_end_of_the_next_make_no_latency() {
    let (exporter, device) = start();
    let _alone = WithoutUdev::now();
    let complete = exporter.deafen("rq_complete_btf");
    reads(&device);
    let _deaf = ["rq_insert_btf", "rq_issue_btf"].map(|program| exporter.deafen(program));
    let _complete = complete.attach();
    pause();
    let before = exporter.scrape();
    reads(&device);
    let (ios, _, lost) = between([before, exporter.scrape()], &device);
    assert_eq!(ios, 0.0);
    assert!(lost >= READS as f64, "{lost} lost");
}
