// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections of programs, addresses of symbols, and the hook after attaching.

use std::fs::{self, File};
use std::io::Read;
use std::process::Command;

use live::bpf_programs;
use live::exporter::{Exporter, until};
use live::exposition::Exposition;
use rustix::fs::FallocateFlags;

use crate::folder::{Folder, bytes, said, trigger};
use crate::target::{self, Runnable};

/// What each program adds at a call.
const ROWS: [(&str, f64); 29] = [
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
    ("kretprobe_multi", 67.0),
    ("kretsyscall", 71.0),
    ("raw_tp_writable", 73.0),
    ("uprobe_multi", 79.0),
    ("uretprobe_multi", 83.0),
    ("fmod_ret", 97.0),
    ("lsm", 89.0),
    ("uprobe_sleepable", 101.0),
    ("iter_sleepable", 103.0),
    // At its entry, and at its return, which is yet to come of a read that waits.
    ("kprobe_session", 107.0),
    ("uprobe_session", 2.0 * 109.0),
];

/// Programs that run at each call, and at no other time.
const EXACT: [&str; 16] = [
    "kprobe",
    "ksyscall",
    "kretsyscall",
    "raw_tp",
    "raw_tp_writable",
    "tp",
    "tp_btf",
    "uprobe",
    "uretprobe",
    "uprobe_multi",
    "uretprobe_multi",
    "uprobe_sleepable",
    "uprobe_session",
    "usdt",
    "fmod_ret",
    "lsm",
];

/// Programs that run at each call, and when others read files.
const AT_READS: [&str; 7] =
    ["kprobe_offset", "kretprobe", "kprobe_multi", "kretprobe_multi", "kprobe_session", "fentry", "fexit"];

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
fn count_all((log, exporter): &(String, Exporter), must_be_attached: &[&str]) {
    let file = tempfile::tempfile().unwrap();
    let runnable = Runnable::new();
    for _ in 0..CALLS {
        trigger(0, 0);
        // SAFETY: it only asks for a number.
        unsafe { libc::getpgid(std::process::id().cast_signed()) };
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1).unwrap();
        File::open("/proc/self/stat").unwrap().read_exact(&mut [0]).unwrap();
        assert_eq!(target::custom_test_function(5), 5);
        target::pass_probe(41);
        runnable.run();
    }
    let scrape = exporter.scrape();
    for program in must_be_attached {
        assert_eq!(is_attached(&scrape, program), Some(true), "{program}:\n{log}");
    }
    for (program, prime) in ROWS {
        let (attached, counted) = (is_attached(&scrape, program), row(&scrape, program));
        match (program, attached) {
            ("optional", found) => assert_eq!((found, counted), (None, None), "nobody asked for it"),
            // Attached, and nobody reads it.
            ("iter" | "iter_sleepable", Some(true)) | (_, Some(false)) => {
                assert_eq!(counted, None, "{program}")
            }
            ("lsm", Some(true)) if !asks_programs() => assert_eq!(counted, None, "{program}"),
            (_, Some(true)) if EXACT.contains(&program) => {
                assert_eq!(counted, Some(prime * f64::from(CALLS)), "{program}");
            }
            // Those run at other times, too: other threads read, the clock ticks, packets pass.
            (_, Some(true)) => until(exporter.port(), program, |scrape| {
                let calls = row(scrape, program).unwrap_or_default() / prime;
                calls.fract() == 0.0 && calls >= 1.0
            }),
            (_, None) => panic!("{program} is not listed"),
        }
        if AT_READS.contains(&program) && attached == Some(true) {
            assert!(counted >= Some(prime * f64::from(CALLS)), "{program}: {counted:?}");
        }
    }
    assert_eq!(is_attached(&scrape, "cgroup_skb"), Some(false), "it would need a control group");
}

/// Whether the kernel asks programs of section `lsm`.
fn asks_programs() -> bool {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    modules.split(',').any(|module| module.trim() == "bpf")
}

#[live::test]
fn each_section_counts_or_is_not_attached() {
    let folder = Folder::of(&["sections"]);
    count_all(&folder.start_and_read(&[]), &["raw_tp", "raw_tp_writable", "tp_btf", "iter"]);
}

// As on a kernel that preempts programs.
#[live::test(copies)]
fn programs_attached_several_times_count_each_call_once() {
    let folder = Folder::of(&["sections"]);
    let exporter = folder.start_and_read(&["--ebpf.preempts", "true"]);
    assert_eq!(bpf_programs().into_iter().filter(|name| name == "sections_tp_btf").count(), 3);
    count_all(&exporter, &["raw_tp", "tp_btf"]);
}

#[live::test(uprobes)]
fn sections_of_user_space_count_each_call() {
    let folder = Folder::of(&["sections"]);
    count_all(&folder.start_and_read(&[]), &["uprobe", "uretprobe"]);
}

// Before 5.15 libbpf attaches them to programs that are linked to a fixed address only.
#[live::test(uprobes, kernel_with("bpf_get_attach_cookie_pe"))]
fn a_probe_of_user_space_counts_each_call() {
    let folder = Folder::of(&["sections"]);
    count_all(&folder.start_and_read(&[]), &["usdt"]);
}

#[live::test(fentry, kprobes)]
fn sections_of_functions_count_each_call() {
    let folder = Folder::of(&["sections"]);
    let all = [
        "kprobe",
        "kprobe_offset",
        "kretprobe",
        "ksyscall",
        "kretsyscall",
        "fentry",
        "fexit",
        "fmod_ret",
        "raw_tp",
        "tp",
        "tp_btf",
        "perf_event",
    ];
    count_all(&folder.start_and_read(&[]), &all);
}

#[live::test(fprobes)]
fn sections_of_several_functions_count_each_call() {
    let folder = Folder::of(&["sections"]);
    count_all(&folder.start_and_read(&[]), &["kprobe_multi", "kretprobe_multi"]);
}

#[live::test]
fn programs_without_a_place_are_loaded_and_the_log_says_why() {
    let folder = Folder::of(&["unattached", "plain"]);
    let (log, exporter) = folder.start_and_read(&[]);
    let scrape = exporter.scrape();
    let name = "ebpf_exporter_ebpf_program_attached";
    let programs: Vec<_> =
        scrape.labels(name).into_iter().filter(|one| one["config"] == "unattached").collect();
    assert_eq!(programs.len(), 13);
    for program in programs.into_iter().map(|labels| labels["program"].as_str()) {
        if program == "unattached_triggered" {
            continue;
        }
        let labels = &[("config", "unattached"), ("program", program)];
        assert_eq!(scrape.get(name, labels), Some(0.0), "{program}");
        let info = scrape.get("ebpf_exporter_ebpf_program_info", labels);
        assert_eq!(info, Some(1.0), "{program} is not loaded:\n{log}");
        assert!(log.contains(&format!("unattached:{program}")), "{program} is not in the log:\n{log}");
    }
    for words in [
        "libbpf does not attach programs of section cgroup/dev",
        "interface no-such-device",
        "type 1, config 99 on CPU 0",
        "no-such-program",
    ] {
        assert!(log.contains(words), "{words} is not in the log:\n{log}");
    }
    trigger(0, 0);
    assert_eq!(exporter.scrape().get("ebpf_exporter_plain_total", &[]), Some(11.0), "the other config runs");
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

#[live::test]
fn an_address_that_is_hidden_is_an_error_that_names_the_capability() {
    let folder = Folder::of(&["kaddr"]);
    // Not every kernel has symbols of variables.
    let yaml = String::from_utf8(bytes("kaddr.yaml")).unwrap();
    folder.write("kaddr.yaml", yaml.replace("jiffies, ", "").as_bytes());
    // The kernel shows zeros to a process without the capability. Where it shows the addresses to all, as
    // with kernel.perf_event_paranoid below 2, the config is right.
    let output = Command::new("setpriv")
        .args(["--bounding-set=-syslog", "ebpf-custom-exporter", "--check", "--config.dir"])
        .arg(folder.path())
        .output()
        .unwrap();
    let words = said(&output);
    let shown = words.contains("kaddr:kaddr_triggered: ok");
    let why = "the address of kernel symbol `vfs_read` is hidden: start as root or with CAP_SYSLOG";
    assert!(shown || words.contains(why), "{words}");
}
