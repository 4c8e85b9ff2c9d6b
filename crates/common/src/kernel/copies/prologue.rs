// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first instructions of a copy of a program: they decide whether this copy counts the event.
//!
//! They are BPF instructions, because they are put before a program that is already compiled. The
//! verifier checks both as one program.

use libbpf_rs::libbpf_sys::{
    BPF_ADD, BPF_ALU, BPF_ALU64, BPF_DW, BPF_EXIT, BPF_IMM, BPF_JEQ, BPF_JMP, BPF_JNE, BPF_K, BPF_LD,
    BPF_LDX, BPF_LSH, BPF_MEM, BPF_MOV, BPF_MUL, BPF_RSH, BPF_ST, BPF_STX, BPF_SUB, BPF_X, bpf_insn,
};

// From linux/bpf.h. libbpf-sys lacks these: they are macros, or newer than its headers.
const BPF_ATOMIC: u32 = 0xc0;
const BPF_CMPXCHG: i32 = 0xf1;
const BPF_PSEUDO_MAP_VALUE: u8 = 2;

/// Number of copies of a program.
pub const COPIES: usize = 3;

/// Number of upper bits of a hash, which choose a set of notes. A set fills half a cache line.
const SET_BITS: u32 = 10;
const WAYS: i16 = 4;
const NOTE_BYTES: i16 = size_of::<u64>() as i16;
const SET_BYTES: i16 = WAYS * NOTE_BYTES;
/// The golden ratio: multiplying by it spreads a number over the upper bits.
const SPREAD: i32 = 0x9e37_79b1_u32 as i32;

/// Offset in the map's value of the number that is 1 once all copies are attached (8 bytes).
pub const ARMED: i16 = 0;
/// Offset of the number of rescues: events counted by a copy that is not the first.
pub const RESCUES: i16 = 8;
/// Offset of the number of events that the first copy left to later ones for lack of room.
pub const LEFT: i16 = 16;
/// Offset of the sets of notes.
const NOTES: i16 = 32;
/// Size of the map's value.
pub const VALUE_BYTES: usize = NOTES as usize + ((SET_BYTES as usize) << SET_BITS);

// Registers. The second one holds the arguments of a program when it starts.
const FOUND: u8 = 0;
const ARGUMENTS: u8 = 1;
const SET: u8 = 2;
const NUMBER: u8 = 3;
const VALUE: u8 = 4;
const NOTE: u8 = 5;

/// Target of a jump. The targets follow the prologue, in this order.
#[derive(Clone, Copy)]
enum To {
    /// Ends the copy.
    End,
    /// Counts a rescue, then runs the program.
    Rescue,
    /// Runs the program.
    Program,
}

/// The prologue of the copy with this number. `notes` is the map that all copies share.
pub fn prologue(copy: usize, notes: i32) -> Vec<bpf_insn> {
    let mut code = Code::default();
    code.push(BPF_LD | BPF_IMM | BPF_DW, VALUE, BPF_PSEUDO_MAP_VALUE, 0, notes);
    code.push(0, 0, 0, 0, 0);
    code.load(NUMBER, VALUE, ARMED);
    // Until all copies are attached, only the first one runs the program.
    code.jump(BPF_JEQ | BPF_K, NUMBER, 0, if copy == 0 { To::Program } else { To::End });
    // The verifier allows no arithmetic on a pointer, but the difference of two pointers is a number.
    code.push(BPF_ALU64 | BPF_MOV | BPF_X, NOTE, ARGUMENTS, 0, 0);
    code.push(BPF_ALU64 | BPF_SUB | BPF_X, NOTE, VALUE, 0, 0);
    code.push(BPF_ALU | BPF_MOV | BPF_X, SET, NOTE, 0, 0);
    code.push(BPF_ALU | BPF_MUL | BPF_K, SET, 0, 0, SPREAD);
    code.push(BPF_ALU | BPF_RSH | BPF_K, SET, 0, 0, (u32::BITS - SET_BITS) as i32);
    code.push(BPF_ALU64 | BPF_LSH | BPF_K, SET, 0, 0, SET_BYTES.trailing_zeros() as i32);
    code.push(BPF_ALU64 | BPF_ADD | BPF_X, SET, VALUE, 0, 0);
    if copy == 0 {
        code.note(To::Program);
        code.add_one(LEFT);
        return code.end(false);
    }
    if copy + 1 < COPIES {
        for way in ways() {
            code.load(FOUND, SET, way);
            code.jump(BPF_JEQ | BPF_X, FOUND, NOTE, To::End);
        }
        code.note(To::Rescue);
    } else {
        code.take_note();
        code.jump(BPF_JEQ | BPF_K, FOUND, 0, To::Rescue);
    }
    code.end(true)
}

/// Offsets of the notes of a set, from the address in its register.
fn ways() -> impl Iterator<Item = i16> {
    (0..WAYS).map(|way| NOTES + way * NOTE_BYTES)
}

fn instruction(code: u32, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    let mut instruction = bpf_insn { code: code as u8, off, imm, ..Default::default() };
    instruction.set_dst_reg(dst);
    instruction.set_src_reg(src);
    instruction
}

/// Instructions, each with its jump target if it has one.
#[derive(Default)]
struct Code(Vec<(bpf_insn, Option<To>)>);

impl Code {
    fn push(&mut self, code: u32, dst: u8, src: u8, off: i16, imm: i32) {
        self.0.push((instruction(code, dst, src, off, imm), None));
    }

    fn set(&mut self, register: u8, value: i32) {
        self.push(BPF_ALU64 | BPF_MOV | BPF_K, register, 0, 0, value);
    }

    fn load(&mut self, register: u8, from: u8, at: i16) {
        self.push(BPF_LDX | BPF_MEM | BPF_DW, register, from, at, 0);
    }

    fn add_one(&mut self, at: i16) {
        self.set(NUMBER, 1);
        self.push(BPF_STX | BPF_ATOMIC | BPF_DW, VALUE, NUMBER, at, BPF_ADD as i32);
    }

    /// Jumps if `condition` holds between two registers, or between a register and 0 if `condition` is
    /// one with a constant.
    fn jump(&mut self, condition: u32, register: u8, other: u8, to: To) {
        self.0.push((instruction(BPF_JMP | condition, register, other, 0, 0), Some(to)));
    }

    /// Makes a note of this event and jumps to `noted`. Continues with the next instruction if the set
    /// is full.
    fn note(&mut self, noted: To) {
        for way in ways() {
            self.set(FOUND, 0);
            self.push(BPF_STX | BPF_ATOMIC | BPF_DW, SET, NOTE, way, BPF_CMPXCHG);
            self.jump(BPF_JEQ | BPF_K, FOUND, 0, noted);
            // A note that an earlier event at this address has left.
            self.jump(BPF_JEQ | BPF_X, FOUND, NOTE, noted);
        }
    }

    /// Removes the notes of this event. FOUND is then 1 if there were any, else 0.
    fn take_note(&mut self) {
        self.set(FOUND, 0);
        for way in ways() {
            self.load(NUMBER, SET, way);
            self.push(BPF_JMP | BPF_JNE | BPF_X, NUMBER, NOTE, 2, 0);
            self.push(BPF_ST | BPF_MEM | BPF_DW, SET, 0, way, 0);
            self.set(FOUND, 1);
        }
    }

    /// Appends the jump targets and resolves the jumps. Without `rescues` no counting of rescues is added,
    /// because the verifier rejects unreachable instructions.
    fn end(mut self, rescues: bool) -> Vec<bpf_insn> {
        let end = self.0.len();
        self.set(FOUND, 0);
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
        let rescue = self.0.len();
        if rescues {
            self.add_one(RESCUES);
        }
        let program = self.0.len();
        let place = |to| match to {
            To::End => end,
            To::Rescue => rescue,
            To::Program => program,
        };
        let resolve = |(at, (mut instruction, to)): (usize, (bpf_insn, Option<To>))| {
            if let Some(to) = to {
                instruction.off = (place(to) - at - 1) as i16;
            }
            instruction
        };
        self.0.into_iter().enumerate().map(resolve).collect()
    }
}
