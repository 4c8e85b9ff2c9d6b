// SPDX-License-Identifier: MIT OR Apache-2.0
//! A scrape of a per-CPU map with 10,000 series, from map to text, beside a plain C loop
//! that only reads it. Fails when the scrape takes more than twice as long.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a panic ends a bench as well")]

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use common::exposition::encode::{Format, encode};
use common::exposition::metric::Families;
use common::read::layout::{Field, Layout, Layouts, MapLayout};
use common::read::maps::LiveMaps;
use common::read::render::{Renderer, Unknown};
use common::read::roster::Rosters;
use common::spec::{Decode, MapSpec, Spec};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

const SERIES: u32 = 10_000;
const ROUNDS: usize = 30;

fn main() {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
        ..Default::default()
    };
    let map = MapHandle::create(MapType::PercpuHash, Some("bench"), 40, 8, SERIES, &options)
        .expect("a map: run as root");
    let cpus = libbpf_rs::num_possible_cpus().unwrap();
    for n in 0..SERIES {
        let mut key = format!("device-{n}").into_bytes();
        key.resize(40, 0);
        let values = vec![u64::from(n).to_ne_bytes().to_vec(); cpus];
        map.update_percpu(&key, &values, MapFlags::ANY).unwrap();
    }

    let field = |width, length| Field { offset: 0, width, length, is_signed: false };
    let layout = |name: &str, size, field| Layout {
        size,
        fields: [(name.to_owned(), field)].into(),
        ..Layout::default()
    };
    let key = layout("disk", 40, field(1, 40));
    let layouts: Layouts =
        [("bench".to_owned(), MapLayout { key, value: layout("n", 8, field(8, 1)) })].into();
    let spec = Spec::new("bench", 1, "").map(
        MapSpec::new("bench").label("device", "disk", Decode::Text).counter("bench_total", "n", "A counter."),
    );
    let renderer = Renderer::new(&spec, &layouts, &BTreeSet::new()).unwrap();
    let maps = LiveMaps::single("bench", &map).unwrap();

    let mut best = u128::MAX;
    let mut text = String::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut families = Families::default();
        renderer.render(&maps, &Rosters::new(), None, &mut families, &mut Unknown::default()).unwrap();
        text = encode(families, Format::Text);
        best = best.min(start.elapsed().as_nanos());
    }
    assert_eq!(text.lines().count(), SERIES as usize + 2);
    assert!(text.contains(&format!("device-9999\"}} {}\n", 9999 * cpus)));

    let (plain, total) = plain_loop(&map, cpus);
    assert_eq!(total, u64::from(SERIES) * u64::from(SERIES - 1) / 2 * cpus as u64);
    let ratio = best as f64 / plain as f64;
    println!("scrape of {SERIES} per-CPU series, fastest of {ROUNDS}:");
    println!("  plain C loop, reading only   {:>8.2} ms", plain as f64 / 1e6);
    println!("  our scrape, map to text      {:>8.2} ms, {ratio:.2} times", best as f64 / 1e6);
    assert!(ratio <= 2.0, "more than twice the time of the plain loop");
}

/// Runs the C program. Returns its fastest time in nanoseconds and the sum of all values.
fn plain_loop(map: &MapHandle, cpus: usize) -> (u64, u64) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/plain_loop.c");
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plain_loop");
    let status = Command::new("cc").args(["-O2", "-o"]).arg(&binary).arg(source).status().unwrap();
    assert!(status.success());
    // The copy is not close-on-exec, so that the C program inherits it.
    let shared = rustix::io::dup(map.as_fd()).unwrap();
    let output = Command::new(binary)
        .args([shared.as_raw_fd().to_string(), cpus.to_string(), ROUNDS.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.split_whitespace().map(|n| n.parse().unwrap());
    (numbers.next().expect("a time"), numbers.next().expect("a sum"))
}
