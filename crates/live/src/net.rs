// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two network namespaces connected by a veth pair.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::machine::{sh, undo};
use crate::work::Running;

/// Network namespaces `left` (10.99.0.1, fd99::1) and `right` (10.99.0.2, fd99::2). They are
/// removed when this is dropped.
#[derive(Debug)]
pub struct Cable {
    /// One process in each namespace, through which others enter it.
    processes: Vec<Running>,
    /// Whether the directory of named namespaces did not exist before.
    first: bool,
}

/// Names of the namespaces.
pub const NAMESPACES: [&str; 2] = ["left", "right"];

impl Cable {
    /// Creates them. `netem`, such as `delay 20ms`, applies to what each of them sends; empty for none.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn new(netem: &str) -> Self {
        let mut cable = Self { processes: Vec::new(), first: !Path::new("/run/netns").exists() };
        sh("ip netns add left; ip netns add right
            ip link add cable netns left address 02:00:00:00:00:01 type veth \
                peer name cable netns right address 02:00:00:00:00:02
            for n in 1 2; do
                [ $n = 1 ] && ns=left || ns=right
                other=$((3 - n))
                # They know each other: of who is asked for three times in vain nobody knows the way,
                # and what is asked may be lost.
                echo \"link set lo up
                      link set cable up
                      addr add 10.99.0.$n/24 dev cable
                      addr add fd99::$n/64 dev cable nodad
                      neigh replace 10.99.0.$other lladdr 02:00:00:00:00:0$other dev cable nud permanent
                      neigh replace fd99::$other lladdr 02:00:00:00:00:0$other dev cable nud permanent
                     \" | ip -n $ns -batch -
            done");
        // `ip netns exec` replaces itself by the command, so the process id stays the same.
        for namespace in NAMESPACES {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace, "sleep", "infinity"]).stdout(Stdio::null());
            cable.processes.push(Running::start(&mut command));
        }
        if !netem.is_empty() {
            sh(&format!("for ns in left right; do tc -n $ns qdisc add dev cable root netem {netem}; done"));
        }
        cable
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.processes.clear();
        undo("for end in left right; do [ ! -e /run/netns/$end ] || ip netns del $end; done");
        if self.first {
            undo("! mountpoint -q /run/netns || umount /run/netns; rmdir /run/netns");
        }
    }
}

/// Runs `work` in a thread inside a namespace.
///
/// # Panics
/// When there is no such namespace, or `work` panics.
#[track_caller]
pub fn inside<R: Send>(namespace: &str, work: impl FnOnce() -> R + Send) -> R {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace is there");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            // SAFETY: the system call uses an open descriptor and moves only this thread.
            let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "setns");
            work()
        });
        thread.join().expect("the work in the namespace is done")
    })
}

/// Counters of /proc/net/snmp and /proc/net/netstat, such as `Tcp RetransSegs`, each summed over
/// the machine's own network namespace (that of process 1) and those of a cable.
///
/// # Panics
/// When a counter does not exist.
#[track_caller]
pub fn snmp<const N: usize>(names: [&str; N]) -> [f64; N] {
    let (here, there) =
        (numbers(&sh("cat /proc/1/net/snmp /proc/1/net/netstat"), names), snmp_of_cable(names));
    std::array::from_fn(|n| here[n] + there[n])
}

/// Like [`snmp`], for the namespaces of a cable only.
///
/// # Panics
/// When a counter does not exist.
#[track_caller]
pub fn snmp_of_cable<const N: usize>(names: [&str; N]) -> [f64; N] {
    let text = sh("for ns in left right; do
                       [ ! -e /run/netns/$ns ] || ip netns exec $ns cat /proc/net/snmp /proc/net/netstat
                   done");
    numbers(&text, names)
}

fn numbers<const N: usize>(text: &str, names: [&str; N]) -> [f64; N] {
    let lines: Vec<&str> = text.lines().collect();
    let mut totals = [0.0; N];
    for pair in lines.chunks_exact(2) {
        let (names_here, values): (Vec<&str>, Vec<&str>) =
            (pair[0].split(' ').collect(), pair[1].split(' ').collect());
        for (total, name) in totals.iter_mut().zip(names) {
            let (table, column) = name.split_once(' ').expect("a table and a column");
            if names_here[0].strip_suffix(':') == Some(table)
                && let Some(at) = names_here.iter().position(|name| *name == column)
            {
                *total += values[at].parse::<f64>().expect("a number");
            }
        }
    }
    totals
}
