// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of syscalls as ebpf_exporter's decoder `syscall` has them. They are those of strace 6.8's
//! handlers, which differ from the kernel's where one handler serves several syscalls.

use common::read::decode::syscall_name;

/// The first number that strace 6.8 does not know.
const END: i128 = 462;

/// Numbers that strace 6.8 does not know either, and the names that are not the kernel's.
type Differences = (&'static [(i128, i128)], &'static [(i128, &'static str)]);

#[cfg(target_arch = "x86_64")]
const DIFFERENCES: Differences = (
    &[(335, 336)],
    &[
        (7, "poll_time64"),
        (17, "pread"),
        (18, "pwrite"),
        (35, "nanosleep_time64"),
        (40, "sendfile64"),
        (94, "chown"),
        (128, "rt_sigtimedwait_time64"),
        (148, "sched_rr_get_interval_time64"),
        (155, "pivotroot"),
        (156, "sysctl"),
        (159, "adjtimex64"),
        (189, "setxattr"),
        (192, "getxattr"),
        (195, "listxattr"),
        (198, "removexattr"),
        (202, "futex_time64"),
        (208, "io_getevents_time64"),
        (214, "printargs"),
        (215, "printargs"),
        (220, "semtimedop_time64"),
        (223, "timer_settime64"),
        (224, "timer_gettime64"),
        (227, "clock_settime64"),
        (228, "clock_gettime64"),
        (229, "clock_getres_time64"),
        (230, "clock_nanosleep_time64"),
        (231, "exit"),
        (242, "mq_timedsend_time64"),
        (243, "mq_timedreceive_time64"),
        (270, "pselect6_time64"),
        (271, "ppoll_time64"),
        (280, "utimensat_time64"),
        (286, "timerfd_settime64"),
        (287, "timerfd_gettime64"),
        (299, "recvmmsg_time64"),
        (305, "clock_adjtime64"),
        (333, "io_pgetevents_time64"),
    ],
);

#[cfg(target_arch = "aarch64")]
const DIFFERENCES: Differences = (
    &[(403, 423)],
    &[
        (4, "io_getevents_time64"),
        (6, "setxattr"),
        (9, "getxattr"),
        (12, "listxattr"),
        (15, "removexattr"),
        (41, "pivotroot"),
        (67, "pread"),
        (68, "pwrite"),
        (71, "sendfile64"),
        (72, "pselect6_time64"),
        (73, "ppoll_time64"),
        (79, "newfstatat"),
        (86, "timerfd_settime64"),
        (87, "timerfd_gettime64"),
        (88, "utimensat_time64"),
        (94, "exit"),
        (98, "futex_time64"),
        (101, "nanosleep_time64"),
        (108, "timer_gettime64"),
        (110, "timer_settime64"),
        (112, "clock_settime64"),
        (113, "clock_gettime64"),
        (114, "clock_getres_time64"),
        (115, "clock_nanosleep_time64"),
        (127, "sched_rr_get_interval_time64"),
        (137, "rt_sigtimedwait_time64"),
        (171, "adjtimex64"),
        (182, "mq_timedsend_time64"),
        (183, "mq_timedreceive_time64"),
        (192, "semtimedop_time64"),
        (243, "recvmmsg_time64"),
        (266, "clock_adjtime64"),
        (292, "io_pgetevents_time64"),
    ],
);

/// The name of a syscall of this architecture.
pub fn name(number: i128) -> Option<&'static str> {
    let (unknown, names) = DIFFERENCES;
    if number >= END || unknown.iter().any(|(first, last)| (*first..=*last).contains(&number)) {
        return None;
    }
    let name = names.iter().find(|(other, _)| *other == number).map(|(_, name)| *name);
    name.or_else(|| syscall_name(u64::try_from(number).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// strace 6.8 knows as many.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn all_of_the_other_table_have_names() {
        assert_eq!((0..1000).filter(|number| name(*number).is_some()).count(), 373);
        assert_eq!(DIFFERENCES.1.len(), 37);
    }

    #[test]
    #[cfg(target_arch = "aarch64")]
    fn all_differences_are_there() {
        assert_eq!(DIFFERENCES.1.len(), 33);
    }

    #[test]
    fn a_name_is_only_given_where_it_differs() {
        for (number, name) in DIFFERENCES.1 {
            assert_ne!(syscall_name(u64::try_from(*number).unwrap()), Some(*name), "{number}");
        }
    }
}
