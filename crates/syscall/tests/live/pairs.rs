// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls of which the programs see one end only.

use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::Delta;

use crate::{assert_durations, wait_for_semaphore, waits};

const PAIR: [&str; 3] = ["--ebpf.preempts", "false", "--syscall.latency"];

/// Waits of this length are those that the programs see; others are longer.
const SEEN: Duration = Duration::from_millis(200);

/// Longer than a wait that is seen takes on a busy machine.
const UNSEEN: Duration = Duration::from_millis(900);

/// One wait was seen from its start to its end.
fn assert_one_wait(delta: &Delta) {
    assert_eq!(waits(delta).0, 1.0);
    assert_durations(delta, SEEN.as_micros() as f64, UNSEEN.as_micros() as f64);
}

#[live::test]
fn a_call_whose_end_is_lost_leaves_no_start_to_the_next() {
    let exporter = Exporter::start("syscall", &PAIR);
    let before = exporter.scrape();
    let exit = exporter.deafen("exit_btf");
    wait_for_semaphore(1, UNSEEN);
    let _exit = exit.attach();
    wait_for_semaphore(1, SEEN);
    let delta = Delta(before, exporter.scrape());
    assert_one_wait(&delta);
    let lost = delta.of("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
    assert!(lost >= 1.0, "{lost} lost");
}

#[live::test]
fn a_call_whose_start_is_lost_has_no_latency() {
    let exporter = Exporter::start("syscall", &PAIR);
    let before = exporter.scrape();
    wait_for_semaphore(1, SEEN);
    let enter = exporter.deafen("enter_btf");
    wait_for_semaphore(1, UNSEEN);
    let _enter = enter.attach();
    assert_one_wait(&Delta(before, exporter.scrape()));
}
