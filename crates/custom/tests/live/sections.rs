// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections of programs, addresses of symbols, and the hook after attaching.

use std::fs::{self, File};
use std::io::Read;

use live::exporter::{Exporter, until};
use live::exposition::Exposition;

use crate::folder::{Folder, said, trigger};

/// What each program adds whenever it runs.
const ROWS: [(&str, f64); 18] = [
    ("kprobe", 2.0),
    ("kprobe_offset", 3.0),
    ("kretprobe", 5.0),
    ("kprobe_multi", 7.0),
    ("ksyscall", 11.0),
    ("fentry", 13.0),
    ("fexit", 17.0),
    ("raw_tp", 19.0),
    ("tp", 23.0),
    ("tp_btf", 29.0),
    ("uprobe", 31.0),
    ("uretprobe", 37.0),
    ("usdt", 41.0),
    ("perf_event", 43.0),
    ("xdp", 47.0),
    ("iter", 53.0),
    ("optional", 59.0),
    ("cgroup_skb", 61.0),
];

/// How often the functions with probes are called.
const CALLS: u32 = 7;

fn is_attached(scrape: &Exposition, program: &str) -> Option<bool> {
    let name = format!("sections_{program}");
    let labels = &[("config", "sections"), ("program", name.as_str())];
    scrape.get("ebpf_exporter_ebpf_program_attached", labels).map(|attached| attached == 1.0)
}

fn row(scrape: &Exposition, section: &str) -> Option<f64> {
    scrape.get("ebpf_exporter_sections_total", &[("section", section)])
}

/// Calls all functions with probes, and compares what the attached programs counted.
fn count_all(exporter: &Exporter, must_be_attached: &[&str]) {
    for _ in 0..CALLS {
        trigger(0, 0);
        // SAFETY: it only asks for a number.
        unsafe { libc::getpgid(0) };
        File::open("/proc/self/stat").unwrap().read_exact(&mut [0]).unwrap();
    }
    let scrape = exporter.scrape();
    for program in must_be_attached {
        assert_eq!(is_attached(&scrape, program), Some(true), "{program}");
    }
    for (program, prime) in ROWS {
        let (attached, counted) = (is_attached(&scrape, program), row(&scrape, program));
        match (program, attached) {
            ("optional", found) => assert_eq!((found, counted), (None, None), "nobody asked for it"),
            // Attached, and nobody reads it.
            ("iter", Some(true)) | (_, Some(false)) => assert_eq!(counted, None, "{program}"),
            ("raw_tp" | "tp" | "tp_btf" | "kprobe" | "ksyscall", Some(true)) => {
                assert_eq!(counted, Some(prime * f64::from(CALLS)), "{program}");
            }
            // Those run at other times, too: other threads read, the clock ticks, packets pass.
            (_, Some(true)) => until(exporter.port(), program, |scrape| {
                let calls = row(scrape, program).unwrap_or_default() / prime;
                calls.fract() == 0.0 && calls >= 1.0
            }),
            (_, None) => panic!("{program} is not listed"),
        }
        if ["kprobe_offset", "kretprobe", "kprobe_multi", "fentry", "fexit"].contains(&program)
            && attached == Some(true)
        {
            assert!(counted >= Some(prime * f64::from(CALLS)), "{program}: {counted:?}");
        }
    }
    assert_eq!(is_attached(&scrape, "cgroup_skb"), Some(false), "it would need a control group");
    assert_eq!(is_attached(&scrape, "usdt"), Some(false), "there is no such program");
}

#[live::test]
fn each_section_counts_or_is_not_attached() {
    let folder = Folder::of(&["sections"]);
    count_all(&folder.start(&[]), &["raw_tp", "tp_btf", "iter"]);
}

#[live::test(fentry, kprobes)]
fn sections_of_functions_count_each_call() {
    let folder = Folder::of(&["sections"]);
    let all =
        ["kprobe_offset", "kretprobe", "ksyscall", "fentry", "fexit", "raw_tp", "tp", "tp_btf", "perf_event"];
    count_all(&folder.start(&[]), &all);
}

// Kernels without kprobes may have no symbols of variables either.
#[live::test(kprobes)]
fn addresses_are_given_to_programs_and_the_hook_runs_once() {
    let folder = Folder::of(&["kaddr"]);
    let exporter = folder.start(&[]);
    trigger(0, 0);
    let scrape = exporter.scrape();
    let at = |symbol: &str| scrape.get("ebpf_exporter_kaddr_total", &[("symbol", symbol)]);
    let data = fs::read_to_string("/proc/kallsyms").unwrap();
    let has_data = data.lines().any(|line| line.ends_with(" jiffies"));
    assert_eq!(at("vfs_read"), Some(7.0), "{:?}", scrape.labels("ebpf_exporter_kaddr_total"));
    // jiffies_64 may have the same address.
    assert!(has_data && (at("jiffies").or(at("jiffies_64")) == Some(5.0)));
    assert_eq!(scrape.get("ebpf_exporter_kaddr_mark_total", &[]), Some(1.0));
    for (config, words) in [("kaddr_no_symbol", "no_such_symbol"), ("kaddr_no_variable", "kaddr_vfs_write")] {
        let refused = Folder::of(&[config]).run(&["--check"]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains(words), "{}", said(&refused));
    }
}
