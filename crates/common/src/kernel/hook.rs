// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hooks of programs, and whether programs read arguments there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use libbpf_rs::{OpenObject, OpenProgram};
use libbpf_sys::{
    BPF_ALU, BPF_ALU64, BPF_CALL, BPF_DW, BPF_EXIT, BPF_FUNC_tail_call, BPF_IMM, BPF_JA, BPF_JMP, BPF_JMP32,
    BPF_LD, BPF_LDX, BPF_MOV, BPF_ST, BPF_STX, BPF_X, bpf_insn,
};

use crate::spec::View;

/// Where a program attaches, from its ELF section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint with typed arguments.
    TpBtf(String),
    /// A tracepoint with untyped arguments.
    RawTp(String),
    /// A function's entry.
    Fentry(String),
    /// A function's exit, with its arguments and its result.
    Fexit(String),
    /// A function's entry, by kprobe.
    Kprobe {
        /// Name of the function.
        function: String,
        /// Whether the program reads the function's arguments; true if unknown.
        reads_arguments: bool,
    },
    /// A function's exit, by kretprobe.
    Kretprobe(String),
    /// Any other section, such as that of an iterator. libbpf decides how to attach it.
    Other(String),
}

/// The function in `MODULE:FUNCTION`. Without the module, libbpf would search the types of all
/// modules.
fn function_of(name: &str) -> String {
    name.split_once(':').map_or(name, |(_, function)| function).to_owned()
}

impl Hook {
    /// Parses a section name.
    ///
    /// ```
    /// use common::kernel::hook::Hook;
    /// assert_eq!(Hook::parse("tp_btf/sched_switch"), Hook::TpBtf("sched_switch".into()));
    /// assert_eq!(Hook::parse("fentry/wireguard:wg_xmit"), Hook::Fentry("wg_xmit".into()));
    /// ```
    pub fn parse(section: &str) -> Self {
        match section.split_once('/') {
            Some(("tp_btf", name)) => Self::TpBtf(name.to_owned()),
            Some(("raw_tp" | "raw_tracepoint", name)) => Self::RawTp(name.to_owned()),
            Some(("fentry", name)) => Self::Fentry(function_of(name)),
            Some(("fexit", name)) => Self::Fexit(function_of(name)),
            Some(("kprobe", name)) => Self::Kprobe { function: name.to_owned(), reads_arguments: true },
            Some(("kretprobe", name)) => Self::Kretprobe(name.to_owned()),
            _ => Self::Other(section.to_owned()),
        }
    }

    /// The tracepoint whose shape must be known.
    pub fn tracepoint(&self) -> Option<&str> {
        match self {
            Self::TpBtf(name) | Self::RawTp(name) => Some(name),
            _ => None,
        }
    }

    /// The function whose shape must be known.
    pub fn function(&self) -> Option<&str> {
        match self {
            Self::Fentry(name) | Self::Fexit(name) | Self::Kretprobe(name) => Some(name),
            Self::Kprobe { function, .. } => Some(function),
            _ => None,
        }
    }

    /// Whether it is an iterator, whose program runs on request and not at an event.
    pub fn is_iterator(&self) -> bool {
        matches!(self, Self::Other(section) if section.starts_with("iter/"))
    }

    /// What a program there must be able to see.
    pub fn view(&self) -> Option<View> {
        matches!(self, Self::Other(section) if section.starts_with("iter/task")).then_some(View::Tasks)
    }

    /// Whether it is a kprobe or kretprobe, which attach to any symbol.
    pub fn is_breakpoint(&self) -> bool {
        matches!(self, Self::Kprobe { .. } | Self::Kretprobe(_))
    }

    /// Whether the kernel needs its own BTF for such a program.
    pub fn needs_btf(&self) -> bool {
        self.is_iterator() || matches!(self, Self::TpBtf(_) | Self::Fentry(_) | Self::Fexit(_))
    }

    /// The kind alone, as in `fallback: raw_tp`.
    pub fn kind(&self) -> &str {
        match self {
            Self::TpBtf(_) => "tp_btf",
            Self::RawTp(_) => "raw_tp",
            Self::Fentry(_) => "fentry",
            Self::Fexit(_) => "fexit",
            Self::Kprobe { .. } => "kprobe",
            Self::Kretprobe(_) => "kretprobe",
            Self::Other(section) => section.split('/').next().unwrap_or(section),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tracepoint().or_else(|| self.function()) {
            Some(name) => write!(f, "{}/{name}", self.kind()),
            None => match self {
                Self::Other(section) => f.write_str(section),
                _ => f.write_str(self.kind()),
            },
        }
    }
}

/// The hooks of an object's programs, by program name.
pub type Hooks = BTreeMap<String, Hook>;

/// The hooks of all programs of `object`.
pub fn hooks(object: &OpenObject) -> Hooks {
    let hook = |program: &OpenProgram<'_>| match Hook::parse(&program.section().to_string_lossy()) {
        Hook::Kprobe { function, .. } => {
            Hook::Kprobe { function, reads_arguments: reads_context(program.insns()) }
        }
        hook => hook,
    };
    object.progs().map(|p| (p.name().to_string_lossy().into_owned(), hook(&p))).collect()
}

/// Effect of an instruction on the first register, in which a program gets its context.
enum Use {
    Reads,
    Overwrites,
    Nothing,
}

/// Whether a program may read its context: whether a path leads to an instruction that reads the
/// first register before one that overwrites it. For the instructions see the kernel's
/// Documentation/bpf/standardization/instruction-set.rst.
fn reads_context(instructions: &[bpf_insn]) -> bool {
    let (mut ways, mut seen) = (vec![0i64], BTreeSet::new());
    while let Some(at) = ways.pop() {
        if !seen.insert(at) {
            continue;
        }
        let Some(i) = usize::try_from(at).ok().and_then(|at| instructions.get(at)) else { return true };
        match use_of_context(i) {
            Use::Reads => return true,
            Use::Overwrites => {}
            Use::Nothing => ways.extend(next(at, i)),
        }
    }
    false
}

fn use_of_context(i: &bpf_insn) -> Use {
    let (code, destination, source) = (u32::from(i.code), i.dst_reg() == 1, i.src_reg() == 1);
    let by_register = code & BPF_X != 0;
    let (reads, overwrites) = match code & 7 {
        // The load of a 64-bit constant. The other instructions of this class load packet data.
        BPF_LD => (code != BPF_LD | BPF_IMM | BPF_DW, destination),
        BPF_LDX => (source, destination),
        BPF_ST => (destination, false),
        BPF_STX => (destination || source, false),
        BPF_ALU | BPF_ALU64 if code & 0xf0 == BPF_MOV => (by_register && source, destination),
        BPF_ALU | BPF_ALU64 => (destination || by_register && source, false),
        // A call overwrites the register. Helpers are taken not to read it. Other functions and the
        // target of a tail call may read it.
        _ if code & 0xf0 == BPF_CALL => (i.src_reg() != 0 || i.imm as u32 == BPF_FUNC_tail_call, true),
        _ if matches!(code & 0xf0, BPF_JA | BPF_EXIT) => (false, false),
        _ => (destination || by_register && source, false),
    };
    match (reads, overwrites) {
        (true, _) => Use::Reads,
        (false, true) => Use::Overwrites,
        (false, false) => Use::Nothing,
    }
}

/// The possible successors of the instruction at `at`.
fn next(at: i64, i: &bpf_insn) -> Vec<i64> {
    let code = u32::from(i.code);
    let (behind, target) = (at + 1, at + 1 + i64::from(i.off));
    match (code & 7, code & 0xf0) {
        // This instruction takes two slots.
        (BPF_LD, _) => vec![at + 2],
        (BPF_JMP, BPF_JA) => vec![target],
        (BPF_JMP32, BPF_JA) => vec![behind + i64::from(i.imm)],
        (BPF_JMP | BPF_JMP32, BPF_EXIT) => Vec::new(),
        (BPF_JMP | BPF_JMP32, operation) if operation != BPF_CALL => vec![behind, target],
        _ => vec![behind],
    }
}

#[cfg(test)]
mod tests {
    use libbpf_sys::{BPF_ADD, BPF_JNE, BPF_MEM};

    use super::*;

    fn instruction(code: u32, destination: u8, source: u8, off: i16, imm: i32) -> bpf_insn {
        let mut i = bpf_insn { code: code as u8, off, imm, ..bpf_insn::default() };
        i.set_dst_reg(destination);
        i.set_src_reg(source);
        i
    }

    fn load(destination: u8, source: u8) -> bpf_insn {
        instruction(BPF_LDX | BPF_MEM | BPF_DW, destination, source, 112, 0)
    }

    fn set(destination: u8) -> bpf_insn {
        instruction(BPF_ALU64 | BPF_MOV, destination, 0, 0, 7)
    }

    fn copy(destination: u8, source: u8) -> bpf_insn {
        instruction(BPF_ALU64 | BPF_MOV | BPF_X, destination, source, 0, 0)
    }

    fn call(source: u8, number: i32) -> bpf_insn {
        instruction(BPF_JMP | BPF_CALL, 0, source, 0, number)
    }

    /// Skips `over` instructions, unless r2 is 0.
    fn jump(over: i16) -> bpf_insn {
        instruction(BPF_JMP | BPF_JNE, 2, 0, over, 0)
    }

    fn end() -> bpf_insn {
        instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
    }

    #[test]
    fn a_program_that_leaves_its_context_alone_reads_no_arguments() {
        let map = [instruction(BPF_LD | BPF_IMM | BPF_DW, 1, 1, 0, 3), instruction(0, 0, 0, 0, 0)];
        assert!(!reads_context(&[set(0), end()]));
        assert!(!reads_context(&[map[0], map[1], load(3, 1), call(0, 1), end()]));
        assert!(!reads_context(&[call(0, 14), load(3, 1), end()]));
        assert!(!reads_context(&[set(1), copy(6, 1), end()]));
        assert!(!reads_context(&[jump(-1), end()]));
    }

    #[test]
    fn a_program_that_may_look_at_its_context_reads_arguments() {
        assert!(reads_context(&[load(3, 1), end()]));
        assert!(reads_context(&[copy(6, 1), call(0, 14), end()]));
        assert!(reads_context(&[instruction(BPF_STX | BPF_MEM | BPF_DW, 10, 1, -8, 0), end()]));
        assert!(reads_context(&[instruction(BPF_ALU64 | BPF_ADD, 1, 0, 0, 8), end()]));
        // Only one of two paths reads it.
        assert!(reads_context(&[jump(1), set(1), load(3, 1), end()]));
        // A called function or the target of a tail call may read it.
        assert!(reads_context(&[call(1, 2), end()]));
        assert!(reads_context(&[call(0, 12), end()]));
        assert!(reads_context(&[]));
    }
}
