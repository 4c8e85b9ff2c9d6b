// SPDX-License-Identifier: MIT OR Apache-2.0
//! The test objects themselves, loaded by libbpf alone: each counts what its config means.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use libbpf_rs::{
    Link, MapCore, MapFlags, MapType, Object, ObjectBuilder, OpenObject, ProgramAttachType, ProgramType,
};

use crate::compile;
use crate::objects::{Configs, target, trigger};

/// A loaded object, with links of the programs that this kernel attaches.
struct Attached {
    object: Object,
    links: BTreeMap<String, Link>,
}

/// Opens an object with only those programs that `wanted` accepts. `None` if it has none of them.
fn open(path: &Path, wanted: impl Fn(&str) -> bool) -> OpenObject {
    let mut open = ObjectBuilder::default().open_file(path).expect("an object");
    for mut program in open.progs_mut() {
        let section = program.section().to_string_lossy().into_owned();
        let asked = program.autoload();
        program.set_autoload(asked && wanted(&program.name().to_string_lossy()));
        // libbpf knows these two by shorter names only.
        if section.starts_with("xdp/") {
            program.set_prog_type(ProgramType::Xdp);
            program.set_attach_type(ProgramAttachType::Xdp);
        } else if section.starts_with("perf_event/") {
            program.set_prog_type(ProgramType::PerfEvent);
        }
    }
    open
}

/// Loads the programs that this kernel takes, and attaches those that it attaches.
fn attach(path: &Path) -> Attached {
    let names: Vec<String> = open(path, |_| true)
        .progs()
        .filter(|program| program.autoload())
        .map(|program| program.name().to_string_lossy().into_owned())
        .collect();
    let loads = |name: &String| open(path, |other| other == name).load().is_ok();
    let loadable: Vec<String> = names.into_iter().filter(loads).collect();
    let object = open(path, |name| loadable.iter().any(|other| other == name)).load();
    let object = object.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut links = BTreeMap::new();
    for program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if loadable.contains(&name) {
            match program.attach() {
                Ok(link) => drop(links.insert(name, link)),
                Err(error) => println!("{}: {name}: {error}", path.display()),
            }
        }
    }
    Attached { object, links }
}

impl Attached {
    /// All rows of a map of counters; those per CPU are added up.
    fn rows(&self, name: &str) -> BTreeMap<Vec<u8>, u64> {
        let map = self.object.maps().find(|map| map.name() == name).unwrap_or_else(|| panic!("no {name}"));
        let per_cpu =
            [MapType::PercpuArray, MapType::PercpuHash, MapType::LruPercpuHash].contains(&map.map_type());
        let number = |bytes: Vec<u8>| u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
        let value = |key: &[u8]| {
            if per_cpu {
                let values = map.lookup_percpu(key, MapFlags::ANY).expect("readable");
                values.map(|values| values.into_iter().map(number).sum())
            } else {
                map.lookup(key, MapFlags::ANY).expect("readable").map(number)
            }
        };
        map.keys().filter_map(|key| value(&key).map(|value| (key, value))).collect()
    }

    /// The value of a row; 0 if there is none.
    fn value(&self, map: &str, key: &[u8]) -> u64 {
        self.rows(map).get(key).copied().unwrap_or(0)
    }

    /// Rows with a value, of a map whose key is a u32.
    fn by_number(&self, map: &str) -> BTreeMap<u32, u64> {
        let rows = self.rows(map).into_iter().filter(|(_, value)| *value > 0);
        rows.map(|(key, value)| (u32::from_ne_bytes(key.try_into().expect("4 bytes")), value)).collect()
    }
}

#[live::test()]
fn every_object_loads_and_attaches_a_program() {
    for configs in [Configs::of_tests(), Configs::examples()] {
        for name in configs.names() {
            assert!(configs.path().join(format!("{name}.yaml")).exists(), "{name} has no config");
            let attached = attach(&configs.object(&name));
            // One of the examples observes a program of its user.
            let attaches = name != "cgroup_storage" && name != "requests";
            assert!(!attaches || !attached.links.is_empty(), "{name}");
        }
    }
}

#[live::test()]
fn keys_are_those_of_the_config() {
    let configs = Configs::of_tests();
    let keys = attach(&configs.object("keys"));
    trigger(0, 0);
    trigger(0, 0);
    trigger(1, 0x0010_0003);
    assert_eq!(keys.value("keys_u8_total", &[7]), 2 * 2);
    assert_eq!(keys.value("keys_port_total", &u64::to_ne_bytes(443)), 2 * 3);
    assert_eq!(keys.value("keys_padded_total", &[5, 0, 0, 0, 0x70, 0x11, 1, 0]), 2 * 5);
    assert_eq!(keys.value("keys_uint3_total", &[1, 2, 3]), 2 * 19);
    assert_eq!(keys.value("keys_dname_root_total", b"\x07example\x03com\0"), 2 * 29);
    assert_eq!(keys.by_number("keys_errno_total")[&512], 2 * 11);
    assert_eq!(keys.by_number("keys_device_total"), BTreeMap::from([(0x0010_0003, 53)]));
    assert_eq!(keys.rows("keys_long_total").len(), 1);
    assert_eq!(keys.rows("keys_words_total").len(), 2);
    assert_eq!(keys.rows("keys_pci_total").len(), 2);
    let mut mapped = [0; 20];
    mapped[..4].copy_from_slice(&[10, 1, 2, 3]);
    mapped[14..].copy_from_slice(&[255, 255, 192, 0, 2, 1]);
    assert_eq!(keys.value("keys_ip_total", &mapped), 2 * 17);
}

#[live::test()]
fn histograms_have_the_slots_of_the_macros() {
    let configs = Configs::of_tests();
    let hist = attach(&configs.object("hist"));
    for (times, value) in [(2, 0), (3, 1), (5, 2), (7, 3), (11, 1024), (13, 1025), (17, 1 << 30)] {
        trigger(times, value);
    }
    let sum = 3 + 5 * 2 + 7 * 3 + 11 * 1024 + 13 * 1025 + (17 << 30);
    // ceil(log2(value)), all above 10 in the last slot; then the sum.
    let expected = [(0, 2 + 3), (1, 5), (2, 7), (10, 11 + 13 + 17), (11, sum)];
    assert_eq!(hist.by_number("hist_percpu_items"), BTreeMap::from(expected));
    let expected = [(0, 2), (1, 3), (2, 5), (3, 7), (10, 11 + 13 + 17), (11, sum)];
    assert_eq!(hist.by_number("hist_exp2zero_items"), BTreeMap::from(expected));
    let expected = [(0, 2 + 3), (1, 5), (2, 7), (10, 11), (11, 13), (25, 17), (26, sum)];
    assert_eq!(hist.by_number("hist_large_bytes"), BTreeMap::from(expected));
    let key = |operation: u32, bucket: u32| [operation.to_ne_bytes(), bucket.to_ne_bytes()].concat();
    assert_eq!(hist.value("hist_exp2_seconds", &key(1, 11)), 13);
    assert_eq!(hist.value("hist_exp2_seconds", &key(1, 28)), 3 + 7 * 3 + 13 * 1025);
    assert_eq!(hist.value("hist_exp2_seconds", &key(0, 27)), 17);
    let expected = [(0, 2 + 3 + 5 + 7), (20, 11 + 13 + 17)];
    assert_eq!(hist.by_number("hist_linear_items"), BTreeMap::from(expected));
    let expected = [(1, 5), (10, 12), (100, 11 + 13 + 17), (101, sum)];
    assert_eq!(hist.by_number("hist_fixed_items"), BTreeMap::from(expected));
}

#[live::test()]
fn other_counters_add_their_primes() {
    let configs = Configs::of_tests();
    let [percpu, plain, other, odd, partial, bytes] =
        ["percpu", "plain", "plain_other", "odd_maps", "partial", "bytes"]
            .map(|name| attach(&configs.object(name)));
    let [groups, churn] = ["cgroup_map", "churn"].map(|name| attach(&configs.object(name)));
    trigger(1, 9);
    trigger(1, 9);
    for map in ["percpu_array_total", "percpu_added_total"] {
        assert_eq!(percpu.by_number(map), BTreeMap::from([(1, 14)]), "{map}");
    }
    assert_eq!(percpu.by_number("percpu_only_total"), BTreeMap::from([(0, 14)]));
    for map in ["percpu_hash_total", "percpu_lru_total"] {
        assert_eq!(percpu.value(map, &u64::to_ne_bytes(9)), 14, "{map}");
    }
    assert_eq!(plain.by_number("plain_total"), BTreeMap::from([(0, 22)]));
    assert_eq!(plain.by_number("plain_shared_total"), BTreeMap::from([(0, 6), (1, 6)]));
    assert_eq!(other.by_number("plain_shared_total"), BTreeMap::from([(0, 10), (2, 10)]));
    assert_eq!(odd.value("odd_sizes_total", b"sixteen bytes\0\0\0"), 34);
    assert_eq!(odd.value("odd_bits_total", &[0x21, 0, 0, 0]), 10);
    assert_eq!(odd.by_number("start"), BTreeMap::from([(1, 26)]));
    assert_eq!(partial.by_number("partial_total"), BTreeMap::from([(0, 34)]));
    assert_eq!(partial.links.keys().collect::<Vec<_>>(), ["partial_good"]);
    assert_eq!(bytes.rows("bytes_total").values().sum::<u64>(), 2 * 29);
    assert_eq!(groups.by_number("cgroup_map_others_total"), BTreeMap::from([(0, 46)]));
    trigger(5000, 1 << 40);
    assert_eq!(churn.by_number("churn_made_total")[&0], 2 + 5000);
    assert!(churn.rows("churn_total").values().all(|value| *value == 31 || *value == 62));
}

#[live::test()]
fn sections_count_if_they_are_attached() {
    let configs = Configs::of_tests();
    let own = env::current_exe().expect("known");
    fs::hard_link(&own, configs.path().join("custom-test-target"))
        .or_else(|_| std::os::unix::fs::symlink(&own, configs.path().join("custom-test-target")))
        .expect("a second name of this program");
    let path = env::var_os("PATH").unwrap_or_default();
    let longer = env::join_paths([configs.path().to_owned()].into_iter().chain(env::split_paths(&path)));
    // SAFETY: tests run one after the other, and no other thread reads the environment.
    unsafe { env::set_var("PATH", longer.expect("no colon")) };
    let sections = attach(&configs.object("sections"));
    // SAFETY: as above.
    unsafe { env::set_var("PATH", path) };
    println!("attached: {:?}", sections.links.keys());
    trigger(0, 0);
    trigger(0, 0);
    target::call();
    target::call();
    target::call();
    let rows = sections.by_number("sections_total");
    let ran = |program: &str, row: u32| sections.links.contains_key(program).then(|| rows.get(&row).copied());
    for program in ["sections_raw_tp", "sections_tp_btf"] {
        assert!(sections.links.contains_key(program), "every kernel attaches {program}");
    }
    for (program, row, count) in [
        ("sections_raw_tp", 7, 2 * 19),
        ("sections_tp", 8, 2 * 23),
        ("sections_tp_btf", 9, 2 * 29),
        ("sections_uprobe", 10, 3 * 31),
        ("sections_uretprobe", 11, 3 * 37),
        ("sections_usdt", 12, 3 * 41),
    ] {
        assert!([None, Some(Some(count))].contains(&ran(program, row)), "{program}: {rows:?}");
    }
    assert!(!rows.contains_key(&16), "a program with ? is not loaded");
}

#[live::test(once, tool("clang-14"))]
fn an_example_that_is_compiled_here_loads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let headers = folder.path().join("bpf");
    fs::create_dir(&headers).expect("made");
    for (name, text) in libbpf_sys::API_HEADERS {
        fs::write(headers.join(name), text).expect("written");
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = folder.path().join("runqueue.bpf.o");
    compile::run(&compile::Args {
        source: here.join("examples/runqueue.bpf.c"),
        output: Some(output.clone()),
        include: vec![folder.path().to_owned(), here.join("include")],
        btf: None,
    })
    .expect("compiled");
    let runqueue = attach(&output);
    assert_eq!(runqueue.links.len(), 3, "all programs are attached");
    live::wait_until("a thread waits for a CPU", Duration::from_secs(30), || {
        !runqueue.rows("runqueue_wait_seconds").is_empty()
    });
}
