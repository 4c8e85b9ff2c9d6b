// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles C programs that include a header of `bpf/` for the build host, and runs them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Compiles `source` with `flags`, runs it on `input`, and returns its output.
pub fn run(source: &str, flags: &[&str], input: Vec<u8>) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, binary) = (folder.path().join("harness.c"), folder.path().join("harness"));
    std::fs::write(&file, source).expect("written");
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf");
    let status = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror"])
        .args(flags)
        .arg("-I")
        .args([&headers, &file])
        .arg("-o")
        .arg(&binary)
        .status()
        .expect("cc starts");
    assert!(status.success(), "cc: {status}");
    let mut child = Command::new(&binary)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the harness starts");
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("the harness ends");
    writer.join().expect("no panic").expect("all input was taken");
    output.stdout
}
