// SPDX-License-Identifier: MIT OR Apache-2.0
//! See `bpf_build`.

fn main() {
    bpf_build::configs(&["tests/bpf", "examples"], "include");
}
