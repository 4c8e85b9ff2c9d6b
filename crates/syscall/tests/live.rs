// SPDX-License-Identifier: MIT OR Apache-2.0
//! A known number of system calls, compared with the exporter's counts.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

#[path = "live/copies.rs"]
mod copies;
#[path = "live/pairs.rs"]
mod pairs;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use live::exporter::Exporter;
use live::exposition::Delta;
use live::threads::with_ids_apart;
use live::wait_until;
use live::work::{compat_system_call, system_call, without_workers};

/// A call that other programs rarely make, and its number for 32-bit programs.
const RARE: (&str, i64, i32) = ("sched_get_priority_max", libc::SYS_sched_get_priority_max, 159);

/// Calls that fail at once if their first argument is not a descriptor.
const OF_A_DESCRIPTOR: [i64; 44] = [
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_flock,
    libc::SYS_dup,
    libc::SYS_syncfs,
    libc::SYS_fallocate,
    libc::SYS_readahead,
    libc::SYS_sync_file_range,
    libc::SYS_getdents64,
    libc::SYS_tee,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_epoll_wait,
    libc::SYS_shutdown,
    libc::SYS_vmsplice,
    libc::SYS_fchown,
    libc::SYS_fstatfs,
    libc::SYS_listen,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_epoll_ctl,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_inotify_rm_watch,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_copy_file_range,
    libc::SYS_ioctl,
];

fn measure(flags: &[&str], work: impl FnOnce()) -> Delta {
    let exporter = Exporter::start("syscall", flags);
    let before = exporter.scrape();
    work();
    let delta = Delta(before, exporter.scrape());
    delta.assert_whole();
    delta
}

fn calls(delta: &Delta, syscall: &str, abi: &str) -> f64 {
    delta.of("ebpf_syscalls_total", &[("syscall", syscall), ("abi", abi)])
}

#[live::test]
fn every_call_is_counted_under_its_name() {
    let delta = measure(&[], || {
        assert_eq!(system_call(RARE.1, [0; 3], 20_011), 0);
    });
    assert_eq!(calls(&delta, RARE.0, "native"), 20_011.0);
    assert_eq!(calls(&delta, RARE.0, "compat"), 0.0);
    assert!(delta.1.get("ebpf_syscall_latency_microseconds_count", &[]).is_none(), "it is a flag");
    assert!(delta.1.get("ebpf_syscall_errors_total", &[]).is_none(), "it is a flag");
}

#[live::test]
fn calls_on_two_cpus_are_all_counted() {
    let delta = measure(&[], || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| system_call(RARE.1, [0; 3], 20_011));
            }
        });
    });
    assert_eq!(calls(&delta, RARE.0, "native"), 4.0 * 20_011.0);
}

#[live::test]
fn calls_of_32_bit_programs_are_not_taken_for_others() {
    // 64 is getppid for 32-bit programs, and semget for 64-bit programs.
    let delta = measure(&[], || {
        assert!(compat_system_call(64, 0, 1009) > 0, "the parent's id");
    });
    assert_eq!(calls(&delta, "getppid", "compat"), 1009.0);
    assert_eq!(calls(&delta, "semget", "native"), 0.0);
}

#[live::test]
fn numbers_that_are_no_call_are_invalid() {
    let delta = measure(&["--syscall.errors"], || {
        for number in [-1, 9999, 1 << 30, i64::from(u32::MAX)] {
            assert_eq!(system_call(number, [0; 3], 17), -1);
        }
        system_call(511, [0; 3], 13);
    });
    assert_eq!(calls(&delta, "invalid", "native"), 4.0 * 17.0);
    assert_eq!(calls(&delta, "sys_511", "native"), 13.0);
    let errors = delta.of("ebpf_syscall_errors_total", &[("syscall", "invalid"), ("errno", "ENOSYS")]);
    assert_eq!(errors, 4.0 * 17.0);
}

#[live::test]
fn errors_have_names() {
    let delta = measure(&["--syscall.errors"], || {
        assert_eq!(system_call(RARE.1, [-1, 0, 0], 23), -1);
        assert_eq!(system_call(RARE.1, [0; 3], 7), 0);
        assert_eq!(compat_system_call(RARE.2, -1, 29), -libc::EINVAL);
    });
    let errors = |abi: &str| {
        delta.of("ebpf_syscall_errors_total", &[("syscall", RARE.0), ("abi", abi), ("errno", "EINVAL")])
    };
    assert_eq!((errors("native"), errors("compat")), (23.0, 29.0));
    assert_eq!(delta.of("ebpf_syscall_errors_total", &[("syscall", RARE.0)]), 52.0);
    assert_eq!((calls(&delta, RARE.0, "native"), calls(&delta, RARE.0, "compat")), (30.0, 29.0));
}

#[live::test]
fn latency_is_that_of_a_known_wait() {
    const NAME: &str = "ebpf_syscall_latency_microseconds";
    // Above 16384 us, so this bucket must stay empty.
    let wait = libc::timespec { tv_sec: 0, tv_nsec: 19_000_000 };
    let mask = 1u64;
    let mut elapsed = Duration::ZERO;
    let delta = measure(&["--syscall.latency", "--syscall.errors"], || {
        let start = Instant::now();
        for _ in 0..11 {
            // SAFETY: both pointers outlive the call, and the mask has the size that is passed.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_rt_sigtimedwait,
                    &raw const mask,
                    0,
                    &raw const wait,
                    size_of_val(&mask),
                )
            };
            assert_eq!(result, -1);
        }
        elapsed = start.elapsed();
    });
    let of = |part: &str, le: &[(&str, &str)]| {
        let labels = [&[("syscall", "rt_sigtimedwait"), ("abi", "native")], le].concat();
        delta.of(&format!("{NAME}{part}"), &labels)
    };
    assert_eq!((of("_count", &[]), of("_bucket", &[("le", "+Inf")])), (11.0, 11.0));
    assert_eq!(of("_bucket", &[("le", "16384")]), 0.0, "none can be shorter");
    // No shorter than requested, and no longer than this program measured.
    let (sum, seen) = (of("_sum", &[]), elapsed.as_secs_f64() * 1e6);
    assert!((11.0 * 19_000.0..seen).contains(&sum), "{sum} us of {seen} us");
    assert_eq!(
        delta.of("ebpf_syscall_errors_total", &[("syscall", "rt_sigtimedwait"), ("errno", "EAGAIN")]),
        11.0
    );
}

#[live::test]
fn processes_that_ended_leave_nothing_behind() {
    let delta = measure(&["--syscall.latency"], || {
        live::work::processes(300);
        std::thread::scope(|scope| {
            scope.spawn(|| system_call(RARE.1, [0; 3], 101));
        });
    });
    let count = |syscall: &str| delta.of("ebpf_syscall_latency_microseconds_count", &[("syscall", syscall)]);
    assert_eq!(count(RARE.0), 101.0);
    assert!(calls(&delta, "exit_group", "native") >= 300.0);
    assert_eq!(count("exit_group") + count("exit"), 0.0, "they never return");
}

/// Waits `times` times for a semaphore that is never free, with a timeout. No other program makes
/// this call.
fn wait_for_semaphore(times: usize, wait: Duration) {
    // SAFETY: pointers outlive the calls.
    unsafe {
        let set = libc::semget(libc::IPC_PRIVATE, 1, 0o600);
        assert!(set >= 0, "a semaphore");
        let mut take = libc::sembuf { sem_num: 0, sem_op: -1, sem_flg: 0 };
        let limit = libc::timespec { tv_sec: 0, tv_nsec: wait.as_nanos() as i64 };
        for _ in 0..times {
            let result = libc::syscall(libc::SYS_semtimedop, set, &raw mut take, 1, &raw const limit);
            assert_eq!(result, -1);
        }
        assert_eq!(libc::semctl(set, 0, libc::IPC_RMID), 0);
    }
}

/// Numbers of latencies and errors of semtimedop.
fn waits(delta: &Delta) -> (f64, f64) {
    let count = delta.of("ebpf_syscall_latency_microseconds_count", &[("syscall", "semtimedop")]);
    (count, delta.of("ebpf_syscall_errors_total", &[("syscall", "semtimedop"), ("errno", "EAGAIN")]))
}

#[live::test]
fn threads_with_like_ids_keep_their_calls_apart() {
    const WAITS: usize = 200;
    // 65536 is the number of records.
    for (threads, distance) in [(2, 65_536), (4, 16_384)] {
        let delta = measure(&["--syscall.latency", "--syscall.errors"], || {
            let done = AtomicBool::new(false);
            with_ids_apart(threads, distance, |number| {
                if number == 0 {
                    wait_for_semaphore(WAITS, Duration::from_millis(5));
                    done.store(true, Ordering::Relaxed);
                }
                while !done.load(Ordering::Relaxed) {
                    system_call(RARE.1, [0; 3], 1);
                    // Not a wait for an event: leaves the CPU to the other thread.
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        });
        assert_eq!(waits(&delta), (WAITS as f64, WAITS as f64), "{threads} threads {distance} apart");
        assert_eq!(delta.lost(), 0.0);
    }
}

#[live::test]
fn threads_that_begin_at_once_share_no_record() {
    const TRIES: u32 = 10;
    for _ in 0..TRIES {
        let (begin, result) = (OnceLock::new(), Mutex::new(None));
        let called = AtomicUsize::new(0);
        // Neither thread has a record yet, and both try the same one first.
        with_ids_apart(3, 65_536, |number| {
            if number < 2 {
                // The time to begin is in the future, so that both threads are on a CPU by then.
                while begin.get().is_none_or(|begin| Instant::now() < *begin) {
                    std::hint::spin_loop();
                }
                system_call(RARE.1, [0; 3], 1);
                called.fetch_add(1, Ordering::Relaxed);
            } else {
                let delta = measure(&["--syscall.latency"], || {
                    begin.set(Instant::now() + Duration::from_millis(20)).unwrap();
                    wait_until("both have called", Duration::from_secs(30), || {
                        called.load(Ordering::Relaxed) == 2
                    });
                });
                *result.lock().unwrap() = Some(delta);
            }
        });
        let delta = result.into_inner().unwrap().unwrap();
        assert_eq!(delta.of("ebpf_syscall_latency_microseconds_count", &[("syscall", RARE.0)]), 2.0);
    }
}

#[live::test]
fn what_has_no_room_is_counted_as_lost() {
    const THREADS: u32 = 7;
    let exporter = Exporter::start("syscall", &["--syscall.latency", "--syscall.errors"]);
    let before = exporter.scrape();
    let began = Instant::now();
    with_ids_apart(THREADS, 16_384, |_| wait_for_semaphore(1, Duration::from_millis(200)));
    let longest = began.elapsed().as_micros() as f64;
    let delta = Delta(before, exporter.scrape());
    let lost = delta.of("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
    let (latencies, errors) = waits(&delta);
    let missing = f64::from(THREADS) - latencies;
    assert!(latencies == errors && missing >= 3.0, "{latencies} latencies, {errors} errors");
    // Other calls of these threads, such as futex, may be lost too.
    assert!(lost >= missing, "{lost} lost, {missing} missing");
    // All counted latencies are right: none has the start of another thread's call.
    assert_durations(&delta, 200_000.0, longest);
}

/// Each latency of semtimedop is between `least` and `longest` microseconds.
fn assert_durations(delta: &Delta, least: f64, longest: f64) {
    let of = |part: &str, le: &[(&str, &str)]| {
        delta.of(
            &format!("ebpf_syscall_latency_microseconds{part}"),
            &[&[("syscall", "semtimedop")], le].concat(),
        )
    };
    let (count, sum) = (of("_count", &[]), of("_sum", &[]));
    assert_eq!(of("_bucket", &[("le", "131072")]), 0.0, "none is shorter");
    assert!((count * least..=count * longest).contains(&sum), "{count} latencies of {sum} us, {longest} us");
}

#[live::test]
fn a_fifth_thread_of_a_set_costs_one_latency_and_changes_none() {
    const WAYS: u32 = 4;
    let exporter = Exporter::start("syscall", &["--syscall.latency", "--syscall.errors"]);
    let before = exporter.scrape();
    let (began, waiting) = (Instant::now(), Mutex::new(Vec::new()));
    with_ids_apart(WAYS + 1, 16_384, |number| {
        if number < WAYS {
            // SAFETY: no arguments.
            waiting.lock().unwrap().push(unsafe { libc::gettid() });
            wait_for_semaphore(1, Duration::from_millis(600));
            return;
        }
        // Each record of the set is in use when this thread's call begins.
        let waits = |tid: &i32| {
            let call = std::fs::read_to_string(format!("/proc/self/task/{tid}/syscall")).unwrap();
            call.starts_with(&format!("{} ", libc::SYS_semtimedop))
        };
        wait_until("the others wait", Duration::from_secs(30), || {
            let waiting = waiting.lock().unwrap();
            waiting.len() == WAYS as usize && waiting.iter().all(waits)
        });
        wait_for_semaphore(1, Duration::from_millis(200));
    });
    let longest = began.elapsed().as_micros() as f64;
    let delta = Delta(before, exporter.scrape());
    let lost = delta.of("ebpf_exporter_lost_events_total", &[("reason", "no_start")]);
    let (latencies, errors) = waits(&delta);
    println!("{latencies} latencies and {errors} errors of {} calls, {lost} lost", WAYS + 1);
    let missing = f64::from(WAYS + 1) - latencies;
    assert!(latencies == errors && (1.0..=2.0).contains(&missing), "{latencies} and {errors}");
    assert!(lost >= missing, "{lost} lost, {missing} missing");
    assert_durations(&delta, 200_000.0, longest);
}

#[live::test]
fn a_thread_that_executes_a_program_is_in_one_call() {
    let delta = measure(&["--syscall.latency"], || {
        live::threads::second_that_execs(c"threaded", || (), || ());
    });
    let calls = calls(&delta, "execve", "native");
    let returns = delta.of("ebpf_syscall_latency_microseconds_count", &[("syscall", "execve")]);
    assert!(calls > 0.0 && returns == calls, "{calls} calls, {returns} of them have a latency");
}

extern "C" fn do_nothing(_: i32) {}

#[live::test]
fn a_return_from_a_signal_handler_is_no_error() {
    const TIMES: u32 = 101;
    let delta = measure(&["--syscall.errors"], || {
        // SAFETY: sets outlive the calls, and the handler does nothing.
        unsafe {
            let mut usr1: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut usr1, libc::SIGUSR1);
            let mut others: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const usr1, &raw mut others);
            libc::signal(libc::SIGUSR1, do_nothing as *const () as usize);
            for _ in 0..TIMES {
                libc::raise(libc::SIGUSR1);
                // The handler runs, and returns to code with -EINTR in the register of results.
                assert_eq!(libc::sigsuspend(&raw const others), -1);
            }
            libc::signal(libc::SIGUSR1, libc::SIG_DFL);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const others, std::ptr::null_mut());
        }
    });
    let of = |name: &str, syscall: &str| delta.of(name, &[("syscall", syscall)]);
    assert!(of("ebpf_syscalls_total", "rt_sigreturn") >= f64::from(TIMES));
    assert!(of("ebpf_syscall_errors_total", "rt_sigsuspend") >= f64::from(TIMES));
    assert_eq!(of("ebpf_syscall_errors_total", "rt_sigreturn"), 0.0);
}

#[live::test]
fn calls_that_a_filter_refuses_are_counted() {
    const TIMES: u32 = 600;
    let delta = measure(&["--syscall.latency", "--syscall.errors"], || {
        // In a separate thread, because a filter cannot be removed.
        std::thread::scope(|scope| {
            let refused = scope.spawn(|| {
                live::work::refuse(RARE.1, libc::EPERM);
                system_call(RARE.1, [0; 3], TIMES)
            });
            assert_eq!(refused.join().unwrap(), -1);
        });
    });
    let errors = delta.of("ebpf_syscall_errors_total", &[("syscall", RARE.0), ("errno", "EPERM")]);
    assert_eq!((calls(&delta, RARE.0, "native"), errors), (f64::from(TIMES), f64::from(TIMES)));
    let latencies = delta.of("ebpf_syscall_latency_microseconds_count", &[("syscall", RARE.0)]);
    assert_eq!(latencies, 0.0, "it is not known when they began");
}

/// Uses up the per-CPU memory that is ready. A worker of the kernel later provides more.
fn exhaust() -> MapHandle {
    const VALUE: usize = 1560;
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
        map_flags: libbpf_sys::BPF_F_NO_PREALLOC,
        ..Default::default()
    };
    let map =
        MapHandle::create(MapType::PercpuHash, Some("hoard"), 4, VALUE as u32, 1 << 20, &options).unwrap();
    let value = vec![vec![0; VALUE]; libbpf_rs::num_possible_cpus().unwrap()];
    // Until several refusals in a row: after a single one, the worker may provide more.
    let mut refused = 0;
    for key in 0u32..1 << 20 {
        match map.update_percpu(&key.to_ne_bytes(), &value, MapFlags::ANY) {
            Ok(()) => refused = 0,
            Err(error) => {
                assert_eq!(error.kind(), libbpf_rs::ErrorKind::OutOfMemory, "{error}");
                refused += 1;
            }
        }
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20, "it is used up");
    map
}

#[live::test]
fn new_calls_while_there_is_no_memory_are_all_measured() {
    let delta = measure(&["--syscall.latency"], || {
        without_workers(|| {
            let _all = exhaust();
            for number in OF_A_DESCRIPTOR {
                assert_eq!(system_call(number, [-1, 1, 1], 1), -1);
            }
        });
    });
    let measured = delta.1.labels("ebpf_syscall_latency_microseconds_count").len();
    assert!(measured >= OF_A_DESCRIPTOR.len(), "{measured} calls have a latency");
    let spilled = delta.1.get("ebpf_exporter_map_entries", &[("map", "spilled_latencies")]);
    println!("{measured} calls, {spilled:?} of them while there was no memory");
    assert!(spilled > Some(10.0), "{spilled:?}: there was memory, this shows nothing");
}

#[live::test]
fn errors_beyond_the_limit_are_folded_and_counted() {
    let delta = measure(&["--syscall.errors", "--max-series", "16"], || {
        for number in &OF_A_DESCRIPTOR[..20] {
            assert_eq!(system_call(*number, [-1, 1, 1], 5), -1);
        }
    });
    let folded = delta.of("ebpf_exporter_folded_events_total", &[]);
    let other = delta.of("ebpf_syscall_errors_total", &[("syscall", "other"), ("errno", "other")]);
    assert!(folded >= 5.0 * 4.0 && other == folded, "{folded} folded, {other} under other");
    assert!(delta.1.labels("ebpf_syscall_errors_total").len() <= 16);
    assert!(delta.of("ebpf_syscall_errors_total", &[]) >= 100.0, "none is lost");
}

live::main!();
