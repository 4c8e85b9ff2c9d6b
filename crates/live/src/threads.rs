// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads with chosen ids.

use std::ffi::CStr;
use std::fs;
use std::io::{Error, ErrorKind, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{self, Command};
use std::sync::{Barrier, mpsc};
use std::thread;

/// The highest id that the kernel gives out, plus one.
const LIMIT: &str = "/proc/sys/kernel/pid_max";
/// The kernel looks for a free id after this one: pid_namespaces(7).
const LAST: &str = "/proc/sys/kernel/ns_last_pid";

/// Starts a process with this name. Its second thread does `work` and, once `ready` returns, executes the
/// program `true`, which replaces the process.
///
/// # Panics
/// When any of that fails.
pub fn second_that_execs(name: &'static CStr, work: fn(), ready: impl FnOnce()) {
    let (reader, mut writer) = pipe().expect("a pipe");
    let mut process = Command::new("/nothing/is/started/by/the/first/thread");
    let as_thread = move || {
        let mut reader = reader.try_clone()?;
        // SAFETY: the name is NUL-terminated; it is set for this thread and those that it starts.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
        let thread = thread::spawn(move || {
            work();
            // The pipe may also have been closed; in both cases the thread goes on.
            let _ = reader.read(&mut [0]);
            Command::new("true").exec()
        });
        Err(thread.join().unwrap_or_else(|_| ErrorKind::Other.into()))
    };
    // SAFETY: it allocates, which the C library allows in the child of a process with threads.
    unsafe { process.pre_exec(as_thread) };
    thread::scope(|scope| {
        let process = scope.spawn(move || process.status());
        let result = catch_unwind(AssertUnwindSafe(ready));
        // On every outcome the scope waits for the process.
        writer.write_all(&[0]).expect("the process is told");
        let status = process.join().expect("no panic").expect("the thread starts a program");
        assert!(status.success(), "{status}");
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Runs `work` in a process with this name, which then exits.
///
/// # Panics
/// When it cannot be started, or `work` panics.
pub fn process_that_does(name: &'static CStr, work: fn()) {
    const DONE: i32 = libc::ECANCELED;
    let mut process = Command::new("/nothing/is/started");
    let as_process = move || {
        // SAFETY: the name is NUL-terminated; it is set for this thread.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
        let done = catch_unwind(work).is_ok();
        Err(if done { Error::from_raw_os_error(DONE) } else { ErrorKind::Other.into() })
    };
    // SAFETY: it allocates, which the C library allows in the child of a process with threads.
    unsafe { process.pre_exec(as_process) };
    let error = process.status().expect_err("no program is started");
    assert_eq!(error.raw_os_error(), Some(DONE), "{error}");
}

/// Runs `check` with the id of a process of this name whose first thread has ended. Three others are left, each of
/// which has done `work`, and keeps what that returned.
///
/// # Panics
/// When it cannot be started, or `check` panics.
pub fn process_without_its_first<T: 'static>(name: &'static CStr, work: fn() -> T, check: impl FnOnce(u32)) {
    const OTHERS: usize = 3;
    let (mut done, tell) = pipe().expect("a pipe");
    let (wait, end) = pipe().expect("a pipe");
    let mut process = Command::new("/nothing/is/started");
    let end_of_child = end.as_raw_fd();
    let as_process = move || {
        // SAFETY: this process uses it nowhere else; only its parent may hold it open. The name is NUL-terminated.
        unsafe {
            libc::close(end_of_child);
            libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        }
        for _ in 0..OTHERS {
            let (mut tell, mut wait) = (tell.try_clone()?, wait.try_clone()?);
            thread::spawn(move || {
                let kept = work();
                tell.write_all(&process::id().to_ne_bytes()).expect("the parent reads");
                // Nothing comes: the parent closes it.
                let _ = wait.read(&mut [0]);
                drop(kept);
                process::exit(0)
            });
        }
        // SAFETY: it ends this thread, which has nothing that others use.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        unreachable!()
    };
    // SAFETY: it allocates, which the C library allows in the child of a process with threads.
    unsafe { process.pre_exec(as_process) };
    thread::scope(|scope| {
        // It returns when the process has ended, as nothing is executed.
        let process = scope.spawn(move || process.status());
        let mut id = [0; 4];
        for _ in 0..OTHERS {
            done.read_exact(&mut id).expect("the threads do their work");
        }
        let result = catch_unwind(AssertUnwindSafe(|| check(u32::from_ne_bytes(id))));
        drop(end);
        let status = process.join().expect("no panic").expect("a process");
        assert!(status.success(), "{status}");
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Raises [`LIMIT`] to its maximum, and restores it when this is dropped.
struct Raised {
    before: String,
}

impl Raised {
    fn now() -> Self {
        let before = fs::read_to_string(LIMIT).expect("there is a limit");
        fs::write(LIMIT, "4194304").expect("a higher limit");
        Self { before }
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        // The limit may be below ids in use. If this fails, the check after the run reports it.
        let _ = fs::write(LIMIT, self.before.trim());
    }
}

/// Runs `work` with its number in `count` concurrent threads whose ids are `distance` apart.
///
/// # Panics
/// When the kernel does not give such ids, or `work` panics.
#[track_caller]
pub fn with_ids_apart(count: u32, distance: u32, work: impl Fn(u32) + Sync) {
    /// Above the ids of a machine with the kernel's default limit.
    const FIRST: u32 = 1 << 20;
    /// Number of first ids to try; one of the ids may be in use.
    const FIRSTS: u32 = 1000;
    /// Attempts per id; another process may start a thread in between.
    const TRIES: u32 = 20;
    let raised = Raised::now();
    let (barrier, work) = (&Barrier::new(count as usize), &work);
    thread::scope(|scope| {
        // The thread waits for a message. If the channel is closed instead, it ends without `work`.
        let begin = |number, wanted: u32| {
            (0..TRIES).find_map(|_| {
                fs::write(LAST, (wanted - 1).to_string()).expect("the next id is set");
                let (tell, told) = mpsc::channel();
                let (start, started) = mpsc::channel::<()>();
                scope.spawn(move || {
                    let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get() as u32);
                    if started.recv().is_ok() {
                        barrier.wait();
                        work(number);
                    }
                });
                (told.recv().expect("a thread begins") == wanted).then_some(start)
            })
        };
        let all_from = |first| (0..count).map(|number| begin(number, first + number * distance)).collect();
        let starts: Vec<_> = (FIRST..FIRST + FIRSTS).find_map(all_from).expect("ids that are free");
        for start in starts {
            start.send(()).expect("it waits");
        }
    });
    drop(raised);
}
