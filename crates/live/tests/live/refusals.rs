// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors: wrong usage, and refusals of the kernel or a sandbox. The exporter says why, and names a
//! remedy only if its cause is present.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use live::exporter::Exporter;
use live::{Folder, seccomp, sh, wait_until};

use crate::{is_attached, our_programs, start};

/// Exit code and standard error.
pub fn fails(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[live::test(once)]
fn what_cannot_work_says_why_and_leaves_nothing_behind() {
    let before = our_programs();
    let exporter = start();
    let port = exporter.port().to_string();
    let mut command = Command::new("ebpf-diskio-exporter");
    let (code, said) = fails(command.args(["--web.listen-address", &format!("127.0.0.1:{port}")]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&port) && said.contains("--web.listen-address"), "{said}");
    drop(exporter);

    let (code, said) = fails(Command::new("ebpf-diskio-exporter").arg("--check").uid(65534).gid(65534));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("CAP_BPF"), "{said}");

    for (path, why) in [("/nonexistent", "/nonexistent"), ("/etc/passwd", "/etc/passwd")] {
        let (code, said) = fails(Command::new("ebpf-diskio-exporter").args(["--check", "--btf.path", path]));
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "one line: {said}");
    }

    let ambiguous = ["--web.listen-address", "::1:9101"];
    let (code, said) = fails(Command::new("ebpf-diskio-exporter").args(ambiguous));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("[::1]:9101"), "{said}");

    let (code, said) = fails(Command::new("ebpf-diskio-exporter").arg("--no-such-flag"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--no-such-flag"), "{said}");

    let (code, said) =
        fails(Command::new("ebpf-diskio-exporter").args(["--textfile.path", "/nonexistent/x.prom"]));
    assert_eq!(code, Some(1), "{said}");
    wait_until("programs gone", Duration::from_secs(30), || our_programs() == before);
}

/// A phrase of each remedy.
const REMEDIES: [&str; 8] = [
    "locked memory",
    "CAP_BPF",
    "CAP_PERFMON",
    "CAP_SYS_ADMIN",
    "user namespace",
    "seccomp",
    "CONFIG_DEBUG_INFO_BTF",
    "is hidden from this process",
];

/// Checks that a command fails with code 1 and names exactly these remedies.
#[track_caller]
fn names(command: &mut Command, remedies: &[&str]) {
    let (code, said) = fails(command);
    assert_eq!(code, Some(1), "{said}");
    let named: Vec<&str> = REMEDIES.into_iter().filter(|word| said.contains(word)).collect();
    assert_eq!(named, remedies, "{said}");
    assert!(!said.contains("BPF skeleton"), "it says what was refused: {said}");
}

/// Capabilities by their numbers (linux/capability.h): the setpriv of Debian 11 does not know their names.
const BPF: &str = ",+cap_39";
const PERFMON: &str = ",+cap_38";

/// A command that checks an exporter's probes as user nobody with these capabilities.
fn with_capabilities(capabilities: &str, exporter: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        command.arg(format!("--{set}=-all{capabilities}"));
    }
    command.args([&format!("ebpf-{exporter}-exporter"), "--check"]);
    command
}

#[live::test(tool("setpriv"), tool("prlimit"))]
fn a_remedy_is_named_only_where_its_cause_is_there() {
    names(&mut with_capabilities("", "diskio"), &["CAP_BPF", "CAP_PERFMON"]);
    names(&mut with_capabilities(BPF, "diskio"), &["CAP_PERFMON"]);
    names(&mut with_capabilities(PERFMON, "diskio"), &["CAP_BPF"]);
    // The limit of locked memory is not the cause here.
    names(
        Command::new("prlimit").arg("--memlock=65536").args(["setpriv", "--bounding-set=-all"]).args([
            "--inh-caps=-all",
            "ebpf-diskio-exporter",
            "--check",
        ]),
        &["CAP_BPF", "CAP_PERFMON"],
    );
    let mut filtered = Command::new("prlimit");
    filtered.args(["--memlock=65536", "ebpf-diskio-exporter", "--check"]);
    // SAFETY: between fork and exec, the closure only makes one system call.
    unsafe { filtered.pre_exec(|| seccomp::refuse(libc::SYS_bpf, libc::EPERM)) };
    names(&mut filtered, &["seccomp"]);
    let namespace = ["-Ur", "ebpf-diskio-exporter", "--check"];
    names(Command::new("unshare").args(namespace), &["user namespace"]);
    // If maps count as locked memory, a limit that cannot be raised is a cause. Otherwise it is none.
    let mut limited = Command::new("prlimit");
    limited.args(["--memlock=0"]).arg("setpriv");
    let unprivileged = with_capabilities(&format!("{BPF}{PERFMON}"), "diskio");
    limited.args(unprivileged.get_args());
    if charges_locked_memory() {
        names(&mut limited, &["locked memory"]);
    } else {
        let output = limited.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Whether maps count as locked memory on this kernel.
pub fn charges_locked_memory() -> bool {
    sh("grep -c ' bpf_map_charge_init$' /proc/kallsyms || :") != "0"
}

/// Debian's kernels have their own, higher level of perf_event_paranoid.
#[live::test(kprobes, module("zfs"), tool("setpriv"))]
fn a_setting_that_asks_for_more_is_named() {
    sh("modprobe zfs");
    let level: i32 = sh("cat /proc/sys/kernel/perf_event_paranoid").parse().unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--memlock=unlimited", "setpriv"]);
    command.args(with_capabilities(&format!("{BPF}{PERFMON}"), "zfs-arc").get_args());
    if level > 2 {
        names(&mut command, &["CAP_SYS_ADMIN"]);
    } else {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[live::test(file("/sys/kernel/btf/vmlinux"))]
fn btf_that_is_hidden_is_named_as_such() {
    for hidden in ["/sys/kernel/btf", "/sys"] {
        let hide = format!("mount -t tmpfs none {hidden} && exec ebpf-diskio-exporter --check");
        let mut command = Command::new("unshare");
        let (code, said) = fails(command.args(["-m", "sh", "-c", &hide]));
        assert!(said.contains("--btf.path"), "{code:?} {said}");
        names(&mut command, &["is hidden from this process"]);
    }
}

#[live::test(file("/sys/kernel/btf/vmlinux"))]
fn what_a_kernel_lacks_is_named_without_a_remedy() {
    let folder = Folder::new();
    let btf = folder.path("vmlinux.btf");
    sh(&format!("cp /sys/kernel/btf/vmlinux {btf}"));
    // Hides what fentry and kprobes need.
    let hide = "mount -t tmpfs none /sys/kernel/btf && mount -t tmpfs none /sys/bus && exec prlimit \
                --memlock=65536 ebpf-dns-exporter --check --btf.path \"$1\"";
    names(Command::new("unshare").args(["-m", "sh", "-c", hide, "sh", &btf]), &[]);
}

/// Lockdown cannot be undone.
#[live::test(own_machine, last_of_all)]
fn lockdown_is_named_where_it_matters() {
    let folder = Folder::new();
    let btf = folder.path("vmlinux.btf");
    sh(&format!("cp /sys/kernel/btf/vmlinux {btf}"));
    sh("mountpoint -q /sys/kernel/security || mount -t securityfs none /sys/kernel/security
        echo confidentiality > /sys/kernel/security/lockdown");
    // Programs with BTF-typed pointers do not need the helper that lockdown forbids.
    let check = sh("ebpf-diskio-exporter --check");
    assert!(check.lines().all(is_attached), "{check}");
    // The raw_tp twins need that helper.
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec ebpf-diskio-exporter --btf.path \"$@\"";
    let hide = ["-m", "sh", "-c", hide, "sh", &btf];
    let (code, said) = fails(Command::new("unshare").args(hide).arg("--check"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("lockdown"), "{said}");
    // A server still has the sources without eBPF.
    let (said, exporter) = Exporter::spawn_and_read(Command::new("unshare").args(hide));
    assert!(said.contains("lockdown") && said.contains("without eBPF"), "{said}");
    assert_eq!(exporter.scrape().get("ebpf_exporter_mode", &[("mode", "fallback")]), Some(1.0));
    drop(exporter);
    wait_until("programs gone", Duration::from_secs(30), || our_programs() == 0);
}
