// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that waits for its kernel module answers requests, and has no privileges meanwhile. A
//! folder in a private /sys/module stands for the module.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use live::exporter::{get, until};
use live::work::Running;
use live::{Folder, sh, wait_until};

const PORT: u16 = 19115;

const LIMIT: Duration = Duration::from_secs(60);

const MODULE: &str = "wireguard";

/// Bits of capabilities(7).
const KILL: u64 = 1 << 5;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// A command that runs `program` through `wrapper`, with all modules hidden.
fn without_modules(wrapper: &[&str], program: &str) -> Command {
    let hide = "mount -t tmpfs none /sys/module && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", hide, "sh"]).args(wrapper).arg(program);
    command.args(["--web.listen-address", &format!("127.0.0.1:{PORT}")]);
    command
}

/// An exporter that waits for its module. The test can make the module appear and disappear.
struct Waiting(Running);

impl Waiting {
    #[track_caller]
    fn start(command: &mut Command) -> Self {
        let waiting = Self(Running::start(command.stderr(Stdio::null())));
        until(PORT, "it waits", |text| text.get("ebpf_exporter_mode", &[("mode", "waiting")]).is_some());
        waiting
    }

    fn folder(&self) -> String {
        format!("/proc/{}/root/sys/module/{MODULE}", self.0.0.id())
    }

    #[track_caller]
    fn module_comes(&self) {
        fs::create_dir(self.folder()).unwrap();
        // Loading the maps does not need the module itself.
        until(PORT, "it has maps", |text| text.get("ebpf_exporter_mode", &[("mode", "ebpf")]).is_some());
        assert_eq!(get(PORT, "/-/ready").0, 200);
    }

    fn module_goes(&self) {
        fs::remove_dir(self.folder()).unwrap();
    }

    /// A set of capabilities, which must be the same for all threads.
    #[track_caller]
    fn capabilities(&self, set: &str) -> u64 {
        let mut sets = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.0.0.id())).unwrap() {
            let path = task.unwrap().path();
            // The thread may have ended meanwhile.
            let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
            let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            sets.insert(u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap(), name);
        }
        assert_eq!(sets.len(), 1, "{set}: {sets:x?}");
        *sets.keys().next().unwrap()
    }
}

#[live::test(tool("unshare"))]
fn as_root_nothing_is_left_while_it_waits_and_all_comes_back_with_the_module() {
    let waiting = Waiting::start(&mut without_modules(&[], "ebpf-wireguard-exporter"));
    for _ in 0..2 {
        let left = ["CapEff", "CapPrm", "CapInh", "CapAmb"].map(|set| waiting.capabilities(set));
        assert_eq!(left, [0; 4], "{left:x?}");
        waiting.module_comes();
        // The capabilities for reading, as if the module had been there from the start.
        let kept = waiting.capabilities("CapEff");
        assert_eq!(kept & NET_ADMIN, NET_ADMIN, "{kept:x}");
        waiting.module_goes();
        until(PORT, "it waits", |text| text.get("ebpf_exporter_mode", &[("mode", "waiting")]).is_some());
    }
}

/// As a unit that systemd restarts without the module, which it does from version 254 on.
#[live::test(tool("setpriv"), tool("unshare"))]
fn who_gets_nothing_back_keeps_what_starting_takes_and_has_it_not_in_effect() {
    let given = "+cap_39,+cap_38,+net_admin,+sys_admin,+sys_ptrace,+kill";
    let (inheritable, ambient) = (format!("--inh-caps={given}"), format!("--ambient-caps={given}"));
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let unit = [&["setpriv", &inheritable, &ambient, "--no-new-privs"], user.as_slice()].concat();
    for wrapper in [unit.as_slice(), &["setpriv", "--no-new-privs"]] {
        let waiting = Waiting::start(&mut without_modules(wrapper, "ebpf-wireguard-exporter"));
        assert_eq!(waiting.capabilities("CapEff"), 0);
        let kept = waiting.capabilities("CapPrm");
        let needed = BPF | PERFMON | NET_ADMIN | SYS_ADMIN;
        assert_eq!(kept & needed, needed, "{kept:x}");
        assert_eq!(kept & (KILL | SYS_PTRACE), 0, "{kept:x}");
        waiting.module_comes();
        let kept = waiting.capabilities("CapEff");
        // Before 5.19, reading also takes CAP_BPF.
        assert_eq!(kept & (NET_ADMIN | PERFMON), NET_ADMIN, "{kept:x}");
    }
}

#[live::test(tool("setpriv"), tool("unshare"))]
fn all_are_kept_where_that_was_asked_for() {
    let mut command = without_modules(&[], "ebpf-wireguard-exporter");
    let waiting = Waiting::start(command.arg("--capabilities.keep=all"));
    assert_eq!(waiting.capabilities("CapEff"), waiting.capabilities("CapBnd"));
}

#[live::test(tool("setpriv"), tool("unshare"))]
fn who_gets_nothing_back_ends_when_the_module_goes() {
    let wrapper = ["setpriv", "--no-new-privs"];
    let mut waiting = Waiting::start(&mut without_modules(&wrapper, "ebpf-wireguard-exporter"));
    waiting.module_comes();
    waiting.module_goes();
    let mut code = None;
    wait_until("it ends", LIMIT, || {
        code = waiting.0.0.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.and_then(|status| status.code()), Some(1));
}

#[live::test(tool("unshare"))]
fn it_starts_over_from_a_folder_that_only_its_owner_may_enter() {
    let folder = Folder::new();
    let home = folder.path("home");
    sh(&format!("mkdir {home}; cp \"$(command -v ebpf-wireguard-exporter)\" {home}/; chown -R 65534 {home}"));
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let program = format!("{home}/ebpf-wireguard-exporter");
    let waiting = Waiting::start(&mut without_modules(&[], &program));
    assert_eq!(waiting.capabilities("CapEff"), 0);
    waiting.module_comes();
}
