// SPDX-License-Identifier: MIT OR Apache-2.0
//! The objects and configs of `tests/bpf` and `examples`, which are inside the test binary, so that it
//! is all that a guest needs.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::ffi::c_ulong;
use std::path::{Path, PathBuf};

use object::{Object, ObjectSection, ObjectSymbol};

include!(concat!(env!("OUT_DIR"), "/configs.rs"));

/// First argument of prctl that the objects look for: see `tests/bpf/trigger.bpf.h`.
const MAGIC: c_ulong = 0x4542_5046;

/// Configs and objects in a folder, which goes with this value. The objects count triggers of this
/// process.
pub struct Configs(tempfile::TempDir);

impl Configs {
    /// Those of the tests.
    pub fn of_tests() -> Self {
        Self::of("tests/bpf/")
    }

    /// The examples.
    pub fn examples() -> Self {
        Self::of("examples/")
    }

    fn of(folder: &str) -> Self {
        let into = tempfile::tempdir().expect("a temporary folder");
        let files = CONFIGS.iter().filter_map(|(path, bytes)| Some((path.strip_prefix(folder)?, bytes)));
        for (name, bytes) in files {
            std::fs::write(into.path().join(name), for_this_process(bytes)).expect("written");
        }
        Self(into)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The object of a config.
    pub fn object(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.bpf.o"))
    }

    /// Names of all configs, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries =
            std::fs::read_dir(self.path()).expect("it exists").map(|entry| entry.expect("readable"));
        let names = entries.map(|entry| entry.file_name().into_string().expect("text"));
        let mut names: Vec<_> =
            names.filter_map(|name| Some(name.strip_suffix(".bpf.o")?.to_owned())).collect();
        names.sort();
        names
    }
}

/// The object with this process's number in its variable `trigger_tgid`. Other files are not changed.
fn for_this_process(bytes: &[u8]) -> Vec<u8> {
    // A copy: headers must be aligned.
    let mut bytes = bytes.to_vec();
    if let Some(at) = place_of(&bytes, "trigger_tgid") {
        bytes[at..at + 4].copy_from_slice(&std::process::id().to_ne_bytes());
    }
    bytes
}

/// Where in an ELF file a variable is.
fn place_of(bytes: &[u8], variable: &str) -> Option<usize> {
    let file = object::File::parse(bytes).ok()?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(variable))?;
    let (start, _) = file.section_by_index(symbol.section_index()?).ok()?.file_range()?;
    usize::try_from(start + symbol.address()).ok()
}

/// Makes every attached test object count once.
pub fn trigger(what: u64, value: u64) {
    // SAFETY: the kernel does not know this option; it looks at no argument.
    unsafe { libc::prctl(MAGIC as libc::c_int, what as c_ulong, value as c_ulong, 0, 0) };
}

/// What the objects of `sections` attach to in the test binary.
pub mod target {
    std::arch::global_asm!(
        // A function of one instruction, with the probe custom_test:probe (SystemTap's note, version 3)
        // in front of its return.
        ".pushsection .text.custom_test_function, \"ax\", @progbits",
        ".globl custom_test_function",
        ".type custom_test_function, @function",
        "custom_test_function:",
        "990: nop",
        "ret",
        ".size custom_test_function, . - custom_test_function",
        ".pushsection .note.stapsdt, \"o\", @note, .text.custom_test_function",
        ".balign 4",
        ".4byte 992f - 991f, 994f - 993f, 3",
        "991: .asciz \"stapsdt\"",
        "992: .balign 4",
        "993: .8byte 990b",
        ".8byte 0",
        ".8byte 0",
        ".asciz \"custom_test\"",
        ".asciz \"probe\"",
        ".asciz \"\"",
        "994: .balign 4",
        ".popsection",
        ".popsection",
    );

    unsafe extern "C" {
        fn custom_test_function();
    }

    /// Calls the function.
    pub fn call() {
        // SAFETY: it returns at once.
        unsafe { custom_test_function() };
    }
}
