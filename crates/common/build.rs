// SPDX-License-Identifier: MIT OR Apache-2.0
//! See `bpf_build`, and `page` for the landing page.

#[path = "build/page.rs"]
mod page;

fn main() {
    bpf_build::compiler_version();
    if let Err(error) = page::build() {
        println!("cargo::error={error:#}");
    }
}
