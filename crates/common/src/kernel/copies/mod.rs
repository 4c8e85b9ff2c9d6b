// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaches programs several times on kernels that preempt them, so that no event is missed.
//!
//! The kernel does not run a program on a CPU where the same program is already running
//! (kernel/trace/bpf_trace.c: `__bpf_trace_run`; kernel/bpf/trampoline.c:
//! `__bpf_prog_enter_recur`), and counts the miss. If a task is preempted inside a program, that
//! CPU misses events until the task runs again. That may be thousands of events.
//!
//! So the program is attached as `COPIES` copies (the program itself is loaded as the first), which run one after the other at each event.
//! Each copy starts with a few added instructions. The first copy makes a note that the event is
//! counted and runs the program. Another copy that finds the note returns. If there is no note, the
//! earlier copies were skipped: this copy makes the note, runs the program and counts a rescue. The
//! last copy removes the note. An event is lost only if all copies are running on that CPU. The
//! exact number of lost events is the misses of the first copy minus the rescues.
//!
//! A note is the address of the event's arguments. They are on the stack, in the frame of the
//! function that runs all copies one after the other (include/trace/events: `__traceiter_NAME`; the
//! trampoline of a function). So no other event in progress has the same address on any CPU, even
//! if an interrupt causes the same event between two copies. If the last copy of an event is
//! skipped, its note stays. The next event at that address takes it over.
//!
//! Notes are in sets of a few words, chosen by address. A copy that finds no room for its note
//! leaves the event to later copies. The last copy needs no note.

use std::ffi::CString;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{ptr, slice};

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys::{self, bpf_insn};
use libbpf_rs::{AsRawLibbpf, MapCore, MapFlags, MapHandle, Object, ProgramMut};
use rustix::io::Errno;

use crate::kernel::hook::Hook;
use crate::kernel::refusal::verdict;

mod first;
mod prologue;

pub use first::{First, prepare};
use prologue::{ARMED, COPIES, LEFT, RESCUES, prologue};

/// Size of the verifier's log for a copy that it rejects.
const LOG_BYTES: usize = 1 << 20;

/// A program that is attached several times.
#[derive(Debug)]
pub struct Copies {
    programs: Vec<OwnedFd>,
    notes: MapHandle,
    /// The highest number of missed events shown so far.
    missed: AtomicU64,
}

/// Statistics of a program, or of its copies together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Events for which no copy ran; None if the kernel does not report them.
    pub missed: Option<u64>,
    /// Number of runs while kernel.bpf_stats_enabled was 1; of copies, of the first.
    pub runs: u64,
    /// Nanoseconds spent in these runs.
    pub nanoseconds: u64,
}

impl Runs {
    /// Statistics of one program.
    ///
    /// # Errors
    /// When the kernel returns no information about it.
    pub fn of(program: &OwnedFd) -> Result<Self> {
        let (info, size) = info(program)?;
        // 9ed9e9ba2337 ("bpf: Count the number of times recursion was prevented"), 5.12.
        let told = size >= offset_of!(libbpf_sys::bpf_prog_info, recursion_misses) + size_of::<u64>();
        let missed = told.then_some(info.recursion_misses);
        Ok(Self { missed, runs: info.run_cnt, nanoseconds: info.run_time_ns })
    }
}

impl Copies {
    /// Loads more copies of a program that was loaded as `first` and is not attached, and attaches them
    /// all. They stay attached while the returned links are open.
    ///
    /// # Errors
    /// When the kernel refuses one of them; then none is attached.
    pub fn attach(
        first: First,
        program: &ProgramMut<'_>,
        hook: &Hook,
        object: &Object,
    ) -> Result<(Self, Vec<OwnedFd>)> {
        // SAFETY: the pointer is that of a live object.
        let btf = unsafe { libbpf_sys::bpf_object__btf_fd(object.as_libbpf_object().as_ptr()) };
        // SAFETY: the descriptor belongs to the object, and is borrowed no longer than the object.
        let btf = (btf >= 0).then(|| unsafe { BorrowedFd::borrow_raw(btf) });
        let original = Original::of(program, first.added, hook, btf)?;
        let fd = program.as_fd().try_clone_to_owned().context("failed to copy a program descriptor")?;
        let mut copies = Self { programs: vec![fd], notes: first.notes, missed: AtomicU64::new(0) };
        for copy in 1..COPIES {
            copies.programs.push(original.load(copy, copies.notes.as_fd())?);
        }
        // At a tracepoint, the program attached first runs first (kernel/tracepoint.c: func_add). At a
        // function, the one attached last (kernel/bpf/trampoline.c: bpf_trampoline_link_prog).
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
        value.context("failed to read the counters of the copies")?.context("an array has all its entries")
    }

    /// The copy that runs first at an event.
    pub fn first(&self) -> Option<BorrowedFd<'_>> {
        self.programs.first().map(AsFd::as_fd)
    }

    /// Statistics so far.
    ///
    /// # Errors
    /// When the kernel returns no information about a copy.
    pub fn runs(&self) -> Result<Runs> {
        let mut sum = Runs::default();
        for (copy, program) in self.programs.iter().enumerate() {
            let one = Runs::of(program)?;
            sum.nanoseconds += one.nanoseconds;
            // All copies run at each event.
            if copy == 0 {
                (sum.runs, sum.missed) = (one.runs, one.missed);
            }
        }
        let value = self.value()?;
        let number = |at: i16| value[at as usize..][..8].try_into().map_or(0, u64::from_ne_bytes);
        // Rescues are read last, a moment later. So they may be too high and the difference too
        // low. The shown value never goes down.
        sum.missed = sum.missed.map(|missed| {
            let missed = (missed + number(LEFT)).saturating_sub(number(RESCUES));
            self.missed.fetch_max(missed, Ordering::Relaxed).max(missed)
        });
        Ok(sum)
    }
}

/// The kernel's information about a program, and the number of valid bytes in it.
///
/// # Errors
/// When the kernel refuses.
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

/// Everything needed to load a program again, without what makes it the first copy.
struct Original<'p> {
    name: CString,
    kind: libbpf_sys::bpf_prog_type,
    attach_type: libbpf_sys::bpf_attach_type,
    /// The tracepoint, if the kernel attaches the program by its name.
    tracepoint: Option<CString>,
    instructions: &'p [bpf_insn],
    /// BTF type of the target, and the module's BTF if the target is `MODULE:FUNCTION`.
    target: (u32, Option<OwnedFd>),
    btf: Option<BorrowedFd<'p>>,
    /// First instruction and type of each function.
    functions: Vec<[u32; 2]>,
}

impl<'p> Original<'p> {
    /// `added` is the number of instructions that were put before the program.
    fn of(program: &ProgramMut<'p>, added: usize, hook: &Hook, btf: Option<BorrowedFd<'p>>) -> Result<Self> {
        let fd = program.as_fd().try_clone_to_owned().context("failed to copy a program descriptor")?;
        let (about, _) = info(&fd)?;
        let tracepoint = match hook {
            Hook::RawTp(name) => Some(CString::new(name.as_str()).context("the name of a tracepoint")?),
            _ => None,
        };
        // Without a module the type is from the kernel's own BTF.
        let module = if program.section().to_string_lossy().contains(':') {
            // SAFETY: the only argument is a number.
            let fd = unsafe { libbpf_sys::bpf_btf_get_fd_by_id(about.attach_btf_obj_id) };
            Some(descriptor(fd).context("failed to get the BTF of a module")?)
        } else {
            None
        };
        let functions = match btf {
            Some(_) => functions(program, added as u32),
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
            instructions: &program.insns()[added..],
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
        let load = |options: &mut libbpf_sys::bpf_prog_load_opts| {
            // SAFETY: all pointers are to values that outlive the call.
            descriptor(unsafe {
                libbpf_sys::bpf_prog_load(
                    self.kind,
                    self.name.as_ptr(),
                    c"Dual BSD/GPL".as_ptr(),
                    instructions.as_ptr(),
                    instructions.len() as u64,
                    options,
                )
            })
        };
        load(&mut options)
            .or_else(|error| {
                let mut log = vec![0; LOG_BYTES];
                options.log_level = 1;
                options.log_buf = log.as_mut_ptr().cast();
                options.log_size = LOG_BYTES as u32;
                load(&mut options).map_err(|_| {
                    let log = log.split(|byte| *byte == 0).next().unwrap_or_default();
                    anyhow::Error::from(error)
                        .context(verdict(&String::from_utf8_lossy(log)).unwrap_or_default())
                })
            })
            .with_context(|| format!("failed to load copy {copy} of {}", self.name.to_string_lossy()))
    }

    fn attach(&self, program: &OwnedFd) -> Result<OwnedFd> {
        let name = self.tracepoint.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        // SAFETY: the name outlives the call. Without one, the kernel takes the target that the
        // program was loaded for.
        let fd = unsafe { libbpf_sys::bpf_raw_tracepoint_open(name, program.as_raw_fd()) };
        descriptor(fd).with_context(|| format!("failed to attach a copy of {}", self.name.to_string_lossy()))
    }
}

fn descriptor(result: i32) -> Result<OwnedFd, Errno> {
    if result < 0 {
        return Err(Errno::from_raw_os_error(-result));
    }
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// Start and type of a program's functions as they were passed to the kernel, which has removed
/// unreachable code since; without the instructions that were put before the program.
fn functions(program: &ProgramMut<'_>, added: u32) -> Vec<[u32; 2]> {
    let program = program.as_libbpf_object().as_ptr();
    // SAFETY: the pointer is that of a live program, and libbpf returns the number of the records.
    let records = unsafe {
        let records = libbpf_sys::bpf_program__func_info(program);
        if records.is_null() {
            return Vec::new();
        }
        slice::from_raw_parts(records, libbpf_sys::bpf_program__func_info_cnt(program) as usize)
    };
    records.iter().map(|record| [record.insn_off.saturating_sub(added), record.type_id]).collect()
}
