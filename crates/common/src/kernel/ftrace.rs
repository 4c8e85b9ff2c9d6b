// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where attaching programs through ftrace endangers the machine.

use std::path::Path;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Struct;

use crate::kernel::hook::Hook;
use crate::kernel::types::KERNEL_BTF;
use crate::kernel::view;

/// Why programs must not be attached through ftrace from this process, on a kernel with these types. None if
/// they may be.
///
/// Such a program is detached in a grace period of RCU tasks. Up to 6.8, that waits also for tasks that have
/// begun to end. The first process of a PID namespace is one of these while it waits for the end of all
/// others, so that one of them never ends if it has such a program to detach: it holds locks that attaching
/// and detaching any program needs, on the whole machine. Seen on 6.1.176 when the first process was killed:
/// kernel/pid_namespace.c, zap_pid_ns_processes(); kernel/bpf/trampoline.c, `tr->mutex`. Mended by
/// 1612160b9127 "rcu-tasks: Eliminate deadlocks involving do_exit() and RCU tasks" (6.9), which came with
/// `rcu_tasks_exit_list` in struct task_struct.
pub fn danger(btf: &Btf<'_>) -> Option<String> {
    let task = btf.type_by_name::<Struct<'_>>("task_struct")?;
    let has = |wanted: &str| task.iter().any(|member| member.name.is_some_and(|name| name == wanted));
    why(has("rcu_tasks_holdout") && !has("rcu_tasks_exit_list"), view::is_in_a_pid_namespace())
}

/// As [`danger`], with types from the kernel or from `external`. Without types no program is attached to a
/// function through ftrace.
pub fn danger_here(external: Option<&Path>) -> Option<String> {
    let types = || Btf::from_path(external.unwrap_or(Path::new(KERNEL_BTF))).ok();
    view::is_in_a_pid_namespace().then(types).flatten().as_ref().and_then(danger)
}

fn why(waits_for_ending_tasks: bool, in_a_pid_namespace: bool) -> Option<String> {
    (waits_for_ending_tasks && in_a_pid_namespace).then(|| {
        "with this kernel (Linux 6.8 and older) no program on the machine could be detached from a function \
         any more if the first process of this PID namespace was killed: run it in the PID namespace of the \
         host"
            .to_owned()
    })
}

impl Hook {
    /// Whether the kernel calls a program there through ftrace.
    pub fn is_by_ftrace(&self) -> bool {
        match self {
            Self::Fentry(_) | Self::Fexit(_) => true,
            Self::Other(section) => {
                let kind = section.split('/').next().unwrap_or(section);
                let kind = kind.strip_suffix(".s").unwrap_or(kind);
                matches!(kind, "fentry" | "fexit" | "fsession" | "fmod_ret" | "lsm")
                    || kind.ends_with(".multi")
                    || kind == "kprobe.session"
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pid_namespace_on_a_kernel_that_waits_for_ending_tasks_is_dangerous() {
        assert!(why(true, true).is_some_and(|why| why.contains("PID namespace of the host")));
        assert_eq!([why(true, false), why(false, true), why(false, false)], [None, None, None]);
    }

    #[test]
    fn programs_that_ftrace_calls_are_known_by_their_section() {
        let sections = ["fentry/vfs_read", "fexit/vfs_read", "fentry.s/vfs_read", "lsm/file_open", "lsm.s/x"];
        for section in sections.iter().chain(&["fmod_ret/x", "kprobe.multi/vfs_*", "kprobe.session/vfs_*"]) {
            assert!(Hook::parse(section).is_by_ftrace(), "{section}");
        }
        for section in ["tp_btf/sys_enter", "raw_tp/sys_enter", "kprobe/vfs_read", "kretprobe/x", "iter/task"]
        {
            assert!(!Hook::parse(section).is_by_ftrace(), "{section}");
        }
    }
}
