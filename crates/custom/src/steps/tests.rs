// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every decoder, alone and in a row, with made-up files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::labels::LabelSet;
use super::scratch::Scratch;
use super::step::readable;
use super::world::{Needs, Places};
use super::*;
use crate::config::Label;

/// Made-up symbols.
const KALLSYMS: &str = "\
0000000000000000 A percpu_start
ffffffff81000000 T _text
ffffffff81000000 T first
ffffffff81000100 t second
ffffffffc0000000 t zfs_read\t[zfs]
";

/// The kernel's files, made up.
pub struct Made {
    folder: Scratch,
    /// What the decoders look names up in.
    pub world: World,
}

impl Made {
    /// `name` is the test's own.
    pub fn new(name: &str) -> Self {
        let folder = Scratch::new(name);
        folder.folder("cgroup/system.slice/a.service");
        folder.folder(&format!("cgroup/docker/{}", "ab".repeat(32)));
        let places = Places {
            kallsyms: folder.write("kallsyms", KALLSYMS),
            modules: folder.write("modules", "zfs 1 0 - Live 0x0\n"),
            partitions: folder
                .write("partitions", "major minor  #blocks  name\n\n 8 1 100 sda1\n 259 65537 1 nvme1n1\n"),
            cgroups: Some(folder.path().join("cgroup")),
            pci: vec![folder.write("pci.ids", pci::tests::IDS)],
        };
        let needs = Needs { symbols: true, cgroups: true, pci: true, ..Needs::default() };
        let world = World::new(&needs, &places);
        Self { folder, world }
    }

    /// The id of a cgroup.
    pub fn group(&self, path: &str) -> u64 {
        fs::metadata(self.folder.path().join("cgroup").join(path)).unwrap().ino()
    }

    fn step(&self, name: &str) -> Box<dyn Step> {
        by_name(&named(name), &self.world).unwrap_or_else(|why| panic!("{why}"))
    }

    /// What a decoder makes of bytes that are borrowed, and of bytes that are not.
    fn decode(&self, step: &dyn Step, bytes: &[u8]) -> Result<String, Stop> {
        let text = step.decode(Cow::Owned(bytes.to_owned())).map(Cow::into_owned);
        assert_eq!(step.decode(Cow::Borrowed(bytes)).map(Cow::into_owned), text);
        text.map(|text| readable(&text))
    }

    fn shown(&self, name: &str, bytes: &[u8]) -> String {
        self.decode(&*self.step(name), bytes).unwrap_or_else(|stop| panic!("{name} on {bytes:?}: {stop:?}"))
    }

    /// Why a decoder refuses bytes.
    fn wrong(&self, name: &str, bytes: &[u8]) -> String {
        match self.decode(&*self.step(name), bytes) {
            Err(Stop::Wrong(why)) => why,
            other => panic!("{name} on {bytes:?}: {other:?}"),
        }
    }
}

/// A decoder without settings.
pub fn named(name: &str) -> Decoder {
    Decoder { name: name.to_owned(), line: 7, ..Decoder::default() }
}

/// A label with decoders without settings.
pub fn label(name: &str, size: u64, decoders: &[&str]) -> Label {
    let decoders = decoders.iter().map(|name| named(name)).collect();
    Label { name: name.to_owned(), size, decoders, line: 5, ..Label::default() }
}

fn mapped(entries: &[(&str, &str)], allow_unknown: bool) -> Decoder {
    let words = entries.iter().map(|(text, word)| ((*text).to_owned(), (*word).to_owned())).collect();
    Decoder { static_map: Some(words), allow_unknown, ..named("static_map") }
}

#[test]
fn uint_is_a_number_of_1_2_4_or_8_bytes() {
    let made = Made::new("uint");
    assert_eq!(made.shown("uint", &[255]), "255");
    assert_eq!(made.shown("uint", &0xfffeu16.to_ne_bytes()), "65534");
    assert_eq!(made.shown("uint", &0x8000_0001u32.to_ne_bytes()), "2147483649");
    assert_eq!(made.shown("uint", &u64::MAX.to_ne_bytes()), "18446744073709551615");
    for bytes in [0, 3, 5, 16] {
        assert_eq!(
            made.wrong("uint", &vec![0; bytes]),
            format!("`uint` takes 1, 2, 4 or 8 bytes, not {bytes}")
        );
    }
}

#[test]
fn bytes_become_text() {
    let made = Made::new("bytes");
    for (name, bytes, text) in [
        ("string", &b"cat\0dog"[..], "cat"),
        ("string", b"cat", "cat"),
        ("string", b"\0", ""),
        ("string", b"", ""),
        ("string", b"a\xff\"|\n\0", "a\\xff\"|\n"),
        ("hex", b"\x00\xffAz", "00ff417a"),
        ("hex", b"", ""),
        ("inet_ip", &[127, 0, 0, 1], "127.0.0.1"),
        ("inet_ip", &[0; 16], "::"),
        ("inet_ip", &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "2001:db8::1"),
        ("inet_ip", &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1], "2001:db8:0:1:1:1:1:1"),
        ("inet_ip", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1], "10.0.0.1"),
        ("inet_ip", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1], "::a00:1"),
        ("inet_ip", b"", "<nil>"),
        ("inet_ip", &[1, 2, 0xfe], "?0102fe"),
        ("dname", b"", "."),
        ("dname", b"\x03com", "com"),
        ("dname", b"\x07example\x03com", "example.com"),
        ("dname", b"\x07example\x03com\x00", "example.com."),
        ("dname", b"\x00", ""),
        ("dname", b"\x05com", "\x05com"),
        ("dname", b"\x03com\xff", "\x03com\\xff"),
    ] {
        assert_eq!(made.shown(name, bytes), text, "{name} on {bytes:?}");
    }
}

#[test]
fn static_map_gives_words() {
    let made = Made::new("static_map");
    let shown = |decoder: &Decoder, text: &[u8]| {
        let step = by_name(decoder, &made.world).unwrap();
        made.decode(&*step, text).unwrap()
    };
    let words = [("0", "read"), ("1", "write"), ("", "none")];
    assert_eq!(shown(&mapped(&words, false), b"1"), "write");
    assert_eq!(shown(&mapped(&words, false), b""), "none");
    assert_eq!(shown(&mapped(&words, false), b"7"), "unknown:7");
    assert_eq!(shown(&mapped(&words, false), b"\xff|"), "unknown:\\xff|");
    assert_eq!(shown(&mapped(&words, true), b"7"), "7");
    assert_eq!(shown(&mapped(&[], false), b"7"), "unknown:7");
    assert_eq!(shown(&named("static_map"), b"7"), "empty mapping");
}

#[test]
fn regexp_keeps_what_matches() {
    let made = Made::new("regexp");
    let decode = |patterns: &[&str], text: &[u8]| {
        let regexps = Some(patterns.iter().map(ToString::to_string).collect());
        made.decode(&*by_name(&Decoder { regexps, ..named("regexp") }, &made.world).unwrap(), text)
    };
    assert_eq!(decode(&["^systemd-"], b"systemd-journal").as_deref(), Ok("systemd-"));
    assert_eq!(decode(&["^systemd-([a-z]+)$"], b"systemd-journal").as_deref(), Ok("journal"));
    assert_eq!(decode(&["^(s)(y)", "o"], b"systemd-journal").as_deref(), Ok("o"));
    assert_eq!(decode(&["x"], b"systemd-journal"), Err(Stop::Skip));
    assert_eq!(decode(&[], b""), Err(Stop::Skip));
    assert!(by_name(&named("regexp"), &made.world).unwrap_err().contains("`regexps`"));
    let regexps = Some(vec!["a".to_owned(), "(".to_owned()]);
    let why = by_name(&Decoder { regexps, ..named("regexp") }, &made.world).unwrap_err();
    assert!(why.starts_with("bad pattern `(`"), "{why}");
}

#[test]
fn errno_names_those_of_linux() {
    let made = Made::new("errno");
    for (number, name) in [
        ("1", "EPERM"),
        ("2", "ENOENT"),
        ("11", "EAGAIN"),
        ("35", "EDEADLK"),
        ("95", "ENOTSUP"),
        ("133", "EHWPOISON"),
        ("0", "unknown:0"),
        ("41", "unknown:41"),
        ("58", "unknown:58"),
        ("134", "unknown:134"),
        ("512", "unknown:512"),
        ("18446744073709551615", "unknown:18446744073709551615"),
    ] {
        assert_eq!(made.shown("errno", number.as_bytes()), name);
    }
    let named = (0..200).filter(|n| !made.shown("errno", n.to_string().as_bytes()).starts_with("unknown"));
    assert_eq!(named.collect::<Vec<u32>>(), (1..134).filter(|n| ![41, 58].contains(n)).collect::<Vec<u32>>());
    for text in ["", "-1", "+1", "1x", " 1", "18446744073709551616", "\u{e9}"] {
        assert!(made.wrong("errno", text.as_bytes()).ends_with("is no decimal number from 0 to 2^64-1"));
    }
}

#[test]
fn syscalls_have_the_other_exporters_names_or_the_kernels() {
    let made = Made::new("syscall");
    #[cfg(target_arch = "x86_64")]
    let table = [
        ("0", "read", "read"),
        ("7", "poll_time64", "poll"),
        ("202", "futex_time64", "futex"),
        ("231", "exit", "exit_group"),
        ("60", "exit", "exit"),
        ("214", "printargs", "epoll_ctl_old"),
        ("334", "rseq", "rseq"),
        ("461", "lsm_list_modules", "lsm_list_modules"),
        ("462", "unknown_syscall:462", "mseal"),
        ("335", "unknown_syscall:335", "uretprobe"),
    ];
    #[cfg(target_arch = "aarch64")]
    let table = [
        ("63", "read", "read"),
        ("98", "futex_time64", "futex"),
        ("94", "exit", "exit_group"),
        ("93", "exit", "exit"),
        ("462", "unknown_syscall:462", "mseal"),
    ];
    for (number, other, kernel) in table {
        assert_eq!(made.shown("syscall", number.as_bytes()), other);
        assert_eq!(made.shown("syscall_name", number.as_bytes()), kernel);
    }
    for name in ["syscall", "syscall_name"] {
        assert_eq!(made.shown(name, b"100000"), "unknown_syscall:100000");
        assert_eq!(made.shown(name, b"-1"), "unknown_syscall:18446744073709551615");
        assert_eq!(made.shown(name, b"18446744073709551615"), "unknown_syscall:18446744073709551615");
        assert_eq!(made.wrong(name, b"x"), "`x` is no decimal number of 64 bits");
    }
}

#[test]
fn devices_are_named_by_their_first_4_bytes() {
    let made = Made::new("devices");
    let (lo, unknown) = (1u32.to_ne_bytes(), 0x7fff_fff0u32.to_ne_bytes());
    assert_eq!(made.shown("ifname", &lo), "lo");
    assert_eq!(made.shown("ifname", &[lo, unknown].concat()), "lo");
    assert_eq!(made.shown("ifname", &unknown), "unknown:2147483632");
    // new_encode_dev: (minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)
    let device =
        |major: u32, minor: u32| ((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)).to_ne_bytes();
    assert_eq!(made.shown("majorminor", &device(8, 1)), "sda1");
    assert_eq!(made.shown("majorminor", &[device(259, 65537), [9; 4]].concat()), "nvme1n1");
    assert_eq!(made.shown("majorminor", &device(4095, 0xf_ffff)), "unknown:4095:1048575");
    for name in ["ifname", "majorminor"] {
        assert_eq!(made.wrong(name, &[0; 3]), format!("`{name}` takes 4 bytes, not 3"));
    }
}

#[test]
fn kernel_addresses_are_named() {
    let made = Made::new("ksym");
    let start = 0xffff_ffff_8100_0000u64;
    let module = 0xffff_ffff_c000_0000u64;
    assert_eq!(made.shown("ksym", &start.to_ne_bytes()), "first");
    assert_eq!(made.shown("ksym", &(start + 0x100).to_ne_bytes()), "second");
    assert_eq!(made.shown("ksym", &module.to_ne_bytes()), "zfs_read\t[zfs]");
    assert_eq!(made.shown("ksym", &(start + 1).to_ne_bytes()), "unknown_addr:0xffffffff81000001");
    assert_eq!(made.shown("ksym", &[0; 8]), "unknown_addr:0x0");
    assert_eq!(made.wrong("ksym", &[0; 4]), "`ksym` takes 8 bytes, not 4");
    let stack = |addresses: &[u64]| addresses.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
    let shown = made.shown("kstack", &stack(&[start + 5, module + 9, 16, start + 0x100, 0, start]));
    assert_eq!(shown, "first\nzfs_read\t[zfs]\n??\nsecond");
    assert_eq!([made.shown("kstack", &[]), made.shown("kstack", &[0; 160])], ["", ""]);
    let none = World::new(&Needs::default(), &Places::default());
    let ksym = by_name(&named("ksym"), &none).unwrap();
    assert_eq!(made.decode(&*ksym, &start.to_ne_bytes()).as_deref(), Ok("unknown_addr:0xffffffff81000000"));
    let kstack = by_name(&named("kstack"), &none).unwrap();
    assert_eq!(made.decode(&*kstack, &stack(&[start, start])).as_deref(), Ok("??\n??"));
}

#[test]
fn cgroups_and_containers_are_named_by_id() {
    let made = Made::new("cgroup");
    let shown = |name, id: u64| made.shown(name, id.to_string().as_bytes());
    let (root, service) = (made.group(""), made.group("system.slice/a.service"));
    let id = "ab".repeat(32);
    let container = made.group(&format!("docker/{id}"));
    let mount = made.folder.path().join("cgroup").display().to_string();
    assert_eq!(shown("cgroup", root), mount);
    assert_eq!(shown("cgroup", service), format!("{mount}/system.slice/a.service"));
    assert_eq!(shown("cgroup", container), format!("{mount}/docker/{id}"));
    assert_eq!(shown("cgroup", 1 << 60), "unknown_cgroup_id:1152921504606846976");
    assert_eq!(made.shown("cgroup", b"-1"), "unknown_cgroup_id:-1");
    assert_eq!(made.wrong("cgroup", b""), "`` is no decimal number of 64 bits");
    assert_eq!(shown("container", container), id);
    assert_eq!([root, service, 1 << 60].map(|group| shown("container", group)), ["", "", ""]);
    let (cgroup, container) = (made.step("cgroup"), made.step("container"));
    assert!(cgroup.is_settled(b"/sys/fs/cgroup") && !cgroup.is_settled(b"unknown_cgroup_id:1"));
    assert!(container.is_settled(id.as_bytes()) && !container.is_settled(b""));
}

#[test]
fn pci_ids_have_names() {
    let made = Made::new("pci_ids");
    for (name, number, text) in [
        ("pci_vendor", 0x8086u32, "Maker Two"),
        ("pci_vendor", 0x0e11, "Maker One"),
        ("pci_vendor", 0xdead, "unknown pci vendor: 0xdead"),
        ("pci_device", 0x8086_1237, "Bridge [Model]"),
        ("pci_device", 0x0e11_0001, "Small Thing"),
        ("pci_device", 0x8086_ffff, "unknown pci device: 0x8086ffff"),
        ("pci_class", 0x0c, "Bus thing"),
        ("pci_class", 0x07, "unknown pci class: 0x07"),
        ("pci_subclass", 0x0200, "Wired thing"),
        ("pci_subclass", 0x0c0f, "unknown pci subclass: 0x0f (class 0x0c)"),
        ("pci_subclass", 0x0701, "unknown pci class: 0x07"),
    ] {
        assert_eq!(made.shown(name, number.to_string().as_bytes()), text);
        assert!(made.wrong(name, b"x").contains("no decimal number"));
        let none = World::new(&Needs::default(), &Places::default());
        let step = by_name(&named(name), &none).unwrap();
        assert_eq!(made.decode(&*step, b"1").as_deref(), Ok("missing pci.ids db"));
    }
    assert_eq!(made.shown("pci_vendor", b"18446744073709551615"), "unknown pci vendor: 0xffffffffffffffff");
}

#[test]
fn all_decoders_have_a_name_and_others_are_refused() {
    let made = Made::new("names");
    for name in DECODERS.iter().copied() {
        let regexps = Some(vec!["x".to_owned()]);
        assert!(by_name(&Decoder { regexps, ..named(name) }, &made.world).is_ok(), "{name}");
    }
    let why = by_name(&named("Uint"), &made.world).unwrap_err();
    assert!(why.starts_with("there is no decoder `Uint`; known are cgroup, "), "{why}");
}

#[test]
fn labels_take_their_bytes_from_left_to_right() {
    let made = Made::new("labels");
    let operation = Label {
        decoders: vec![named("uint"), mapped(&[("1", "write")], false)],
        padding: 3,
        ..label("operation", 1, &[])
    };
    let labels = [label("comm", 4, &["string"]), operation, label("port", 2, &["uint"])];
    let set = LabelSet::new(&labels, &made.world).unwrap();
    assert_eq!((set.names().collect::<Vec<_>>(), set.size()), (vec!["comm", "operation", "port"], 10));
    let key = [&b"cat\0\x01..."[..], &80u16.to_ne_bytes()].concat();
    let values = Ok(["cat", "write", "80"].map(str::to_owned).to_vec());
    assert_eq!(set.decode(&key), values);
    assert_eq!(set.decode_prefix(&key), values);
    assert_eq!(set.decode_prefix(&[&*key, b"more"].concat()), values);
    for length in [0, 9] {
        let why = format!("sizes and paddings of the labels add up to 10, the key has {length} bytes");
        assert_eq!(set.decode(&key[..length]), Err(Stop::Wrong(why)));
        let why =
            format!("sizes and paddings of the labels add up to 10, the record has only {length} bytes");
        assert_eq!(set.decode_prefix(&key[..length]), Err(Stop::Wrong(why)));
    }
    assert!(set.decode(&[&*key, b"m"].concat()).is_err());
    let set = LabelSet::new(&[label("n", 4, &["string", "uint"])], &made.world).unwrap();
    let why = "label `n`: `uint` takes 1, 2, 4 or 8 bytes, not 3";
    assert_eq!(set.decode(b"abc\0"), Err(Stop::Wrong(why.to_owned())));
}

#[test]
fn a_map_without_labels_has_one_element() {
    let made = Made::new("plain");
    let set = LabelSet::new(&[], &made.world).unwrap();
    assert_eq!(set.decode(&[0; 4]), Ok(Vec::new()));
    assert!(set.decode(&[1, 0, 0, 0]).is_err() && set.decode(&[]).is_err() && set.decode(&[0; 8]).is_err());
    assert_eq!(set.decode_prefix(&[]), Ok(Vec::new()));
}

#[test]
fn wrong_labels_are_refused_with_their_line() {
    let made = Made::new("wrong");
    for (label, line, why) in [
        (label("a", 0, &["uint"]), 5, "label `a`: `size` is missing or 0"),
        (label("a", 4, &[]), 5, "label `a`: `decoders` is missing or empty"),
        (label("a", 3, &["uint"]), 7, "label `a`: `uint` does not take 3 bytes"),
        (label("a", 4, &["ksym"]), 7, "label `a`: `ksym` does not take 4 bytes"),
        (label("a", 1, &["ksym"]), 7, "label `a`: `ksym` does not take 1 byte"),
        (label("a", 4, &["uint", "nope"]), 7, "label `a`: there is no decoder `nope`"),
        (label("a", 4, &["regexp"]), 7, "label `a`: `regexp` needs a list"),
        (label("a", u64::MAX, &["hex"]), 5, "label `a`: a size or padding is above"),
        (Label { padding: u64::MAX, ..label("a", 4, &["hex"]) }, 5, "label `a`: a size or padding is above"),
        (Label { padding: 1 << 20, ..label("a", 4, &["hex"]) }, 5, "label `a`: the labels up to this one"),
    ] {
        let (at, text) = LabelSet::new(&[label], &made.world).unwrap_err();
        assert_eq!((at, text.starts_with(why)), (line, true), "{text}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_escaped() {
    for (bytes, text) in [
        (&b"a\xffb\xc3"[..], "a\\xffb\\xc3"),
        (b"\xe2\x82\xac|\"\n\\", "\u{20ac}|\"\n\\"),
        (b"\xe2\x82", "\\xe2\\x82"),
        (b"", ""),
    ] {
        assert_eq!(readable(bytes), text);
    }
}

#[test]
fn long_and_odd_input_is_no_trouble() {
    let made = Made::new("odd");
    let huge = vec![b'9'; 1 << 20];
    let inputs: [&[u8]; 10] = [
        b"",
        b"\0",
        b"|",
        b"\"\n\\",
        b"\xff\xfe",
        b"\xc3",
        b"-",
        b"18446744073709551616",
        "\u{1f980}".as_bytes(),
        &huge,
    ];
    for name in DECODERS.iter().copied() {
        let settings = Decoder {
            static_map: Some(BTreeMap::from([("|".to_owned(), "pipe".to_owned())])),
            regexps: Some(vec!["(?s)^.{0,1000}".to_owned()]),
            ..named(name)
        };
        let step = by_name(&settings, &made.world).unwrap();
        for input in inputs {
            match made.decode(&*step, input) {
                Ok(text) => assert!(step.is_settled(text.as_bytes()) || !step.is_settled(text.as_bytes())),
                Err(Stop::Wrong(why)) => assert!(why.len() < 500, "{name}: {why}"),
                Err(Stop::Skip) => assert_eq!(name, "regexp"),
            }
        }
    }
}
