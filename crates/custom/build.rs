// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles what tests and examples load, see `bpf_build`, and exports the function at which users'
//! programs attach: see `src/objects/mark.rs`.

fn main() {
    println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol=post_attach_mark");
    println!("cargo::rerun-if-changed=build.rs");
    bpf_build::configs(&["tests/bpf", "examples"], "include");
}
