// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `deploy/kubernetes` gives to containers is enough: under these rights each exporter finds what it finds with all
//! rights, and nothing in the manifests is for nothing.

use std::process::{Command, Output};

use crate::refusals::charges_locked_memory;

/// The container of the first exporters, and the second one.
pub const CONTAINERS: [&str; 2] = [
    include_str!("../../../../deploy/kubernetes/base/daemonset.yaml"),
    include_str!("../../../../deploy/kubernetes/admin/daemonset.yaml"),
];

/// Namespaces and file systems as in a container of a pod with hostPID: a network of its own, read-only file systems, the
/// control groups of the host.
const INSIDE: &str = "mount --make-rprivate /; mount --rbind /sys/fs/cgroup /mnt; \
                      mount -t sysfs -o ro sysfs /sys; mount --rbind /mnt /sys/fs/cgroup; \
                      mount -t proc proc /proc; mount --bind /proc/sys /proc/sys; \
                      mount -o remount,bind,ro /proc/sys; mount -o remount,bind,ro /; \
                      exec setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set=\"$0\" \"$@\"";

/// What docs/kubernetes.md says to add to the capabilities of a manifest on this kernel.
fn extra() -> &'static [&'static str] {
    if charges_locked_memory() { &["SYS_RESOURCE"] } else { &[] }
}

/// The items of a generated list of a manifest.
pub fn listed<'m>(manifest: &'m str, region: &str) -> Vec<&'m str> {
    let (_, rest) = manifest.split_once(&format!("# begin {region}:")).unwrap();
    let (list, _) = rest.split_once(&format!("# end {region}")).unwrap();
    let items: Vec<&str> = list.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
    assert!(!items.is_empty(), "{region}");
    items
}

/// Runs a command with these capabilities and no others. By number, as not every setpriv knows their names.
fn inside(capabilities: &[&str], command: &[&str]) -> Output {
    let bounding: String = capabilities.iter().map(|name| format!(",+cap_{}", number(name))).collect();
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--uts", "--ipc", "--cgroup", "--net", "sh", "-ec", INSIDE]);
    unshare.arg(format!("-all{bounding}")).args(command).output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Numbers of capabilities, as include/uapi/linux/capability.h has them.
fn number(capability: &str) -> u32 {
    match capability {
        "NET_ADMIN" => 12,
        "SYS_ADMIN" => 21,
        "SYS_RESOURCE" => 24,
        "PERFMON" => 38,
        "BPF" => 39,
        other => panic!("{other} is new in a manifest"),
    }
}

#[live::test(once, tool("setpriv"), tool("unshare"))]
fn the_rights_of_a_container_are_enough_for_its_exporters() {
    for manifest in CONTAINERS {
        let capabilities = [&listed(manifest, "capabilities"), extra()].concat();
        let status = said(&inside(&capabilities, &["grep", "^Cap[PEB]", "/proc/self/status"])).1;
        let wanted = format!("{:016x}", capabilities.iter().map(|name| 1u64 << number(name)).sum::<u64>());
        assert_eq!(status.matches(&wanted).count(), 3, "{wanted}: {status}");
        for name in listed(manifest, "exporters") {
            let program = format!("ebpf-{name}-exporter");
            let outside = Command::new(&program).arg("--check").output().unwrap();
            let inside = inside(&capabilities, &[&program, "--check"]);
            let errors = String::from_utf8_lossy(&inside.stderr).into_owned();
            assert_eq!(said(&inside), said(&outside), "{name}: {errors}");
        }
    }
}

#[live::test(once, tool("setpriv"), tool("unshare"))]
fn without_one_of_them_no_exporter_starts() {
    let capabilities = listed(CONTAINERS[0], "capabilities");
    for missing in &capabilities {
        let others: Vec<&str> =
            capabilities.iter().chain(extra()).copied().filter(|name| name != missing).collect();
        let output = inside(&others, &["ebpf-syscall-exporter", "--check"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{missing}: {errors}");
        assert!(errors.contains(&format!("CAP_{missing}")), "{missing}: {errors}");
    }
}
