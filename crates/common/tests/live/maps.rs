// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads all entries of maps in the kernel.

use std::collections::BTreeMap;

use common::read::maps::{LiveMaps, MapSource};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

/// A per-CPU hash of `entries` with values of `words` 64-bit numbers. The first word of entry `n` is
/// `n` on every CPU.
fn map(entries: u64, words: usize) -> MapHandle {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
        ..Default::default()
    };
    let size = (words * 8) as u32;
    let map =
        MapHandle::create(MapType::PercpuHash, Some("test"), 8, size, entries as u32, &options).unwrap();
    let cpus = libbpf_rs::num_possible_cpus().unwrap();
    for n in 0..entries {
        let mut value = n.to_ne_bytes().to_vec();
        value.resize(words * 8, 0);
        map.update_percpu(&n.to_ne_bytes(), &vec![value; cpus], MapFlags::ANY).unwrap();
    }
    map
}

type Read = dyn Fn(&LiveMaps, &mut dyn FnMut(&[u8], &[u8])) -> anyhow::Result<()>;

/// Both ways of reading.
fn ways() -> [(&'static str, Box<Read>); 2] {
    [
        ("batched", Box::new(|maps, f| maps.for_each("test", f))),
        ("key by key", Box::new(|maps, f| maps.for_each_unbatched("test", f))),
    ]
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes[..8].try_into().unwrap())
}

/// For each key, its value and how often it was read.
fn read(maps: &LiveMaps, way: &Read, mut also: impl FnMut(u64)) -> BTreeMap<u64, (u64, u32)> {
    let mut seen = BTreeMap::new();
    way(maps, &mut |key, value| {
        seen.entry(number(key)).or_insert((number(value), 0)).1 += 1;
        also(number(key));
    })
    .unwrap();
    seen
}

#[live::test]
fn every_entry_is_read_once_and_added_up() {
    let cpus = libbpf_rs::num_possible_cpus().unwrap() as u64;
    // The first map takes many batches. Of the second, a batch has room for one entry, and half
    // of its buckets have more.
    for (entries, words) in [(10_000, 1), (300, 4000)] {
        let maps = LiveMaps::single("test", &map(entries, words)).unwrap();
        for (name, way) in ways() {
            let seen = read(&maps, &*way, |_| {});
            assert_eq!(seen.len() as u64, entries, "{name}");
            for (key, (value, times)) in seen {
                assert_eq!((value, times), (key * cpus, 1), "{name}: entry {key}");
            }
        }
    }
}

#[live::test]
fn a_trie_is_read_once_although_its_entries_go() {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
        map_flags: libbpf_sys::BPF_F_NO_PREALLOC,
        ..Default::default()
    };
    let trie = MapHandle::create(MapType::LpmTrie, Some("test"), 8, 8, 20_000, &options).unwrap();
    let key = |n: u32| [32u32.to_ne_bytes(), n.to_be_bytes()].concat();
    for n in 0..20_000u32 {
        trie.update(&key(n), &u64::from(n).to_ne_bytes(), MapFlags::ANY).unwrap();
    }
    let maps = LiveMaps::single("test", &trie).unwrap();
    for (name, way) in ways() {
        let (mut count, mut gone) = (0u32, 0);
        let seen = read(&maps, &*way, |n| {
            count += 1;
            // The kernel looks for the last key that it returned to go on from there.
            if count.is_multiple_of(512) && trie.delete(&n.to_ne_bytes()).is_ok() {
                gone += 1;
            }
        });
        assert!(gone > 10, "{name}: {gone} entries are gone");
        let repeated = seen.values().filter(|(_, times)| *times > 1).count();
        assert_eq!(repeated, 0, "{name}");
    }
}

#[live::test]
fn entries_that_go_while_reading_hide_no_others() {
    for (name, way) in ways() {
        let map = map(5000, 1);
        let maps = LiveMaps::single("test", &map).unwrap();
        // Each entry that is read deletes the next multiple of five.
        let mut next = 0u64;
        let seen = read(&maps, &*way, |_| {
            if next < 5000 {
                map.delete(&next.to_ne_bytes()).unwrap();
                next += 5;
            }
        });
        for key in (0..5000).filter(|key| key % 5 != 0) {
            assert_eq!(seen.get(&key).map(|(_, times)| *times), Some(1), "{name}: entry {key}");
        }
        assert!(seen.values().all(|(_, times)| *times == 1), "{name}: none twice");
    }
}

#[live::test]
fn a_full_map_says_so_and_an_empty_one_is_empty() {
    let map = map(16, 1);
    let maps = LiveMaps::single("test", &map).unwrap();
    assert!(maps.insert_zero("test", &3u64.to_ne_bytes()).unwrap(), "it is there already");
    assert!(!maps.insert_zero("test", &99u64.to_ne_bytes()).unwrap(), "no room");
    assert!(maps.insert_zero("test", &[0; 3]).is_err(), "a key of the wrong size");
    let fill = maps.fill().unwrap();
    assert_eq!((fill[0].entries, fill[0].capacity), (16, 16));
    for key in 0..16u64 {
        map.delete(&key.to_ne_bytes()).unwrap();
    }
    for (name, way) in ways() {
        assert!(read(&maps, &*way, |_| {}).is_empty(), "{name}");
    }
}
