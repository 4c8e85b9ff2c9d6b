// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys: what the decoders make of bytes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use crate::folder::{Folder, said, trigger};

/// Metric, labels and value.
type Row<'r> = (&'r str, &'r [(&'r str, &'r str)], f64);

/// Values of `what` in keys.bpf.c.
const FIXED: u64 = 0;
const DEVICE: u64 = 1;
const CGROUP: u64 = 2;
const SYMBOL: u64 = 3;

#[live::test]
fn every_decoder_makes_the_text_of_ebpf_exporter() {
    let folder = Folder::of(&["keys"]);
    let (log, exporter) = folder.start_and_read(&[]);
    trigger(FIXED, 0);
    let scrape = exporter.scrape();
    let rows: &[Row] = &[
        ("u8", &[("key", "7")], 2.0),
        ("port", &[("port", "443")], 3.0),
        ("padded", &[("first", "5"), ("second", "70000")], 5.0),
        ("u64", &[("key", "18446744073709551615")], 7.0),
        ("wide", &[("key", "0102ab00000000000000000000000000")], 11.0),
        ("long", &[("path", "/a/long/path")], 13.0),
        ("uints", &[("eight", "4294967296"), ("four", "65536"), ("two", "256"), ("one", "1")], 17.0),
        ("words", &[("known", "read"), ("allowed", "read"), ("none", "empty mapping")], 2.0),
        ("words", &[("known", "unknown:9"), ("allowed", "9"), ("none", "empty mapping")], 3.0),
        ("regexp", &[("key", "123")], 5.0),
        ("regexp_group", &[("key", "1")], 11.0),
        ("errno", &[("errno", "unknown:0")], 2.0),
        ("errno", &[("errno", "ENOENT")], 3.0),
        ("errno", &[("errno", "unknown:58")], 5.0),
        ("errno", &[("errno", "ENOTSUP")], 7.0),
        ("errno", &[("errno", "unknown:512")], 11.0),
        ("ip", &[("v4", "127.0.0.1"), ("v6", "::1")], 13.0),
        ("ip", &[("v4", "10.1.2.3"), ("v6", "192.0.2.1")], 17.0),
        ("dname", &[("dname", "example.com")], 17.0),
        ("dname", &[("dname", ".")], 19.0),
        ("dname", &[("dname", "?example")], 23.0),
        ("ifname", &[("ifname", "lo")], 19.0),
        ("ifname", &[("ifname", "unknown:999999")], 23.0),
    ];
    for (name, labels, expected) in rows {
        let name = format!("ebpf_exporter_keys_{name}_total");
        assert_eq!(
            scrape.get(&name, labels),
            Some(*expected),
            "{name} {labels:?} {:?}",
            scrape.labels(&name)
        );
    }
    assert_eq!(scrape.labels("ebpf_exporter_keys_regexp_total").len(), 1, "a row without match is left out");
    assert!(scrape.labels("ebpf_exporter_keys_regexp_groups_total").is_empty(), "two groups are no match");
    assert!(scrape.labels("ebpf_exporter_keys_uint3_total").is_empty(), "no number has three bytes");
    assert!(log.contains("keys_uint3_total is left out"), "{log}");
    let errors = scrape.get("ebpf_exporter_decoder_errors_total", &[("config", "keys")]);
    assert_eq!(errors, Some(0.0));
    let strict = folder.run(&["--check"]);
    assert_eq!(strict.status.code(), Some(1), "{}", said(&strict));
    assert!(said(&strict).contains("1 mistake in a config:"), "{}", said(&strict));
    if cfg!(target_arch = "x86_64") {
        for (syscall, expected) in
            [("poll_time64", 29.0), ("futex_time64", 31.0), ("exit", 37.0), ("unknown_syscall:462", 41.0)]
        {
            let found = scrape.get("ebpf_exporter_keys_syscall_total", &[("syscall", syscall)]);
            assert_eq!(found, Some(expected), "{syscall}");
        }
    }
}

#[live::test]
fn symbols_and_cgroups_have_the_names_that_the_kernel_gives_them() {
    let folder = Folder::of(&["keys"]);
    let exporter = folder.start(&[]);
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap();
    let function = symbols.lines().find_map(|line| line.strip_suffix(" T vfs_read")).unwrap();
    let address = u64::from_str_radix(function, 16).unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
    let mount = mounts.iter().find(|mount| Path::new(mount).join("cgroup.procs").exists()).unwrap();
    let path = format!("{mount}{}", own.trim_end_matches('/'));
    trigger(SYMBOL, address);
    trigger(CGROUP, fs::metadata(&path).unwrap().ino());
    trigger(CGROUP, 1 << 40);
    trigger(DEVICE, (3 << 8) | (0xff_u64 << 20) | 0xff);
    let scrape = exporter.scrape();
    let symbol = |symbol: &str| scrape.get("ebpf_exporter_keys_ksym_total", &[("symbol", symbol)]);
    assert_eq!(symbol("vfs_read"), Some(61.0));
    assert_eq!(symbol(&format!("unknown_addr:0x{:x}", address + 1)), Some(67.0));
    let stacks = scrape.labels("ebpf_exporter_keys_kstack_total");
    assert_eq!(stacks.len(), 1);
    assert!(stacks[0]["stack"].starts_with("vfs_read"), "{stacks:?}");
    let cgroup = |cgroup: &str| scrape.get("ebpf_exporter_keys_cgroup_total", &[("cgroup", cgroup)]);
    assert_eq!((cgroup(&path), cgroup("unknown_cgroup_id:1099511627776")), (Some(59.0), Some(59.0)));
    let device = scrape.get("ebpf_exporter_keys_device_total", &[("device", "unknown:3:65535")]);
    assert_eq!(device, Some(53.0), "{:?}", scrape.labels("ebpf_exporter_keys_device_total"));
}

#[live::test]
fn names_of_any_bytes_are_shown_and_told_apart() {
    let folder = Folder::of(&["bytes"]);
    let exporter = folder.start(&[]);
    for name in [&b"\xff\xfe\""[..], b"a|b\nc", b"\xe6\x97"] {
        let named = move || {
            let mut bytes = name.to_vec();
            bytes.push(0);
            // SAFETY: the name ends with a NUL.
            unsafe { libc::prctl(libc::PR_SET_NAME, bytes.as_ptr()) };
            trigger(0, 0);
        };
        thread::spawn(named).join().unwrap();
    }
    let scrape = exporter.scrape();
    for comm in ["\\xff\\xfe\"", "a|b\nc", "\\xe6\\x97"] {
        let found = scrape.get("ebpf_exporter_bytes_total", &[("comm", comm), ("kind", "a|b")]);
        assert_eq!(found, Some(29.0), "{comm:?} {:?}", scrape.labels("ebpf_exporter_bytes_total"));
    }
}
