// SPDX-License-Identifier: MIT OR Apache-2.0
//! A function of this process at which users' programs can attach to run once.

/// Called once after the programs of all configs are attached. A program of section
/// `uprobe//proc/self/exe:post_attach_mark` runs then, for example to read an initial state.
///
/// The build script exports the symbol, so that libbpf finds it in a stripped binary.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn post_attach_mark() {
    std::hint::black_box(());
}
