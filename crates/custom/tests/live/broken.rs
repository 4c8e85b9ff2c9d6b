// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects that are cut short, damaged, or something else. The exporter names the file and ends.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;

use object::{Object, ObjectSection};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use crate::folder::{Folder, bytes, said, trigger};

/// Bytes of the header of an ELF file.
const ELF_HEADER: usize = 64;

/// Bytes of the header of a section.
const SECTION_HEADER: usize = 64;

/// Offset of the first header of a section.
fn headers(bytes: &[u8]) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[40..48].try_into().unwrap())).unwrap()
}

/// Begin and end of each section that has bytes in the file.
fn sections(bytes: &[u8]) -> Vec<(String, usize, usize)> {
    let file = object::File::parse(bytes).unwrap();
    let place = |section: object::Section<'_, '_>| {
        let (begin, size) = section.file_range()?;
        Some((section.name().unwrap().to_owned(), begin as usize, (begin + size) as usize))
    };
    file.sections().filter_map(place).collect()
}

/// Checks the folder's configs. The exporter ends by itself, with code 0 or 1.
#[track_caller]
fn check(folder: &Folder, what: &str) -> (i32, String) {
    let output = folder.run(&["--check"]);
    let said = said(&output);
    let code = output.status.code().unwrap_or_else(|| panic!("{what}: {}:\n{said}", output.status));
    assert!(code <= 1 && !said.contains("panicked"), "{what}: code {code}:\n{said}");
    (code, said)
}

/// Checks the folder's configs, of which one is broken, in its file or by what is in `words`.
#[track_caller]
fn refused(folder: &Folder, what: &str, words: &[&str]) {
    let (code, said) = check(folder, what);
    assert_eq!(code, 1, "{what}:\n{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{what}: {words:?} are not all in:\n{said}");
}

// The file is refused before a kernel sees it.
#[live::test(once)]
fn an_object_that_is_cut_short_is_refused() {
    let folder = Folder::of(&["bytes", "plain"]);
    let whole = bytes("plain.bpf.o");
    let headers = headers(&whole);
    let mut lengths = vec![0, 1, 4, ELF_HEADER - 1, ELF_HEADER, headers, whole.len() - 1];
    lengths.extend((headers..whole.len()).step_by(SECTION_HEADER * 5 + 8));
    lengths.extend(sections(&whole).into_iter().flat_map(|(_, begin, end)| [begin, (begin + end) / 2, end]));
    lengths.sort_unstable();
    lengths.dedup();
    for length in lengths.into_iter().filter(|length| *length < whole.len()) {
        folder.write("plain.bpf.o", &whole[..length]);
        refused(&folder, &format!("{length} of {} bytes", whole.len()), &["plain.bpf.o"]);
    }
    folder.write("plain.bpf.o", &whole);
    assert_eq!(check(&folder, "the whole file").0, 0);
}

// As above.
#[live::test(once)]
fn an_object_with_zeros_in_place_of_a_section_does_no_harm() {
    let folder = Folder::of(&["plain"]);
    let whole = bytes("plain.bpf.o");
    let end = headers(&whole);
    for (name, begin, section_end) in sections(&whole) {
        // The second is what a crash makes of a file that was not synchronised.
        for end in [section_end, end] {
            let mut damaged = whole.clone();
            damaged[begin..end].fill(0);
            folder.write("plain.bpf.o", &damaged);
            let what = format!("zeros from {begin} to {end}, at {name}");
            let (code, said) = check(&folder, &what);
            assert!(code == 0 || said.contains("plain.bpf.o"), "{what}:\n{said}");
        }
    }
}

// As above.
#[live::test(once)]
fn an_object_with_wrong_headers_does_no_harm() {
    /// Offset and length of a member of a section's header.
    const MEMBERS: [(usize, usize); 8] =
        [(0, 4), (4, 4), (8, 8), (24, 8), (32, 8), (40, 4), (44, 4), (56, 8)];
    let folder = Folder::of(&["plain"]);
    let whole = bytes("plain.bpf.o");
    for header in (headers(&whole)..whole.len()).step_by(SECTION_HEADER) {
        for (offset, length) in MEMBERS {
            let mut damaged = whole.clone();
            damaged[header + offset..header + offset + length].fill(0xff);
            folder.write("plain.bpf.o", &damaged);
            let what = format!("{length} bytes at {offset} of the header at {header}");
            let (code, said) = check(&folder, &what);
            assert!(code == 0 || said.contains("plain.bpf.o"), "{what}:\n{said}");
        }
    }
}

#[live::test]
fn what_is_no_object_is_refused() {
    /// Offsets in the header of an ELF file.
    const CLASS: usize = 4;
    const ORDER: usize = 5;
    const KIND: usize = 16;
    const MACHINE: usize = 18;
    let folder = Folder::of(&["bytes", "plain"]);
    let whole = bytes("plain.bpf.o");
    let with = |at: usize, byte: u8| {
        let mut other = whole.clone();
        other[at] = byte;
        other
    };
    let (object, name) = (folder.path().join("plain.bpf.o"), "plain.bpf.o");
    for (what, bytes) in [
        ("nothing", Vec::new()),
        ("text", b"metrics:\n  counters: []\n".to_vec()),
        ("a program of this machine", fs::read("/bin/true").unwrap()),
        ("an object of another machine", with(MACHINE, 183)),
        ("an executable", with(KIND, 2)),
        ("one of 32 bits", with(CLASS, 1)),
        ("one of another byte order", with(ORDER, 2)),
        ("another format", with(0, b'E')),
    ] {
        folder.write(name, &bytes);
        refused(&folder, what, &[name]);
    }
    fs::remove_file(&object).unwrap();
    refused(&folder, "no file", &[name]);
    symlink(&object, &object).unwrap();
    refused(&folder, "a link to itself", &[name]);
    fs::remove_file(&object).unwrap();
    fs::create_dir(&object).unwrap();
    refused(&folder, "a folder", &[name]);
    fs::remove_dir(&object).unwrap();
    mknodat(CWD, &object, FileType::Fifo, Mode::RUSR, 0).unwrap();
    refused(&folder, "a pipe without a writer", &[name]);
    fs::remove_file(&object).unwrap();
    folder.write(name, &whole);
    fs::set_permissions(&object, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = folder.command(&["--check"]);
    let without_override = || {
        for capability in [CapabilitySet::DAC_OVERRIDE, CapabilitySet::DAC_READ_SEARCH] {
            remove_capability_from_bounding_set(capability)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it only makes system calls.
    let output = unsafe { command.pre_exec(without_override) }.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(name), "{}", said(&output));
}

/// The bytes with `new` in place of `old`, which has the same length.
#[track_caller]
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut other = bytes.to_vec();
    let places: Vec<usize> =
        (0..=bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| other[at..at + new.len()].copy_from_slice(new));
    other
}

/// As [`replaced`], in one section.
#[track_caller]
fn replaced_in(section: &str, bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let (_, begin, end) = sections(bytes).into_iter().find(|(name, _, _)| name == section).unwrap();
    let mut other = bytes.to_vec();
    other[begin..end].copy_from_slice(&replaced(&bytes[begin..end], old, new));
    other
}

#[live::test]
fn names_that_are_not_utf8_are_refused() {
    let folder = Folder::of(&["bytes", "plain"]);
    let whole = bytes("plain.bpf.o");
    for (old, new) in [
        (&b"plain_triggered"[..], &b"plain_trigg\xffred"[..]),
        (b"plain_total", b"plain_t\xfftal"),
        (b"trigger_tgid", b"trigg\xffr_tgid"),
        (b"tp_btf/sys_enter", b"tp_btf/sys_\xffnter"),
    ] {
        let what = String::from_utf8_lossy(new).into_owned();
        folder.write("plain.bpf.o", &replaced(&whole, old, new));
        refused(&folder, &what, &["plain.bpf.o"]);
        folder.write("plain.bpf.o", &replaced_in(".strtab", &whole, old, new));
        refused(&folder, &format!("{what}, as a symbol"), &["plain.bpf.o"]);
        if old.contains(&b'/') {
            continue;
        }
        // libbpf names maps by their types.
        folder.write("plain.bpf.o", &replaced_in(".BTF", &whole, old, new));
        let what = format!("{what}, in BTF");
        let (code, said) = check(&folder, &what);
        assert!(code == 0 || said.contains("plain.bpf.o"), "{what}:\n{said}");
    }
}

#[live::test(kernel_with("bloom_map_alloc"))]
fn maps_that_cannot_be_what_the_config_says_are_refused() {
    let folder = Folder::of(&["kinds"]);
    for (metric, words) in [
        ("map: kinds_none", "no map `kinds_none`"),
        ("map: kinds_queue", "kinds_queue"),
        ("map: kinds_stack", "kinds_stack"),
        ("map: kinds_task", "kinds_task"),
        ("map: kinds_bloom", "kinds_bloom"),
        ("map: kinds_ring", "kinds_ring"),
        ("map: kinds_ring, member: a", "kinds_ring"),
        ("map: kinds_perf", "kinds_perf"),
        ("map: kinds_perf, member: a", "kinds_perf"),
        ("map: kinds_calls", "kinds_calls"),
        ("map: kinds_hash, ring_buffer: true", "is no ring buffer"),
        ("map: kinds_perf, ring_buffer: true", "is no ring buffer"),
        ("map: kinds_hash, perf_event_array: true", "is no perf event array"),
        ("map: kinds_ring, perf_event_array: true", "is no perf event array"),
        ("map: kinds_hash, member: none", "`none`"),
        ("map: kinds.rodata", "kinds.rodata"),
        ("map: kinds.rodata, member: none", "kinds.rodata"),
        ("map: kinds.bss, member: kinds_zero", "kinds.bss"),
        ("map: .maps", ".maps"),
    ] {
        let yaml = format!("metrics:\n  counters:\n    - {{name: kinds_total, help: A, {metric}}}\n");
        folder.write("kinds.yaml", yaml.as_bytes());
        refused(&folder, metric, &["config kinds", "kinds.yaml:3", words]);
    }
}

#[live::test]
fn addresses_are_set_in_variables_of_every_section() {
    let folder = Folder::of(&["variables"]);
    let exporter = folder.start(&[]);
    trigger(0, 0);
    let scrape = exporter.scrape();
    for (symbol, prime) in [("vfs_read", 2.0), ("vfs_write", 3.0), ("vfs_open", 5.0), ("vfs_fsync", 7.0)] {
        let counted = scrape.get("ebpf_exporter_variables_total", &[("symbol", symbol)]);
        assert_eq!(counted, Some(prime), "{symbol}: {:?}", scrape.labels("ebpf_exporter_variables_total"));
    }
    drop(exporter);
    let yaml = String::from_utf8(bytes("variables.yaml")).unwrap();
    for (symbol, word) in
        [("vfs_llseek", "has 4 bytes, not 8"), ("vfs_statfs", "no variable `kaddr_vfs_statfs`")]
    {
        folder.write("variables.yaml", yaml.replace("kaddrs: [", &format!("kaddrs: [{symbol}, ")).as_bytes());
        refused(&folder, symbol, &["variables.bpf.o", word]);
    }
}
