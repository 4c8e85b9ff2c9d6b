// SPDX-License-Identifier: MIT OR Apache-2.0
//! Workloads that cause an exact number of events.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write, pipe};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Duration;

use tempfile::{NamedTempFile, TempPath};

/// Makes system call `number` with three arguments, `times` times. Returns the last result.
pub fn system_call(number: i64, arguments: [i64; 3], times: u32) -> i64 {
    let mut result = 0;
    for _ in 0..times {
        // SAFETY: callers pass numbers and arguments with which the kernel accesses no memory.
        result = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2]) };
    }
    result
}

/// Waits for a signal that does not come, for `time`: one `rt_sigtimedwait`, which little else calls.
pub fn wait_for_no_signal(time: Duration) {
    let time = libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    let mut none = MaybeUninit::uninit();
    // SAFETY: the call fills in the set; both structs outlive the calls, and a null pointer is allowed.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigtimedwait(none.as_ptr(), std::ptr::null_mut(), &raw const time);
    }
}

/// Makes the kernel answer system call `number` of this thread with `error`, from now on.
///
/// # Panics
/// When the kernel refuses the filter.
#[track_caller]
pub fn refuse(number: i64, error: i32) {
    let instruction = |code: u32, k: u32, jf: u8| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut program = [
        // The system call's number is the first member of struct seccomp_data.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32, 1),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | error as u32, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
    assert_eq!(result, 0, "a filter: {}", std::io::Error::last_os_error());
}

/// Makes the 32-bit system call `number` with one argument, `times` times. Returns the last result.
#[cfg(target_arch = "x86_64")]
pub fn compat_system_call(number: i32, argument: i32, times: u32) -> i32 {
    let mut result = 0;
    for _ in 0..times {
        // SAFETY: callers pass calls with which the kernel accesses no memory. rbx, which the compiler
        // reserves, is restored; the kernel clears r8 to r11.
        unsafe {
            std::arch::asm!(
                "xchg rbx, {argument}", "int 0x80", "xchg rbx, {argument}",
                argument = inout(reg) i64::from(argument) => _,
                inlateout("eax") number => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            );
        }
    }
    result
}

/// Runs `work` while real-time threads occupy all CPUs, so that no kernel worker runs meanwhile.
///
/// # Panics
/// When the kernel refuses real-time priority, or `work` panics.
#[track_caller]
pub fn without_workers(work: impl FnOnce() + Send) {
    let real_time = || {
        let priority = libc::sched_param { sched_priority: 1 };
        // SAFETY: the call affects this thread only; the pointer outlives it.
        let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    };
    let cpus = thread::available_parallelism().expect("a number of CPUs").get();
    let (started, done) = (Barrier::new(cpus), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 1..cpus {
            scope.spawn(|| {
                real_time();
                started.wait();
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        scope.spawn(|| {
            real_time();
            started.wait();
            let result = catch_unwind(AssertUnwindSafe(work));
            done.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|panic| resume_unwind(panic));
        });
    });
}

/// Sets a flag that other threads end by when this is dropped, also when a test fails: a scope waits for its
/// threads.
#[derive(Debug)]
pub struct Stop<'f>(pub &'f AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("it starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Keeps this many processes busy on the CPUs for `time`.
///
/// # Panics
/// When they cannot be started.
#[track_caller]
pub fn hogs(count: usize, time: Duration) {
    let seconds = time.as_secs_f64().to_string();
    let hog = || Command::new("timeout").args([&seconds, "sh", "-c", "while :; do :; done"]).spawn();
    let hogs: Vec<Child> = (0..count).map(|_| hog().expect("timeout starts")).collect();
    for mut hog in hogs {
        hog.wait().expect("it ends");
    }
}

/// Pairs of threads that send a byte back and forth this many times, all pairs at the same time.
///
/// # Panics
/// When a pipe breaks.
#[track_caller]
pub fn ping_pong(pairs: usize, rounds: usize) {
    thread::scope(|scope| {
        for _ in 0..pairs {
            let (mut there, mut to) = pipe().expect("a pipe");
            let (mut back, mut from) = pipe().expect("a pipe");
            scope.spawn(move || {
                let mut byte = [0];
                while there.read(&mut byte).expect("read") == 1 {
                    from.write_all(&byte).expect("written");
                }
            });
            scope.spawn(move || {
                let mut byte = [0];
                for _ in 0..rounds {
                    to.write_all(&byte).expect("written");
                    back.read_exact(&mut byte).expect("read");
                }
            });
        }
    });
}

/// Starts this many processes, one after the other, and waits for each.
///
/// # Panics
/// When one cannot be started.
#[track_caller]
pub fn processes(count: usize) {
    for _ in 0..count {
        assert!(Command::new("true").status().expect("true starts").success());
    }
}

/// Size of a page in bytes.
const PAGE: usize = 4096;

/// Memory of this process, from mmap(2), without huge pages; it is unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    pages: usize,
}

impl Mapping {
    fn new(pages: usize, protection: i32, flags: i32, fd: i32) -> Self {
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, protection, flags, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED, "mmap");
        Self { start: start.cast(), pages }
    }

    /// Private memory of this many pages, none of them populated.
    ///
    /// # Panics
    /// When there is not enough memory.
    #[track_caller]
    pub fn anonymous(pages: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let mapping = Self::new(pages, libc::PROT_READ | libc::PROT_WRITE, flags, -1);
        // A kernel that has no huge pages, such as a real-time one, refuses the advice.
        match Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            true => mapping.advise(libc::MADV_NOHUGEPAGE),
            false => mapping,
        }
    }

    /// Private memory of this many pages, which the kernel populates itself.
    ///
    /// # Panics
    /// When there is not enough memory.
    #[track_caller]
    pub fn populated(pages: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        Self::new(pages, libc::PROT_READ | libc::PROT_WRITE, flags, -1)
    }

    /// A shared mapping of the first pages of a file.
    ///
    /// # Panics
    /// When it cannot be mapped.
    #[track_caller]
    pub fn of_file(path: &Path, pages: usize) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("it opens");
        Self::new(pages, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file.as_raw_fd())
    }

    /// Turns off readahead, so that each page is read by itself.
    #[must_use]
    pub fn without_readahead(self) -> Self {
        self.advise(libc::MADV_RANDOM)
    }

    fn advise(self, advice: i32) -> Self {
        // SAFETY: this advice on our own memory changes no contents.
        let result = unsafe { libc::madvise(self.start.cast(), self.pages * PAGE, advice) };
        assert_eq!(result, 0, "madvise");
        self
    }

    /// Writes to every page.
    pub fn touch(self) {
        for page in 0..self.pages {
            // SAFETY: inside the mapping, which is writable.
            unsafe { self.start.add(page * PAGE).write_volatile(1) };
        }
    }

    /// Reads from every page.
    pub fn read_all(self) {
        for page in 0..self.pages {
            // SAFETY: inside the mapping, which is readable.
            unsafe { self.start.add(page * PAGE).read_volatile() };
        }
    }

    /// Only unmaps the memory.
    pub fn keep(self) {}
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this mapping has no other owner.
        unsafe { libc::munmap(self.start.cast(), self.pages * PAGE) };
    }
}

/// A new file of this many pages on disk, none of them in the page cache. It is removed when this is
/// dropped.
///
/// # Panics
/// When it cannot be written.
#[track_caller]
pub fn cold_file(pages: usize) -> TempPath {
    let path = NamedTempFile::new_in("/var/tmp").expect("it is made").into_temp_path();
    fill(&path, pages);
    drop_caches();
    path
}

/// Writes this many pages to a file, one by one.
///
/// # Panics
/// When it cannot be written.
#[track_caller]
pub fn fill(path: &Path, pages: usize) {
    let mut file = File::create(path).expect("it is made");
    for page in 0..pages {
        file.write_all(&[page as u8; PAGE]).expect("written");
    }
    file.sync_all().expect("synced");
}

/// Calls sendfile(2) once for at most this many bytes. Returns how many were sent.
///
/// # Panics
/// When it fails, or at the end of the file.
#[track_caller]
pub fn send_file(from: &mut File, to: &mut File, bytes: usize) -> usize {
    // SAFETY: the only pointer is null.
    let sent = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), bytes) };
    assert!(sent > 0, "sendfile");
    sent as usize
}

/// Writes all dirty pages back, and drops all clean pages from the page cache.
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn drop_caches() {
    crate::machine::sh("sync; echo 3 > /proc/sys/vm/drop_caches");
}

/// A process that accesses memory beyond the end of a file and is killed by SIGBUS.
///
/// # Panics
/// When it is not killed by SIGBUS.
#[track_caller]
pub fn bus_error() {
    let file = tempfile::tempfile_in("/var/tmp").expect("an empty file");
    // SAFETY: the child only makes system calls and one memory access, and exits.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            // Rust's own handler would return and repeat the access.
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            let mapping = libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            );
            mapping.cast::<u8>().read_volatile();
            libc::_exit(0);
        }
        let mut status = 0;
        libc::waitpid(child, &raw mut status, 0);
        status
    };
    assert_eq!(libc::WTERMSIG(status), libc::SIGBUS, "status {status}");
}

/// A page fault that a signal interrupts. The signal's handler sleeps for `pause`; then the fault is
/// repeated and resolved at once. Uses userfaultfd(2), which the guests' kernels and most others have.
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn interrupted_fault(pause: Duration) {
    static PAUSE_MS: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: i32) {
        // This time must not be counted as time of the fault.
        thread::sleep(Duration::from_millis(PAUSE_MS.load(Ordering::Relaxed)));
    }
    /// linux/userfaultfd.h: UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE and their arguments.
    const API: libc::Ioctl = 0xc018_aa3f;
    const REGISTER: libc::Ioctl = 0xc020_aa00;
    const ZEROPAGE: libc::Ioctl = 0xc020_aa04;
    const VERSION: u64 = 0xaa;
    const MISSING: u64 = 1;
    PAUSE_MS.store(pause.as_millis() as u64, Ordering::Relaxed);
    let page = Mapping::anonymous(1);
    let address = page.start as u64;
    // SAFETY: arguments are as large as the kernel's structs and outlive the calls; the handler only
    // sleeps.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as *const () as usize);
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
        assert!(fd >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
        let mut events = File::from_raw_fd(fd as i32);
        let fd = events.as_raw_fd();
        let range = |mode: u64| [address, PAGE as u64, mode, 0];
        assert_eq!(libc::ioctl(fd, API, [VERSION, 0, 0].as_mut_ptr()), 0);
        assert_eq!(libc::ioctl(fd, REGISTER, range(MISSING).as_mut_ptr()), 0);
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            scope.spawn(move || {
                let _ = tell.send(libc::pthread_self());
                (address as *const u8).read_volatile()
            });
            let thread = told.recv().expect("a thread begins");
            // A fault is reported as a struct of 32 bytes.
            events.read_exact(&mut [0; 32]).expect("a fault");
            assert_eq!(libc::pthread_kill(thread, libc::SIGUSR1), 0);
            events.read_exact(&mut [0; 32]).expect("the same fault again");
            assert_eq!(libc::ioctl(fd, ZEROPAGE, range(0).as_mut_ptr()), 0);
        });
    }
}

/// Runs a shell line with a memory limit. A process that exceeds it is killed.
pub fn under_memory_limit(limit: &str, line: &str) {
    // The command is expected to fail.
    let _ = Command::new("systemd-run")
        .args([
            "--quiet",
            "--wait",
            "--property",
            &format!("MemoryMax={limit}"),
            "--property",
            "MemorySwapMax=0",
        ])
        .args(["sh", "-c", line])
        .status();
}

/// Makes this many reads, then as many writes, of a page each, by Linux's asynchronous I/O (aio,
/// io_submit(2)), one at a time.
///
/// # Panics
/// When one fails.
#[track_caller]
pub fn aio(file: &File, reads: usize, writes: usize) {
    /// `struct iocb` of linux/aio_abi.h, little-endian.
    #[repr(C)]
    #[derive(Default)]
    struct Iocb {
        data: u64,
        key: u32,
        flags: i32,
        opcode: u16,
        priority: i16,
        fd: u32,
        buffer: u64,
        bytes: u64,
        offset: i64,
        reserved: u64,
        more_flags: u32,
        event_fd: u32,
    }
    const READ: u16 = 0;
    const WRITE: u16 = 1;
    let mut buffer = [0u8; PAGE];
    let (mut context, mut events) = (0u64, [0u64; 4]);
    // SAFETY: the kernel writes one number to the pointer's target.
    assert_eq!(unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) }, 0, "io_setup");
    for n in 0..reads + writes {
        let request = Iocb {
            opcode: if n < reads { READ } else { WRITE },
            fd: file.as_raw_fd() as u32,
            buffer: buffer.as_mut_ptr() as u64,
            bytes: PAGE as u64,
            ..Iocb::default()
        };
        let list = [&raw const request];
        // SAFETY: the request and its buffer outlive the operation, which is waited for; one event has 32
        // bytes.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_io_submit, context, 1, list.as_ptr()), 1, "io_submit");
            let none = std::ptr::null::<libc::timespec>();
            let done = libc::syscall(libc::SYS_io_getevents, context, 1, 1, events.as_mut_ptr(), none);
            assert_eq!(done, 1, "io_getevents");
        }
        assert_eq!(events[2], PAGE as u64, "an operation of aio failed");
    }
    // SAFETY: no pointers.
    unsafe { libc::syscall(libc::SYS_io_destroy, context) };
}
