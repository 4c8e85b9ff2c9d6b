// SPDX-License-Identifier: MIT OR Apache-2.0
//! What other exporters end for: missing hooks, churn, odd types, mistakes in files.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use live::work::Stop;

use crate::folder::{Folder, bytes, said, trigger};

#[live::test]
fn a_missing_hook_costs_that_program_only() {
    let folder = Folder::of(&["partial", "bytes"]);
    let (log, exporter) = folder.start_and_read(&[]);
    trigger(0, 0);
    let scrape = exporter.scrape();
    assert_eq!(scrape.get("ebpf_exporter_partial_total", &[]), Some(17.0));
    assert_eq!(scrape.labels("ebpf_exporter_bytes_total").len(), 1, "the other config runs");
    let name = "ebpf_exporter_ebpf_program_attached";
    for (program, attached) in [
        ("partial_good", 1.0),
        ("partial_no_function", 0.0),
        ("partial_no_tracepoint", 0.0),
        ("partial_refused", 0.0),
    ] {
        let labels = &[("config", "partial"), ("program", program)];
        assert_eq!(scrape.get(name, labels), Some(attached), "{program}");
        assert!(attached == 1.0 || log.contains(program), "{program} is not in the log:\n{log}");
    }
    for reason in ["no_such_function", "no_such_tracepoint"] {
        assert!(log.contains(reason), "{log}");
    }
    drop(exporter);
    let strict = folder.run(&["--config.strict", "--check"]);
    let words = said(&strict);
    assert_eq!(strict.status.code(), Some(1), "{words}");
    assert!(words.contains("partial:partial_refused") && !words.contains("partial_good,"), "{words}");
    let check = folder.run(&["--config.check"]);
    assert_eq!(check.status.code(), Some(0), "{}", said(&check));
    assert!(said(&check).contains("partial:partial_good: ok"), "{}", said(&check));
}

#[live::test]
fn a_map_that_the_kernel_does_not_have_costs_that_config_only() {
    let folder = Folder::of(&["odd_kind", "bytes"]);
    let (log, exporter) = folder.start_and_read(&[]);
    trigger(0, 0);
    let scrape = exporter.scrape();
    assert_eq!(scrape.labels("ebpf_exporter_bytes_total").len(), 1, "the other config runs");
    assert!(scrape.labels("ebpf_exporter_odd_kind_total").is_empty());
    let labels = &[("config", "odd_kind"), ("program", "odd_kind_triggered")];
    assert_eq!(scrape.get("ebpf_exporter_ebpf_program_attached", labels), Some(0.0));
    assert!(log.contains("config odd_kind is left out") && log.contains("odd_kind_unknown"), "{log}");
    drop(exporter);
    let strict = folder.run(&["--config.strict", "--check"]);
    let words = said(&strict);
    assert_eq!(strict.status.code(), Some(1), "{words}");
    assert!(words.contains("odd_kind:odd_kind_triggered"), "{words}");
    // Where nothing is left, it does not run.
    let alone = folder.run(&["--config.names=odd_kind"]);
    assert_eq!(alone.status.code(), Some(1), "{}", said(&alone));
    assert!(said(&alone).contains("config odd_kind: the object cannot be loaded"), "{}", said(&alone));
}

#[live::test]
fn types_do_not_matter_and_names_are_free() {
    let folder = Folder::of(&["odd_maps", "odd_twin"]);
    let exporter = folder.start(&[]);
    trigger(0, 0);
    let scrape = exporter.scrape();
    for (name, key, value) in [
        ("odd_pointer_total", "3412000000000000", 2.0),
        ("odd_union_total", "5", 3.0),
        ("odd_bits_total", "33", 5.0),
        ("odd_structs_total", "0100020003000400", 7.0),
        ("odd_sizes_total", "sixteen bytes", 17.0),
        ("events", "1", 11.0),
        ("start", "1", 13.0),
    ] {
        assert_eq!(scrape.get(&format!("ebpf_exporter_{name}"), &[("key", key)]), Some(value), "{name}");
    }
    for config in ["odd_value4", "odd_value16"] {
        let refused = Folder::of(&[config]).run(&["--check"]);
        let words = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{words}");
        assert!(words.contains(config) && words.contains(&format!("{config}_total")), "{words}");
    }
}

#[live::test]
fn a_value_may_be_a_member() {
    let folder = Folder::of(&["odd_maps"]);
    let yaml = "metrics:
  counters:
    - {name: member_total, help: A member, map: odd_value16_total, member: second,
       labels: [{name: key, size: 4, decoders: [{name: uint}]}]}
  gauges:
    - {name: member_items, help: Another, map: odd_value16_total, member: first,
       labels: [{name: key, size: 4, decoders: [{name: uint}]}]}
";
    folder.write("odd_maps.yaml", yaml.as_bytes());
    let exporter = folder.start(&[]);
    trigger(0, 0);
    let scrape = exporter.scrape();
    assert_eq!(scrape.get("ebpf_exporter_member_total", &[("key", "0")]), Some(2.0));
    assert_eq!(scrape.get("ebpf_exporter_member_items", &[("key", "0")]), Some(20.0));
}

#[live::test]
fn gauges_of_signed_members_go_below_zero() {
    let folder = Folder::of(&["members"]);
    let exporter = folder.start(&[]);
    trigger(0, 0);
    let scrape = exporter.scrape();
    for (name, value) in [("level", -17.0), ("balance", -5.0), ("offset", -7.0)] {
        let name = format!("ebpf_exporter_members_{name}");
        assert_eq!(scrape.get(&name, &[("key", "0")]), Some(value), "{name}");
    }
}

#[live::test]
fn members_that_are_no_number_are_refused_and_others_of_the_value_are_not() {
    let yaml = String::from_utf8(bytes("members.yaml")).unwrap();
    for (member, why) in [
        ("slots", "member `slots`: it is 4 numbers of 32 bits"),
        ("pointer", "`pointer` is of BTF kind Ptr, neither a number"),
        ("high", "`high` is a bit field"),
        ("other", "no member `other`; there are: balance, count, offset, slots"),
    ] {
        let folder = Folder::of(&["members"]);
        let member = format!("member: {member}");
        folder.write("members.yaml", yaml.replace("member: offset", &member).as_bytes());
        let refused = folder.run(&["--check"]);
        let words = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{words}");
        assert!(words.contains(why), "{member}: {words}");
    }
}

#[live::test(kernel_with("bpf_loop"))]
fn what_did_not_change_is_deleted_at_its_age() {
    let folder = Folder::of(&["churn"]);
    let yaml = String::from_utf8(bytes("churn.yaml")).unwrap();
    let aged = yaml.replacen("name: churn_total", "max_age: 1s\n      name: churn_total", 1);
    assert_ne!(yaml, aged);
    folder.write("churn.yaml", aged.as_bytes());
    let exporter = folder.start(&[]);
    trigger(3, 100);
    let shown = |key: &str| exporter.scrape().get("ebpf_exporter_churn_total", &[("key", key)]);
    assert_eq!(shown("100"), Some(31.0));
    live::wait_until("entries that did not change are gone", Duration::from_secs(60), || {
        // This one changes at each look.
        trigger(1, 102);
        shown("100").is_none() && shown("101").is_none()
    });
    assert!(shown("102").is_some(), "it changed since");
}

#[live::test(kernel_with("bpf_loop"))]
fn a_map_whose_metric_is_left_out_is_left_alone() {
    let folder = Folder::of(&["churn"]);
    let yaml = String::from_utf8(bytes("churn.yaml")).unwrap();
    let aged = yaml.replacen("name: churn_total", "max_age: 1ms\n      name: churn_total", 1);
    folder.write("churn.yaml", aged.replacen("size: 8", "size: 4", 1).as_bytes());
    let (log, exporter) = folder.start_and_read(&[]);
    assert!(log.contains("the keys of map `churn_total` have 8"), "{log}");
    trigger(3, 100);
    let scrape = exporter.scrape();
    assert_eq!(scrape.get("ebpf_exporter_churn_made_total", &[]), Some(3.0));
    let read = scrape.labels("ebpf_exporter_map_entries");
    assert!(read.is_empty(), "it is read, so its keys grow old: {read:?}");
}

// Each entry is made by a program, which takes an emulator long.
#[live::test(once, kernel_with("bpf_loop"))]
fn no_family_is_missing_and_no_value_too_great_while_entries_come_and_go() {
    let folder = Folder::of(&["churn"]);
    let exporter = folder.start(&[]);
    // Entries that the first scrape finds.
    trigger(10_000, 0);
    let (ended, made) = (AtomicBool::new(false), AtomicU64::new(10_000));
    thread::scope(|scope| {
        let _ended = Stop(&ended);
        let (ended, made) = (&ended, &made);
        scope.spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let first = made.fetch_add(10_000, Ordering::AcqRel);
                trigger(10_000, first);
            }
        });
        let begun = Instant::now();
        for n in 0..200 {
            let scrape = exporter.scrape();
            let counted = scrape.get("ebpf_exporter_churn_made_total", &[]);
            assert!(counted.is_some(), "scrape {n}");
            let mut keys = BTreeSet::new();
            for (labels, value) in scrape.samples("ebpf_exporter_churn_total") {
                assert!(value == 31.0 || value == 0.0, "scrape {n}: {labels:?} {value}");
                assert!(keys.insert(&labels["key"]), "scrape {n}: {labels:?} twice");
            }
            // An LRU of 1,000 frees 128 entries at once.
            assert!(keys.len() > 500, "scrape {n}: {} entries", keys.len());
        }
        let rate = made.load(Ordering::Acquire) as f64 / begun.elapsed().as_secs_f64();
        println!("{rate:.0} entries were made a second");
    });
    let counted = exporter.scrape().get("ebpf_exporter_churn_made_total", &[]);
    assert_eq!(counted, Some(made.load(Ordering::Acquire) as f64));
}

#[live::test]
fn mistakes_are_named_with_their_place() {
    let folder = Folder::of(&["plain"]);
    let refused = |flags: &[&str], words: &[&str]| {
        let begun = Instant::now();
        let output = folder.run(flags);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?} are not all in:\n{said}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{said}");
    };
    refused(&["--config.names=missing"], &["missing.yaml"]);
    folder.write("plain.yaml", b"metrics:\n  counters:\n    - {name: a_total}\n");
    refused(&["--check"], &["plain.yaml:3", "help"]);
    folder.write("plain.yaml", b"metrics:\n  counters:\n    - {name: a_total, help: A}\n");
    refused(&["--check"], &["plain", "a_total"]);
    folder.write("plain.bpf.o", b"no object");
    refused(&["--check"], &["plain.bpf.o"]);
    let empty = Folder::of(&[]);
    let output = empty.run(&["--check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("there is no config in"), "{}", said(&output));
}

#[live::test]
fn two_configs_with_other_labels_for_one_metric_are_refused() {
    let folder = Folder::of(&["plain", "plain_refused"]);
    let output = folder.run(&["--check"]);
    assert_eq!(output.status.code(), Some(1));
    let words = said(&output);
    assert!(words.contains("plain_shared_total") && words.contains("plain_refused"), "{words}");
}
