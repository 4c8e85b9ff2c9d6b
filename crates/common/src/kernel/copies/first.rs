// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the first copy of a program out of the program itself, before it is loaded. So a program is
//! not loaded once more than it is attached.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::slice;

use libbpf_rs::libbpf_sys::{self, bpf_insn};
use libbpf_rs::{AsRawLibbpf, Error, ErrorExt, MapHandle, MapType, OpenObject, OpenProgramMut, Result};

use super::prologue::{VALUE_BYTES, prologue};
/// What a program has got that is loaded as the first of several copies.
#[derive(Debug)]
pub struct First {
    /// The map that its copies share.
    pub notes: MapHandle,
    /// Number of instructions that were put before the program.
    pub added: usize,
}

/// Turns each of `programs` into its first copy. The kernel has created the object's maps then, and
/// has seen no program.
///
/// # Errors
/// When the kernel refuses a map, or has no types for a program. The object cannot be loaded then.
pub fn prepare(object: &mut OpenObject, programs: &[String]) -> Result<BTreeMap<String, First>> {
    let mut firsts = BTreeMap::new();
    if programs.is_empty() {
        return Ok(firsts);
    }
    // Instructions are those that the kernel gets only after libbpf has adapted them to the kernel.
    // SAFETY: the pointer is that of an open object.
    let result = unsafe { libbpf_sys::bpf_object__prepare(object.as_libbpf_object().as_ptr()) };
    checked(result)?;
    for mut program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if programs.contains(&name) {
            let first = change(&mut program).with_context(|| format!("program `{name}`"))?;
            firsts.insert(name, first);
        }
    }
    Ok(firsts)
}

fn change(program: &mut OpenProgramMut<'_>) -> Result<First> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
        ..Default::default()
    };
    let notes = MapHandle::create(MapType::Array, Some("notes"), 4, VALUE_BYTES as u32, 1, &options)
        .context("failed to create a map")?;
    let mut instructions = prologue(0, notes.as_fd().as_raw_fd());
    let added = instructions.len();
    instructions.extend_from_slice(program.insns());
    set_instructions(program, &mut instructions)?;
    move_records(program, added as u32);
    Ok(First { notes, added })
}

fn set_instructions(program: &mut OpenProgramMut<'_>, instructions: &mut [bpf_insn]) -> Result<()> {
    let program = program.as_libbpf_object().as_ptr();
    // SAFETY: both pointers are valid, and libbpf copies the instructions.
    let result = unsafe {
        libbpf_sys::bpf_program__set_insns(program, instructions.as_mut_ptr(), instructions.len() as u64)
    };
    checked(result).context("failed to set its instructions")
}

fn checked(result: i32) -> Result<()> {
    if result < 0 { Err(Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// Moves where libbpf says that functions and source lines start. The first record of each stays at
/// the first instruction, where the kernel wants one (kernel/bpf/verifier.c: check_btf_func_early,
/// check_btf_line).
fn move_records(program: &mut OpenProgramMut<'_>, by: u32) {
    let program = program.as_libbpf_object().as_ptr();
    // SAFETY: libbpf returns its own records of this program, with their number, or null and 0. Only
    // `program`, which is borrowed mutably, leads to them, and they are not in read-only memory.
    let (functions, lines) = unsafe {
        (
            records(
                libbpf_sys::bpf_program__func_info(program),
                libbpf_sys::bpf_program__func_info_cnt(program),
            ),
            records(
                libbpf_sys::bpf_program__line_info(program),
                libbpf_sys::bpf_program__line_info_cnt(program),
            ),
        )
    };
    functions.iter_mut().skip(1).for_each(|function| function.insn_off += by);
    lines.iter_mut().skip(1).for_each(|line| line.insn_off += by);
}

/// # Safety
/// `first` is null, or points to `count` records that nobody else uses during `'r`.
unsafe fn records<'r, T>(first: *mut T, count: u32) -> &'r mut [T] {
    if first.is_null() {
        return &mut [];
    }
    // SAFETY: as this function asks.
    unsafe { slice::from_raw_parts_mut(first, count as usize) }
}
