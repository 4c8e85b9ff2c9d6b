// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a program was refused: the messages of libbpf and the verifier. If the cause is known, also
//! what the user can do about it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Mutex;
use std::{mem, ptr};

use caps::Capability;

use crate::kernel::permissions;

/// The last warning that libbpf printed. It is more precise than the error number that libbpf returns.
static LAST_LIBBPF_WARNING: Mutex<Option<String>> = Mutex::new(None);

/// The error with libbpf's last warning, which is then cleared.
pub fn with_details(error: &libbpf_rs::Error) -> String {
    match LAST_LIBBPF_WARNING.lock().ok().and_then(|mut last| last.take()) {
        Some(warning) => format!("{error:#}: {warning}"),
        None => format!("{error:#}"),
    }
}

/// Forgets libbpf's last warning, so that it does not become a detail of the next error.
pub fn forget_details() {
    if let Ok(mut last) = LAST_LIBBPF_WARNING.lock() {
        *last = None;
    }
}

/// Receives libbpf's messages from now on.
///
/// The callback of libbpf-rs aborts the process at a message that is not UTF-8, and libbpf's messages
/// contain names from users' objects.
pub fn listen() {
    // SAFETY: `print` has the type that libbpf calls. Its last argument is a pointer to the list on
    // each architecture, whatever the bindings call it.
    unsafe {
        libbpf_sys::libbpf_set_print(mem::transmute::<*const (), libbpf_sys::libbpf_print_fn_t>(
            print as *const (),
        ));
    }
}

unsafe extern "C" {
    /// As glibc has it: `vasprintf(3)`.
    fn vasprintf(text: *mut *mut c_char, format: *const c_char, arguments: *mut c_void) -> c_int;
}

extern "C" fn print(
    level: libbpf_sys::libbpf_print_level,
    format: *const c_char,
    arguments: *mut c_void,
) -> c_int {
    let mut text = ptr::null_mut();
    // SAFETY: libbpf passes a format with its arguments, which are read once.
    if unsafe { vasprintf(&raw mut text, format, arguments) } >= 0 {
        // SAFETY: the call succeeded, so there is a text that ends with NUL.
        from_libbpf(level, &unsafe { CStr::from_ptr(text) }.to_string_lossy());
        // SAFETY: it was allocated by vasprintf, and nobody else frees it.
        unsafe { libc::free(text.cast()) };
    }
    0
}

/// Logs libbpf's messages for debugging only, and keeps its warnings as details of errors: not every
/// refusal of a program is an error of the exporter.
fn from_libbpf(level: libbpf_sys::libbpf_print_level, message: &str) {
    let message = message.trim();
    if level == libbpf_sys::LIBBPF_WARN
        && let Ok(mut last) = LAST_LIBBPF_WARNING.lock()
    {
        note(&mut last, message);
    }
    log::debug!(target: "libbpf", "{message}");
}

/// Keeps the verifier's verdict, its second-to-last line, in preference to the general messages
/// after it.
fn note(last: &mut Option<String>, message: &str) {
    if message.contains("BEGIN PROG LOAD LOG") {
        if let Some(verdict) = verdict(message) {
            *last = Some(verdict);
        }
    } else if !last.as_ref().is_some_and(|text| text.starts_with(VERDICT)) {
        let first = message.lines().next().unwrap_or_default().trim_start_matches("libbpf: ");
        // These follow a message that says why.
        let says_less = [
            "failed to load object",
            "failed to load BPF skeleton",
            "': failed to load: ",
            "': failed to prepare load attributes: ",
        ];
        if first.contains("Couldn't load trivial BPF program") {
            // Leave out libbpf's guesses at the reason.
            *last = Some("the kernel rejects even an empty program".to_owned());
        } else if !first.contains("try raising 'ulimit -l'")
            && (last.is_none() || !says_less.iter().any(|words| first.contains(words)))
        {
            *last = Some(first.to_owned());
        }
    }
}

const VERDICT: &str = "verifier: ";

/// Why the verifier rejected a program, from its log.
pub fn verdict(log: &str) -> Option<String> {
    let mut lines = log.lines().filter(|line| !line.starts_with("processed ") && !line.contains("LOAD LOG"));
    lines.next_back().map(|line| format!("{VERDICT}{line}"))
}

/// Known reasons why the kernel may refuse eBPF; only those that apply to this process are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obstacles {
    /// Capabilities that tracing programs need and this process lacks.
    pub missing: &'static [&'static str],
    /// Whether its capabilities are those of a user namespace: bpf(2) does not accept them.
    pub user_namespace: bool,
    /// Whether a seccomp filter blocks bpf(2).
    pub filtered: bool,
    /// Whether kernel lockdown forbids programs to read kernel memory.
    pub locked_down: bool,
    /// `kernel.perf_event_paranoid`, if it requires CAP_SYS_ADMIN and this process lacks that.
    pub paranoid: Option<i32>,
    /// Limit of locked memory in bytes, if there is one and maps and programs count towards it.
    pub lockable: Option<u64>,
}

impl Obstacles {
    /// The obstacles for this process on this kernel.
    pub fn now() -> Self {
        let (missing, user_namespace) = (permissions::missing(), permissions::in_user_namespace());
        // If one of these applies, the kernel itself refuses the call, and a filter cannot be
        // detected.
        let filtered = missing.is_empty()
            && !user_namespace
            && permissions::has_seccomp_filter()
            && !permissions::takes_bpf_calls();
        Self {
            missing,
            user_namespace,
            filtered,
            locked_down: permissions::locked_down(),
            paranoid: permissions::perf_event_paranoid()
                .filter(|level| *level > 2 && !permissions::has(Capability::CAP_SYS_ADMIN)),
            lockable: permissions::lockable().filter(|_| permissions::charges_locked_memory()),
        }
    }

    /// The error `why` of the kernel or libbpf, followed by what the user can do about it.
    pub fn explain(&self, why: &str) -> String {
        let remedy = why.split("; ").find_map(|reason| self.remedy(reason));
        remedy.map_or_else(|| why.to_owned(), |remedy| format!("{why}; {remedy}"))
    }

    fn remedy(&self, why: &str) -> Option<String> {
        let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
        let verifier = why.contains("verifier: ");
        // The verifier also returns EACCES, for an invalid program.
        let permission = !verifier && has(&["not permitted", "ermission denied", "EPERM", "EACCES"]);
        let unknown = has(&["not implemented", "ENOSYS"]);
        if permission && self.user_namespace {
            return Some(
                "capabilities in a user namespace allow neither eBPF nor perf events: run the exporter outside of it"
                    .to_owned(),
            );
        }
        if permission && !self.missing.is_empty() {
            let (be, it) = if self.missing.len() == 1 { ("is", "it") } else { ("are", "them") };
            return Some(format!(
                "{} {be} missing: run the exporter as root, from its systemd unit, or with {it}",
                self.missing.join(" and ")
            ));
        }
        if (permission || unknown) && self.filtered {
            return Some(
                "a seccomp filter blocks bpf(2): allow it in SystemCallFilter= of the unit or in the \
                 container's profile"
                    .to_owned(),
            );
        }
        if permission
            && why.contains("perf event")
            && let Some(level) = self.paranoid
        {
            return Some(format!("with kernel.perf_event_paranoid={level} it takes CAP_SYS_ADMIN to attach"));
        }
        // Lockdown removes the helper that reads kernel memory.
        if (permission || verifier && has(&["unknown func", "cannot use helper"])) && self.locked_down {
            return Some(
                "kernel lockdown (confidentiality) does not let eBPF read kernel memory: boot with \
                 lockdown=integrity"
                    .to_owned(),
            );
        }
        if permission && let Some(bytes) = self.lockable {
            return Some(format!(
                "maps count as locked memory on this kernel, and the limit is {bytes} bytes: raise it with \
                 ulimit -l unlimited or LimitMEMLOCK=infinity"
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPERM: &str = "Operation not permitted (os error 1)";

    /// All obstacles at the same time.
    fn all() -> Obstacles {
        Obstacles {
            missing: &["CAP_BPF", "CAP_PERFMON"],
            user_namespace: true,
            filtered: true,
            locked_down: true,
            paranoid: Some(3),
            lockable: Some(65536),
        }
    }

    #[test]
    fn what_is_in_the_way_is_named_and_nothing_else() {
        let words = ["user namespace", "CAP_BPF", "seccomp", "paranoid", "lockdown", "locked memory"];
        let none = Obstacles::default;
        let cases = [
            (Obstacles { user_namespace: true, ..none() }, "user namespace"),
            (Obstacles { missing: &["CAP_BPF"], ..none() }, "CAP_BPF"),
            (Obstacles { filtered: true, ..none() }, "seccomp"),
            (Obstacles { paranoid: Some(3), ..none() }, "paranoid"),
            (Obstacles { locked_down: true, ..none() }, "lockdown"),
            (Obstacles { lockable: Some(0), ..none() }, "locked memory"),
        ];
        for (obstacles, word) in cases {
            let said = obstacles.explain(&format!("{EPERM}: failed to create perf event"));
            let named: Vec<&str> = words.into_iter().filter(|word| said.contains(word)).collect();
            assert_eq!(named, [word], "{said}");
        }
        assert_eq!(Obstacles::default().explain(EPERM), EPERM);
    }

    #[test]
    fn what_is_no_matter_of_permission_has_no_remedy() {
        for why in [
            "no kprobes: /sys/bus/event_source/devices/kprobe does not exist here",
            "this kernel has no tracepoint x",
            "Invalid argument (os error 22): verifier: R1 type=scalar expected=fp",
            "Permission denied (os error 13): verifier: R1 invalid mem access 'scalar'",
            "Cannot allocate memory (os error 12)",
        ] {
            assert_eq!(all().explain(why), why);
        }
    }

    #[test]
    fn lockdown_is_named_where_it_took_a_helper_away() {
        let locked = Obstacles { locked_down: true, ..Obstacles::default() };
        for why in [
            "verifier: unknown func bpf_probe_read_kernel#113",
            "verifier: program of this type cannot use helper bpf_probe_read_kernel#113",
        ] {
            assert!(locked.explain(why).contains("lockdown=integrity"), "{why}");
        }
    }

    #[test]
    fn only_what_is_missing_is_asked_for() {
        let lacks = |missing| Obstacles { missing, ..Obstacles::default() }.explain(EPERM);
        assert!(lacks(&["CAP_PERFMON"]).contains("; CAP_PERFMON is missing"));
        let both = lacks(&["CAP_BPF", "CAP_PERFMON"]);
        assert!(both.contains("; CAP_BPF and CAP_PERFMON are missing"), "{both}");
    }

    #[test]
    fn the_verifiers_verdict_is_kept() {
        let mut last = None;
        note(&mut last, "libbpf: prog 'x': BPF program load failed: -EINVAL");
        assert_eq!(last.as_deref(), Some("prog 'x': BPF program load failed: -EINVAL"));
        let log = "libbpf: prog 'x': -- BEGIN PROG LOAD LOG --\nBPF_STX uses reserved fields\n\
                   processed 0 insns (limit 1000000)\n-- END PROG LOAD LOG --";
        note(&mut last, log);
        note(&mut last, "libbpf: failed to load object");
        assert_eq!(last.as_deref(), Some("verifier: BPF_STX uses reserved fields"));
    }

    #[test]
    fn a_missing_target_is_named() {
        let mut last = None;
        for message in [
            "libbpf: prog 'x': failed to find kernel BTF type ID of 'no_such_function': -ESRCH",
            "libbpf: prog 'x': failed to prepare load attributes: -ESRCH",
            "libbpf: prog 'x': failed to load: -ESRCH",
            "libbpf: failed to load object 'y'",
        ] {
            note(&mut last, message);
        }
        let said = last.as_deref();
        assert_eq!(said, Some("prog 'x': failed to find kernel BTF type ID of 'no_such_function': -ESRCH"));
    }

    #[test]
    fn what_says_less_and_what_libbpf_guesses_is_passed_over() {
        let mut last = None;
        note(
            &mut last,
            "libbpf: Error in bpf_object__probe_loading(): -EPERM. Couldn't load trivial BPF program. Make sure \
             your kernel supports BPF (CONFIG_BPF_SYSCALL=y) and/or that RLIMIT_MEMLOCK is set to big enough \
             value.",
        );
        note(&mut last, "libbpf: failed to load BPF skeleton 'x': -EPERM");
        assert_eq!(last.as_deref(), Some("the kernel rejects even an empty program"));
        let mut last = None;
        note(&mut last, "libbpf: map 'x': failed to create: -EPERM");
        note(
            &mut last,
            "libbpf: permission error while running as root; try raising 'ulimit -l'? current value: 64.0 KiB",
        );
        note(&mut last, "libbpf: failed to load object 'x'");
        assert_eq!(last.as_deref(), Some("map 'x': failed to create: -EPERM"));
    }
}
