// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs inside which tasks are preempted: attached several times, so that no event is missed.
//!
//! The kernel does not run a program on a CPU where the same program is under way
//! (kernel/trace/bpf_trace.c: `__bpf_trace_run`; kernel/bpf/trampoline.c:
//! `__bpf_prog_enter_recur`), and counts the miss. Where a task can be preempted inside a program,
//! that CPU is blind until the task runs again, which may be thousands of events later.
//!
//! So there a program is attached as [`COPIES`] copies, which run one after the other at each
//! event. Each begins with a few instructions of ours. The first copy notes in a place of the
//! current thread, for each copy behind it, that this event is counted, and goes on with the
//! program. Another copy takes such a note away and ends; where there is none the copies before it
//! were passed over, so that it goes on in their place, notes that for those behind it, and counts
//! a rescue. An event is lost only where all copies are under way on that CPU. How many those are
//! is exact: what the first copy missed, less the rescues.
//!
//! Notes are counts, not flags: an interrupt between two copies may bring the same event for the
//! same thread, and threads whose ids are a multiple of `PLACES` apart share a place. Each copy
//! takes as many notes as it was left, whoever left them.

use std::ffi::CString;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys::{self, bpf_insn};
use libbpf_rs::{AsRawLibbpf, MapCore, MapFlags, MapHandle, MapType, Object, ProgramMut};
use rustix::io::Errno;

use crate::hook::Hook;

/// How often a program is attached.
pub const COPIES: usize = 3;

/// Places for the notes of threads, by the lower bits of their id.
const PLACES: usize = 8192;

/// Bytes of a place: a count for each copy but the first.
const PLACE_BYTES: usize = 4 * (COPIES - 1).next_power_of_two();

/// Where the value of the map has what it has: whether all copies are attached, rescues, places.
const ARMED: i16 = 0;
const RESCUES: i16 = 8;
const NOTES: i16 = 16;
const VALUE_BYTES: usize = NOTES as usize + PLACES * PLACE_BYTES;

/// A program that is attached several times.
#[derive(Debug)]
pub struct Copies {
    programs: Vec<OwnedFd>,
    notes: MapHandle,
    /// The most events that were shown to be missed.
    missed: AtomicU64,
}

/// What a program did, or its copies together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Events that no copy was run for; none where the kernel does not tell.
    pub missed: Option<u64>,
    /// Runs, while the kernel counted them.
    pub runs: u64,
    /// Nanoseconds in them.
    pub nanoseconds: u64,
}

impl Runs {
    /// Of one program.
    ///
    /// # Errors
    /// When the kernel tells nothing of it.
    pub fn of(program: &OwnedFd) -> Result<Self> {
        let (info, size) = info(program)?;
        // 9ed9e9ba2337 ("bpf: Count the number of times recursion was prevented"), 5.12.
        let told = size >= offset_of!(libbpf_sys::bpf_prog_info, recursion_misses) + size_of::<u64>();
        let missed = told.then_some(info.recursion_misses);
        Ok(Self { missed, runs: info.run_cnt, nanoseconds: info.run_time_ns })
    }
}

impl Copies {
    /// Loads copies of a program that is loaded and not attached, and attaches them for as long as
    /// the links that are returned too are open.
    ///
    /// # Errors
    /// When the kernel takes one of them not; none is attached then.
    pub fn attach(program: &ProgramMut<'_>, hook: &Hook, object: &Object) -> Result<(Self, Vec<OwnedFd>)> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
            ..Default::default()
        };
        let notes = MapHandle::create(MapType::Array, Some("notes"), 4, VALUE_BYTES as u32, 1, &options)
            .context("failed to make a map")?;
        let mut copies = Self { programs: Vec::new(), notes, missed: AtomicU64::new(0) };
        // SAFETY: the pointer is that of a live object, and so is its descriptor of BTF.
        let btf = unsafe { libbpf_sys::bpf_object__btf_fd(object.as_libbpf_object().as_ptr()) };
        // SAFETY: the same; it is borrowed for as long as the object is.
        let btf = (btf >= 0).then(|| unsafe { BorrowedFd::borrow_raw(btf) });
        let original = Original::of(program, hook, btf)?;
        for copy in 0..COPIES {
            copies.programs.push(original.load(copy, copies.notes.as_fd())?);
        }
        // A tracepoint runs first what was attached first (kernel/tracepoint.c: func_add), a
        // function what was attached last (kernel/bpf/trampoline.c: bpf_trampoline_link_prog).
        let mut order: Vec<&OwnedFd> = copies.programs.iter().collect();
        if hook.function().is_some() {
            order.reverse();
        }
        let links = order.into_iter().map(|program| original.attach(program)).collect::<Result<_>>()?;
        let mut value = copies.value()?;
        value[ARMED as usize] = 1;
        copies.notes.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY).context("failed to begin")?;
        Ok((copies, links))
    }

    fn value(&self) -> Result<Vec<u8>> {
        let value = self.notes.lookup(&0u32.to_ne_bytes(), MapFlags::ANY);
        value.context("failed to read the notes of copies")?.context("an array has all its entries")
    }

    /// The one that runs first at an event.
    pub fn first(&self) -> Option<BorrowedFd<'_>> {
        self.programs.first().map(AsFd::as_fd)
    }

    /// What they did so far.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn runs(&self) -> Result<Runs> {
        let mut sum = Runs::default();
        for (copy, program) in self.programs.iter().enumerate() {
            let one = Runs::of(program)?;
            sum.runs += one.runs;
            sum.nanoseconds += one.nanoseconds;
            if copy == 0 {
                sum.missed = one.missed;
            }
        }
        let value = self.value()?;
        let rescues = value[RESCUES as usize..][..8].try_into().map_or(0, u64::from_ne_bytes);
        // Rescues are read last: a moment later, so that there may be too many of them by then, and
        // the difference too small. It is not shown to sink.
        sum.missed = sum.missed.map(|missed| {
            let missed = missed.saturating_sub(rescues);
            self.missed.fetch_max(missed, Ordering::Relaxed).max(missed)
        });
        Ok(sum)
    }
}

/// What the kernel tells, and how many bytes of it: those behind are not known.
///
/// # Errors
/// When it tells nothing.
pub fn info(fd: &OwnedFd) -> Result<(libbpf_sys::bpf_prog_info, usize)> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut size = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `size` bytes into `info`.
    let result = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(fd.as_raw_fd(), &raw mut info, &raw mut size) };
    if result < 0 {
        return Err(Errno::from_raw_os_error(-result).into());
    }
    Ok((info, size as usize))
}

/// What is needed to load a program once more.
struct Original<'p> {
    name: CString,
    kind: libbpf_sys::bpf_prog_type,
    attach_type: libbpf_sys::bpf_attach_type,
    /// The tracepoint of one that the kernel attaches by name.
    tracepoint: Option<CString>,
    instructions: &'p [bpf_insn],
    /// The type of what it is attached to, and the module's BTF where that is `MODULE:FUNCTION`.
    target: (u32, Option<OwnedFd>),
    btf: Option<BorrowedFd<'p>>,
    /// Instruction and type of each of its functions.
    functions: Vec<[u32; 2]>,
}

impl<'p> Original<'p> {
    fn of(program: &ProgramMut<'p>, hook: &Hook, btf: Option<BorrowedFd<'p>>) -> Result<Self> {
        let fd = program.as_fd().try_clone_to_owned().context("failed to copy a program descriptor")?;
        let (about, _) = info(&fd)?;
        let tracepoint = match hook {
            Hook::RawTp(name) => Some(CString::new(name.as_str()).context("the name of a tracepoint")?),
            _ => None,
        };
        // The kernel's own is meant where there is none.
        let module = if program.section().to_string_lossy().contains(':') {
            // SAFETY: asks the kernel for a descriptor of BTF by its number.
            let fd = unsafe { libbpf_sys::bpf_btf_get_fd_by_id(about.attach_btf_obj_id) };
            Some(descriptor(fd).context("failed to ask for the BTF of a module")?)
        } else {
            None
        };
        let functions = match btf {
            Some(_) => functions(&fd, about.nr_func_info)?,
            None => Vec::new(),
        };
        Ok(Self {
            name: CString::new(program.name().to_string_lossy().as_bytes())
                .context("the name of a program")?,
            kind: program.prog_type() as libbpf_sys::bpf_prog_type,
            attach_type: match hook {
                Hook::Fentry(_) => libbpf_sys::BPF_TRACE_FENTRY,
                Hook::Fexit(_) => libbpf_sys::BPF_TRACE_FEXIT,
                Hook::TpBtf(_) => libbpf_sys::BPF_TRACE_RAW_TP,
                _ => 0,
            },
            tracepoint,
            instructions: program.insns(),
            target: (about.attach_btf_id, module),
            btf,
            functions,
        })
    }

    fn load(&self, copy: usize, notes: BorrowedFd<'_>) -> Result<OwnedFd> {
        let mut instructions = prologue(copy, notes.as_raw_fd());
        let shift = instructions.len() as u32;
        instructions.extend_from_slice(self.instructions);
        let mut functions = self.functions.clone();
        functions.iter_mut().skip(1).for_each(|[at, _]| *at += shift);
        let mut options = libbpf_sys::bpf_prog_load_opts {
            sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as u64,
            expected_attach_type: self.attach_type,
            attach_btf_id: self.target.0,
            attach_btf_obj_fd: self.target.1.as_ref().map_or(0, |fd| fd.as_raw_fd() as u32),
            ..Default::default()
        };
        if let (Some(btf), false) = (self.btf, functions.is_empty()) {
            options.prog_btf_fd = btf.as_raw_fd() as u32;
            options.func_info = functions.as_ptr().cast();
            options.func_info_cnt = functions.len() as u32;
            options.func_info_rec_size = size_of::<[u32; 2]>() as u32;
        }
        // SAFETY: all pointers are to values that outlive the call.
        let fd = unsafe {
            libbpf_sys::bpf_prog_load(
                self.kind,
                self.name.as_ptr(),
                c"Dual BSD/GPL".as_ptr(),
                instructions.as_ptr(),
                instructions.len() as u64,
                &raw mut options,
            )
        };
        descriptor(fd)
            .with_context(|| format!("failed to load copy {copy} of {}", self.name.to_string_lossy()))
    }

    fn attach(&self, program: &OwnedFd) -> Result<OwnedFd> {
        let name = self.tracepoint.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        // SAFETY: the name outlives the call. Without one it is what the program was loaded for.
        let fd = unsafe { libbpf_sys::bpf_raw_tracepoint_open(name, program.as_raw_fd()) };
        descriptor(fd).with_context(|| format!("failed to attach a copy of {}", self.name.to_string_lossy()))
    }
}

fn descriptor(result: i32) -> Result<OwnedFd> {
    if result < 0 {
        return Err(Errno::from_raw_os_error(-result).into());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Where the functions of a program begin, and their types.
fn functions(program: &OwnedFd, number: u32) -> Result<Vec<[u32; 2]>> {
    let mut functions = vec![[0; 2]; number as usize];
    let mut info = libbpf_sys::bpf_prog_info {
        nr_func_info: number,
        func_info_rec_size: size_of::<[u32; 2]>() as u32,
        func_info: functions.as_mut_ptr() as u64,
        ..Default::default()
    };
    let mut size = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `size` bytes into `info`, and so many records.
    let result =
        unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut size) };
    if result < 0 {
        return Err(Errno::from_raw_os_error(-result).into());
    }
    functions.truncate(info.nr_func_info as usize);
    Ok(functions)
}

fn instruction(code: u32, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    let mut instruction = bpf_insn { code: code as u8, off, imm, ..Default::default() };
    instruction.set_dst_reg(dst);
    instruction.set_src_reg(src);
    instruction
}

/// What a copy does before the program, which it goes on with at its end.
fn prologue(copy: usize, notes: i32) -> Vec<bpf_insn> {
    use libbpf_sys::{
        BPF_ADD, BPF_ALU, BPF_ALU64, BPF_AND, BPF_CALL, BPF_DW, BPF_EXIT, BPF_IMM, BPF_JA, BPF_JEQ, BPF_JMP,
        BPF_JMP32, BPF_JSGT, BPF_K, BPF_LD, BPF_LDX, BPF_LSH, BPF_MEM, BPF_MOV, BPF_STX, BPF_W, BPF_X,
    };
    const BPF_ATOMIC: u32 = 0xc0;
    const GET_CURRENT_PID_TGID: i32 = libbpf_sys::BPF_FUNC_get_current_pid_tgid as i32;
    const BPF_PSEUDO_MAP_VALUE: u8 = 2;
    let note = |copy: usize| NOTES + 4 * (copy as i16 - 1);
    let set = |register, value| instruction(BPF_ALU64 | BPF_MOV | BPF_K, register, 0, 0, value);
    let copy_register = |to, from| instruction(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0);
    let add = |size, to, off| instruction(BPF_STX | BPF_ATOMIC | size, to, 3, off, BPF_ADD as i32);
    let leave_notes = |code: &mut Vec<bpf_insn>| {
        code.push(set(3, 1));
        code.extend((copy + 1..COPIES).map(|behind| add(BPF_W, 2, note(behind))));
    };
    let mut code = vec![
        copy_register(6, 1),
        instruction(BPF_JMP | BPF_CALL, 0, 0, 0, GET_CURRENT_PID_TGID),
        // r0: bytes to the place of this thread; r4: the value of the map; r2: the place
        instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0, PLACES as i32 - 1),
        instruction(BPF_ALU64 | BPF_LSH | BPF_K, 0, 0, 0, PLACE_BYTES.trailing_zeros() as i32),
        instruction(BPF_LD | BPF_IMM | BPF_DW, 4, BPF_PSEUDO_MAP_VALUE, 0, notes),
        instruction(0, 0, 0, 0, 0),
        copy_register(2, 4),
        instruction(BPF_ALU64 | BPF_ADD | BPF_X, 2, 0, 0, 0),
        copy_register(1, 6),
        instruction(BPF_LDX | BPF_MEM | BPF_W, 3, 4, ARMED, 0),
    ];
    if copy == 0 {
        // Until all are attached it is the only one.
        code.push(instruction(BPF_JMP32 | BPF_JEQ | BPF_K, 3, 0, COPIES as i16, 0));
        leave_notes(&mut code);
        return code;
    }
    let mut rescue = vec![set(3, 1), add(BPF_DW, 4, RESCUES)];
    leave_notes(&mut rescue);
    let mut end = vec![set(3, -1), add(BPF_W, 2, note(copy))];
    end.extend([set(0, 0), instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)]);
    rescue.push(instruction(BPF_JMP | BPF_JA, 0, 0, end.len() as i16, 0));
    let to_exit = 2 + rescue.len() + 2;
    code.push(instruction(BPF_JMP32 | BPF_JEQ | BPF_K, 3, 0, to_exit as i16, 0));
    code.push(instruction(BPF_LDX | BPF_MEM | BPF_W, 3, 2, note(copy), 0));
    code.push(instruction(BPF_JMP32 | BPF_JSGT | BPF_K, 3, 0, rescue.len() as i16, 0));
    code.append(&mut rescue);
    code.append(&mut end);
    code
}
