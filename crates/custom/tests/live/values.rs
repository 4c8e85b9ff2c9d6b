// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values: histograms, CPUs, metrics without labels, metrics of two configs.

use std::collections::BTreeMap;
use std::thread;

use live::exposition::Exposition;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::folder::{Folder, trigger};

/// Buckets of a series by `le`, and its sum and count.
fn histogram(scrape: &Exposition, name: &str, labels: &[(&str, &str)]) -> (BTreeMap<String, f64>, f64, f64) {
    let bucket = format!("{name}_bucket");
    let mut buckets = BTreeMap::new();
    for found in scrape.labels(&bucket) {
        if labels.iter().all(|(name, value)| found.get(*name).map(String::as_str) == Some(*value)) {
            let mut all = labels.to_vec();
            all.push(("le", found["le"].as_str()));
            buckets.insert(found["le"].clone(), scrape.get(&bucket, &all).unwrap());
        }
    }
    let value = |suffix: &str| scrape.get(&format!("{name}_{suffix}"), labels).unwrap();
    (buckets, value("sum"), value("count"))
}

#[live::test]
fn histograms_of_all_kinds_count_what_was_observed() {
    let folder = Folder::of(&["hist"]);
    let exporter = folder.start(&[]);
    for (times, value) in [(7, 0), (11, 3), (13, 1_000_000)] {
        (0..times).for_each(|_| trigger(0, value));
    }
    let scrape = exporter.scrape();
    let name = "ebpf_exporter_hist_exp2_seconds";
    let (odd, sum, count) = histogram(&scrape, name, &[("operation", "odd")]);
    assert_eq!((odd.len(), odd["2e-06"], odd["4e-06"], odd["+Inf"]), (29, 0.0, 11.0, 11.0), "{odd:?}");
    assert_eq!((sum, count), (33.0 * 0.000_001, 11.0));
    let (even, sum, count) = histogram(&scrape, name, &[("operation", "even")]);
    assert_eq!((even["1e-06"], even["0.524288"], even["1.048576"]), (7.0, 7.0, 20.0), "{even:?}");
    assert_eq!((sum, count), (13.0, 20.0));
    let (zero, sum, count) = histogram(&scrape, "ebpf_exporter_hist_exp2zero_items", &[]);
    // A million is in the last bucket, as the program puts it there.
    assert_eq!((zero["0"], zero["1"], zero["2"], zero["4"], zero["512"]), (7.0, 7.0, 7.0, 18.0, 31.0));
    assert_eq!((sum, count), (13_000_033.0, 31.0));
    let (percpu, sum, count) = histogram(&scrape, "ebpf_exporter_hist_percpu_items", &[]);
    assert_eq!((percpu["1"], percpu["4"], percpu["1024"]), (7.0, 18.0, 31.0), "{percpu:?}");
    assert_eq!((sum, count), (13_000_033.0, 31.0));
    let (large, _, count) = histogram(&scrape, "ebpf_exporter_hist_large_bytes", &[]);
    // Slots below the first bucket are counted nowhere: 0 and 3 are in slots 0 and 2.
    assert_eq!(
        (large["8"], large["524288"], large["1.048576e+06"], count),
        (0.0, 0.0, 13.0, 13.0),
        "{large:?}"
    );
    let (linear, sum, count) = histogram(&scrape, "ebpf_exporter_hist_linear_items", &[]);
    assert_eq!((linear["0"], linear["950"], linear["1000"]), (18.0, 18.0, 31.0), "{linear:?}");
    assert_eq!((sum, count), (0.0, 31.0));
    let (fixed, sum, count) = histogram(&scrape, "ebpf_exporter_hist_fixed_items", &[]);
    // Counted in the order of the config, which is 10, 1, 100.
    assert_eq!((fixed["10"], fixed["1"], fixed["100"], count), (11.0, 18.0, 31.0, 31.0), "{fixed:?}");
    assert_eq!(sum, 13_000_033.0);
}

#[live::test]
fn values_of_each_cpu_are_shown_or_added_up() {
    let folder = Folder::of(&["percpu"]);
    let exporter = folder.start(&[]);
    let cpus = thread::available_parallelism().unwrap().get();
    for cpu in 0..cpus {
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut set = CpuSet::new();
                set.set(cpu);
                sched_setaffinity(None, &set).unwrap();
                (0..=cpu).for_each(|_| trigger(1, 99));
            });
        });
    }
    let scrape = exporter.scrape();
    for cpu in 0..cpus {
        let (expected, cpu) = (7.0 * (cpu + 1) as f64, cpu.to_string());
        let get = |name: &str, labels: &[(&str, &str)]| scrape.get(name, labels);
        let array = "ebpf_exporter_percpu_array_total";
        assert_eq!(get(array, &[("slot", "1"), ("cpu", &cpu)]), Some(expected));
        assert_eq!(get(array, &[("slot", "0"), ("cpu", &cpu)]), Some(0.0));
        assert_eq!(get("ebpf_exporter_percpu_only_total", &[("cpu", &cpu)]), Some(expected));
        let lru = get("ebpf_exporter_percpu_lru_total", &[("key", "99"), ("cpu", &cpu)]);
        assert_eq!(lru, Some(expected));
    }
    let all = 7.0 * (cpus * (cpus + 1) / 2) as f64;
    assert_eq!(scrape.get("ebpf_exporter_percpu_added_total", &[("slot", "1")]), Some(all));
    assert_eq!(scrape.get("ebpf_exporter_percpu_hash_total", &[("key", "99")]), Some(all));
}

#[live::test]
fn a_metric_without_labels_needs_one_row() {
    let folder = Folder::of(&["plain"]);
    let exporter = folder.start(&[]);
    trigger(0, 0);
    let scrape = exporter.scrape();
    assert_eq!(scrape.get("ebpf_exporter_plain_total", &[]), Some(11.0));
    assert_eq!(scrape.get("ebpf_exporter_plain_pair_total", &[]), None, "an array of two has two rows");
    assert_eq!(scrape.get("ebpf_exporter_decoder_errors_total", &[("config", "plain")]), Some(1.0));
    assert_eq!(
        exporter.scrape().get("ebpf_exporter_decoder_errors_total", &[("config", "plain")]),
        Some(1.0)
    );
}

#[live::test]
fn of_equal_series_of_two_configs_the_first_is_shown() {
    let folder = Folder::of(&["plain", "plain_other"]);
    let exporter = folder.start(&["--config.names=plain,plain_other"]);
    trigger(0, 0);
    let scrape = exporter.scrape();
    let shared = |key: &str| scrape.get("ebpf_exporter_plain_shared_total", &[("key", key)]);
    assert_eq!((shared("1"), shared("2"), shared("0")), (Some(3.0), Some(5.0), Some(3.0)));
    let errors = scrape.get("ebpf_exporter_decoder_errors_total", &[("config", "plain_other")]);
    assert_eq!(errors, Some(1.0), "the second config's row is not shown, and that is counted");
    for config in ["plain", "plain_other"] {
        assert_eq!(scrape.get("ebpf_exporter_enabled_configs", &[("name", config)]), Some(1.0));
    }
}
