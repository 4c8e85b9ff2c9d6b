// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is hidden from this process.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::spec::View;

/// The initial PID namespace: PROC_PID_INIT_INO of include/linux/proc_ns.h.
const INITIAL: &str = "pid:[4026531836]";

/// What is hidden from this process, and why.
pub fn hidden() -> BTreeMap<View, String> {
    [View::Tasks, View::Processes].into_iter().filter_map(|view| Some((view, why_not(view)?))).collect()
}

/// Why this process does not see everything.
pub fn why_not(view: View) -> Option<String> {
    let proc = Path::new("/proc");
    match view {
        View::Tasks => outside(proc),
        View::Processes => outside(proc).or_else(|| others(proc)),
    }
}

/// Whether this process is in another PID namespace than the initial one; false too if that is not known.
pub fn is_in_a_pid_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own.as_os_str() != INITIAL)
}

/// Why tasks are hidden by the PID namespace of this process. An iterator shows the tasks of the
/// reader's PID namespace and of those inside it.
fn outside(proc: &Path) -> Option<String> {
    let namespaces = proc.join("self/ns");
    match fs::read_link(namespaces.join("pid")) {
        Ok(own) if own.as_os_str() == INITIAL => None,
        Ok(_) => Some(
            "tasks outside the PID namespace of this process are hidden: run it in the PID namespace of \
             the host"
                .to_owned(),
        ),
        // A kernel without PID namespaces.
        Err(_) if namespaces.join("mnt").is_symlink() => None,
        Err(error) => {
            Some(format!("cannot tell whether tasks are hidden: {}: {error}", namespaces.display()))
        }
    }
}

/// Why /proc hides processes of other users. Process 1 has all privileges: a process that can
/// inspect it can inspect all others.
fn others(proc: &Path) -> Option<String> {
    let error = fs::metadata(proc.join("1/net")).err()?;
    Some(format!(
        "/proc hides processes of other users ({error}): mount it without hidepid, or set \
         ProtectProc=default"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn another_pid_namespace_is_seen_by_its_number() {
        let proc = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(proc.path().join("self/ns")).expect("a folder");
        assert!(outside(proc.path()).is_some_and(|why| why.contains("cannot tell")), "no /proc at all");
        let link =
            |name: &str, to: &str| symlink(to, proc.path().join("self/ns").join(name)).expect("a link");
        link("mnt", "mnt:[1]");
        assert_eq!(outside(proc.path()), None, "a kernel without PID namespaces");
        link("pid", "pid:[4026532448]");
        assert!(outside(proc.path()).is_some_and(|why| why.contains("PID namespace")));
        fs::remove_file(proc.path().join("self/ns/pid")).expect("it was there");
        link("pid", INITIAL);
        assert_eq!(outside(proc.path()), None);
    }

    #[test]
    fn processes_of_others_are_hidden_where_the_first_is() {
        let proc = tempfile::tempdir().expect("a folder");
        assert!(others(proc.path()).is_some_and(|why| why.contains("hidepid")));
        fs::create_dir_all(proc.path().join("1/net")).expect("a folder");
        assert_eq!(others(proc.path()), None);
    }
}
