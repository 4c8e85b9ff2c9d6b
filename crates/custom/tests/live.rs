// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads and attaches objects of the kind that users have.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    dead_code,
    unused_imports,
    reason = "a panic is a test's way to fail"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::kernel::refusal;
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use live::{bpf_programs, wait_until};
use object::{Object, ObjectSection};
use regex::bytes::Regex;

#[path = "../src/cgroup_map.rs"]
mod cgroup_map;
#[path = "../src/config/mod.rs"]
mod config;
#[path = "../src/objects/mod.rs"]
mod objects;

use cgroup_map::{INTERVAL, Watch};
use config::{CgroupIdMap, CgroupMapKind, Config, Metric, Source, Span};
use objects::mark::post_attach_mark;
use objects::{Attachment, Loaded};

/// A system call that no other program makes: `tee` on invalid descriptors.
const CALL: i64 = libc::SYS_tee;

/// Compiles `tests/bpf/NAME.bpf.c`.
fn object(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bpf");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.bpf.o"));
    let mut clang = Command::new("clang-14");
    clang.args(["-target", "bpf", "-O2", "-Wall", "-Werror", "-c", "-o"]).arg(&out);
    if name != "no_btf" {
        clang.arg("-g");
    }
    let status = clang.arg(folder.join(format!("{name}.bpf.c"))).status().expect("clang-14");
    assert!(status.success(), "{name} does not compile");
    out
}

/// A config without metrics that sets the test's own two variables.
fn plain() -> Config {
    refusal::listen();
    Config {
        name: "test".to_owned(),
        kaddrs: vec!["tgid".to_owned(), "call".to_owned()],
        ..Config::default()
    }
}

fn symbols(symbol: &str) -> Option<u64> {
    match symbol {
        "tgid" => Some(std::process::id().into()),
        "call" => Some(CALL as u64),
        "hidden" => Some(0),
        "zero" | "initialised" | "other" | "short" | "absent" => Some(1 << 40),
        _ => None,
    }
}

fn load(path: &Path, config: &Config) -> anyhow::Result<Loaded> {
    objects::load(path, config, None, &symbols)
}

fn map(loaded: &Loaded, name: &str) -> MapHandle {
    let map = loaded.object.maps().find(|map| map.name() == name).expect(name);
    MapHandle::try_from(&map).unwrap()
}

/// A slot of the map `counts`.
fn counted(loaded: &Loaded, slot: u32) -> u64 {
    let value = map(loaded, "counts").lookup(&slot.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
    u64::from_ne_bytes(value.try_into().unwrap())
}

fn call(times: u32) {
    for _ in 0..times {
        // SAFETY: it has no pointers.
        assert_eq!(unsafe { libc::syscall(CALL, -1, -1, 1, 0) }, -1);
    }
}

fn by_name(results: Vec<Attachment>) -> BTreeMap<String, Result<(), String>> {
    results.into_iter().map(|attachment| (attachment.program, attachment.result)).collect()
}

/// Asserts that a program is not attached, for a reason with this text.
#[track_caller]
fn assert_refused(results: &BTreeMap<String, Result<(), String>>, program: &str, words: &str) {
    let why = results[program].as_ref().expect_err(program);
    println!("{program}: {why}");
    assert!(why.contains(words), "{program}: {why}");
}

#[live::test(tool("clang-14"))]
fn a_program_that_cannot_be_loaded_costs_only_itself() {
    let before = bpf_programs().len();
    let mut loaded = load(&object("partial"), &plain()).unwrap();
    let names: Vec<&str> = loaded.programs.iter().map(|program| &*program.name).collect();
    assert_eq!(names, ["missing_function", "missing_tracepoint", "good", "rejected"]);
    assert_eq!(loaded.results()[2].result, Err("not attached yet".to_owned()));
    let results = by_name(loaded.attach());
    assert_refused(&results, "missing_function", "no_such_function_here");
    assert_refused(&results, "missing_tracepoint", "no_such_tracepoint_here");
    assert_refused(&results, "rejected", "verifier: ");
    assert_eq!(results["good"], Ok(()));
    call(103);
    assert_eq!(counted(&loaded, 0), 103);
    for program in &loaded.programs {
        let Some(loaded) = &program.loaded else { continue };
        assert_eq!((&*program.name, loaded.tag.len()), ("good", 16));
        assert!(loaded.id > 0);
    }
    drop(loaded);
    wait_until("they are gone", Duration::from_secs(30), || bpf_programs().len() <= before);
}

#[live::test(tool("clang-14"))]
fn each_section_attaches_or_says_why_not() {
    let mut loaded = load(&object("sections"), &plain()).unwrap();
    let results = by_name(loaded.attach());
    for program in ["btf_tracepoint", "raw_tracepoint", "samples", "packets"] {
        assert_eq!(results[program], Ok(()), "{program}");
    }
    assert_refused(&results, "unknown_item", "\"period\" is unknown");
    assert_refused(&results, "no_such_event", "config 9999 on CPU 0");
    assert_refused(&results, "no_such_interface", "interface nosuchif0");
    assert_refused(
        &results,
        "packets_of_group",
        "libbpf does not attach programs of section cgroup_skb/ingress",
    );
    let kprobes = Path::new("/sys/bus/event_source/devices/kprobe").exists();
    assert_refused(&results, "missing_function", if kprobes { "no function" } else { "no kprobes" });
    assert_refused(&results, "unknown_section", "no_such_section/x");
    let cpus = common::kernel::perf::online_cpus().unwrap().len();
    for program in &loaded.programs {
        let links = if program.name == "samples" { cpus } else { 1 };
        assert_eq!(program.links.len(), if program.attached.is_ok() { links } else { 0 }, "{}", program.name);
    }
    call(107);
    assert_eq!((counted(&loaded, 0), counted(&loaded, 1)), (107, 107));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..11 {
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        socket.recv(&mut [0]).unwrap();
    }
    assert!(counted(&loaded, 3) >= 11, "{} packets", counted(&loaded, 3));
    // The event is a clock of the CPU: it runs while the CPU does.
    wait_until("there are samples", Duration::from_secs(30), || counted(&loaded, 2) > 0);
    if Path::new("/sys/bus/event_source/devices/uprobe").exists() {
        assert_eq!((&results["mark"], counted(&loaded, 4)), (&Ok(()), 0));
        post_attach_mark();
        assert_eq!(counted(&loaded, 4), 1);
    }
    let links = interface();
    drop(loaded);
    wait_until("the interface has no program", Duration::from_secs(30), || interface() != links);
}

/// What `ip link` says of the interface, with its program.
fn interface() -> String {
    live::sh("ip link show lo")
}

#[live::test(tool("clang-14"))]
fn variables_of_all_sections_are_set() {
    let path = object("variables");
    let kaddrs = ["tgid", "zero", "initialised", "other"].map(str::to_owned).into();
    let mut loaded = load(&path, &Config { kaddrs, ..plain() }).unwrap();
    assert_eq!(loaded.attach()[0].result, Ok(()));
    call(1);
    assert_eq!(counted(&loaded, 0), u64::from(std::process::id()) + (3 << 40));

    for (symbol, words) in [
        ("short", "`kaddr_short` has 4 bytes, not 8"),
        ("absent", "no variable `kaddr_absent`"),
        ("hidden", "no variable `kaddr_hidden`"),
    ] {
        let error = load(&path, &Config { kaddrs: vec![symbol.to_owned()], ..plain() }).expect_err(symbol);
        let text = format!("{error:#}");
        assert!(text.contains(words) && text.contains(&*path.to_string_lossy()), "{text}");
    }
    let hidden = |symbol: &str| (symbol == "tgid").then_some(0);
    let error = objects::load(&path, &plain(), None, &hidden).expect_err("no address");
    assert!(format!("{error:#}").contains("CAP_SYSLOG"), "{error:#}");
    let error = objects::load(&path, &plain(), None, &|_| None).expect_err("no symbol");
    assert!(format!("{error:#}").contains("no symbol `tgid`"), "{error:#}");
    let error =
        objects::load(&path, &plain(), Some(Path::new("/no/such.btf")), &symbols).expect_err("no BTF");
    assert!(format!("{error:#}").contains("/no/such.btf"), "{error:#}");
}

#[live::test(tool("clang-14"))]
fn an_object_without_btf_has_variables_too() {
    let kaddrs = vec!["zero".to_owned()];
    let mut loaded = load(&object("no_btf"), &Config { kaddrs, ..plain() }).unwrap();
    assert_eq!(loaded.attach()[0].result, Ok(()));
    let section = map(&loaded, "no_btf.rodata");
    let contents = section.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
    assert_eq!(contents, [1u64.to_ne_bytes(), (1u64 << 40).to_ne_bytes()].concat());
}

#[live::test(tool("clang-14"))]
fn maps_that_do_not_fit_the_config_are_named() {
    let path = object("variables");
    let metric = |map: &str, member: Option<&str>| {
        let source = Source::Map { map: map.to_owned(), member: member.map(str::to_owned) };
        let counters = vec![Metric { name: "x".to_owned(), source, line: 12, ..Metric::default() }];
        Config { counters, ..plain() }
    };
    let ring = |map: &str| {
        let spans = vec![Span { ringbuf: map.to_owned(), line: 12, ..Span::default() }];
        Config { spans, ..plain() }
    };
    let groups = |map: &str, kind| {
        let groups = CgroupIdMap { map: map.to_owned(), kind, line: 12, ..CgroupIdMap::default() };
        Config { cgroup_id_map: Some(groups), ..plain() }
    };
    for (config, words) in [
        (metric("nothing", None), "no map `nothing`"),
        (metric("nothing", None), "its maps are counts, halves, pairs, records"),
        (metric("pairs", None), "`pairs` have 16 bytes, not 8"),
        (metric("halves", None), "`halves` have 4 bytes, not 8"),
        (ring("counts"), "`counts` is no ring buffer"),
        (ring("nothing"), "no map `nothing`"),
        (groups("halves", CgroupMapKind::Hash), "keys of 4 bytes and values of 4, not 8 and 8"),
        (groups("counts", CgroupMapKind::CgrpStorage), "`counts` is no cgroup storage"),
        (groups("counts", CgroupMapKind::Hash), "`counts` is no hash"),
    ] {
        let error = load(&path, &config).expect_err(words);
        let text = format!("{error:#}");
        println!("{text}");
        assert!(text.contains(words) && text.contains("test.yaml:12"), "{text}");
        assert!(text.contains(&*path.to_string_lossy()), "{text}");
    }
    load(&path, &metric("pairs", Some("second"))).unwrap();
    load(&path, &metric("counts", None)).unwrap();
    load(&path, &ring("records")).unwrap();
}

#[live::test(tool("clang-14"))]
fn objects_cut_anywhere_are_refused() {
    let whole = fs::read(object("partial")).unwrap();
    let cut = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cut.bpf.o");
    // At the start and end of each part, and at other places.
    let file = object::File::parse(&*whole).unwrap();
    let parts = file.sections().filter_map(|section| section.file_range());
    let ends = parts.flat_map(|(start, size)| [start as usize, (start + size) as usize]);
    let ends = ends.flat_map(|end| [end.saturating_sub(1), end, end + 1]);
    let lengths = ends.chain((0..whole.len()).step_by(41)).chain([whole.len() - 1]);
    for length in lengths.filter(|length| *length < whole.len()) {
        fs::write(&cut, &whole[..length]).unwrap();
        let error = load(&cut, &plain()).expect_err("a part is missing");
        let text = format!("{error:#}");
        assert!(text.contains("cut.bpf.o is no usable BPF object"), "{length} bytes: {text}");
    }
    fs::write(&cut, &whole).unwrap();
    load(&cut, &plain()).unwrap();
}

#[live::test(tool("clang-14"))]
fn names_that_are_not_utf8_are_shown_as_far_as_they_are() {
    let mut bytes = fs::read(object("variables")).unwrap();
    // In the debug information and in BTF.
    let places = bytes.windows(11).enumerate().filter(|(_, word)| word == b"max_entries");
    for place in places.map(|(place, _)| place).collect::<Vec<_>>() {
        bytes[place] = 0xff;
    }
    let broken = Path::new(env!("CARGO_TARGET_TMPDIR")).join("broken.bpf.o");
    fs::write(&broken, bytes).unwrap();
    let error = load(&broken, &plain()).expect_err("libbpf knows no such field");
    let text = format!("{error:#}");
    assert!(text.contains("unknown field '\u{fffd}ax_entries'") && text.contains("broken.bpf.o"), "{text}");
}

/// Ids of the cgroups in the map.
fn groups(loaded: &Loaded) -> Vec<u64> {
    let mut ids: Vec<u64> =
        map(loaded, "groups").keys().map(|key| u64::from_ne_bytes(key.try_into().unwrap())).collect();
    ids.sort_unstable();
    ids
}

fn id(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().ino()
}

fn watch(loaded: &Loaded, map: &str, kind: CgroupMapKind) -> Watch {
    let spec =
        CgroupIdMap { map: map.to_owned(), kind, regexps: vec!["custom-live-.*x$".to_owned()], line: 3 };
    let root = live::cgroup::root().unwrap();
    Watch::new(&spec, &loaded.object, &root, |pattern| Ok(Regex::new(pattern)?)).unwrap()
}

#[live::test(tool("clang-14"), cgroup2)]
fn matching_cgroups_are_in_the_map_while_they_exist() {
    let mut loaded = load(&object("groups"), &plain()).unwrap();
    assert_eq!(loaded.attach()[0].result, Ok(()));
    let root = live::cgroup::root().unwrap();
    for events in [true, false] {
        let old = live::cgroup::Group::new("custom-live-old-x");
        let mut watch = watch(&loaded, "groups", CgroupMapKind::Hash);
        let old_id = id(&root.join("custom-live-old-x"));
        assert_eq!(groups(&loaded), [old_id]);
        if !events {
            watch.without_inotify(&std::io::Error::other("a test"));
        }
        // The first call watches for nothing new.
        watch.run_once();
        let outer = live::cgroup::Group::new("custom-live-new");
        let inner = live::cgroup::Group::new("custom-live-new/custom-live-x");
        let other = live::cgroup::Group::new("custom-live-other");
        if events {
            // It returns at once, long before that.
            watch.wait(Duration::from_secs(600)).unwrap();
        }
        watch.run_once();
        let mut both = vec![old_id, id(&root.join("custom-live-new/custom-live-x"))];
        both.sort_unstable();
        assert_eq!(groups(&loaded), both);
        drop(old);
        watch.run_once();
        assert_eq!(groups(&loaded).len(), 1);
        // The same name, another cgroup.
        drop(inner);
        let inner = live::cgroup::Group::new("custom-live-new/custom-live-x");
        watch.run_once();
        assert_eq!(groups(&loaded), [id(&root.join("custom-live-new/custom-live-x"))]);
        drop((inner, outer, other));
        watch.run_once();
        assert_eq!(groups(&loaded), [0; 0]);
    }
    assert!(INTERVAL <= Duration::from_secs(5));
}

#[live::test(tool("clang-14"), cgroup2)]
fn cgroups_that_had_no_room_are_added_when_others_went() {
    let loaded = load(&object("groups"), &plain()).unwrap();
    let mut watch = watch(&loaded, "groups", CgroupMapKind::Hash);
    let mut made: Vec<_> =
        (0..6).map(|number| live::cgroup::Group::new(&format!("custom-live-{number}-x"))).collect();
    watch.run_once();
    assert_eq!(groups(&loaded).len(), 4);
    made.drain(..3);
    watch.run_once();
    assert_eq!(groups(&loaded).len(), 3, "those that had no room are in the map now");
    made.push(live::cgroup::Group::new("custom-live-6-x"));
    watch.run_once();
    assert_eq!(groups(&loaded).len(), 4);
}

#[live::test(tool("clang-14"), cgroup2)]
fn cgroups_have_storage() {
    let loaded = load(&object("groups"), &plain()).unwrap();
    let group = live::cgroup::Group::new("custom-live-stored-x");
    let _watch = watch(&loaded, "storage", CgroupMapKind::CgrpStorage);
    let root = live::cgroup::root().unwrap();
    let value = |path: &Path| {
        use std::os::fd::AsRawFd;
        let folder = fs::File::open(path).unwrap();
        map(&loaded, "storage").lookup(&folder.as_raw_fd().to_ne_bytes(), MapFlags::ANY).unwrap()
    };
    assert_eq!(value(&root.join("custom-live-stored-x")), Some(1u64.to_ne_bytes().into()));
    assert_eq!(value(&root), None);
    drop(group);
}

live::main!();
