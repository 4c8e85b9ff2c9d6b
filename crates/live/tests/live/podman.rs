// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container image under podman, with the rights and arguments of `deploy/kubernetes`: what it counts against what
//! the same exporters count outside, and the profile of docs/containers.md where that of podman is too old.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use live::exporter::Exporter;
use live::exposition::{Delta, Exposition};
use live::wireguard::Tunnel;
use live::work::{cold_file, processes};
use live::zpool::{DISKS, Pool};
use live::{Folder, bpf_programs, sh, wait_until};

use crate::rights::{CONTAINERS, listed};

/// Time limit for what takes seconds here, on an emulated, busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// Without systemd's bus and journal, which a guest may be without; podman's own network is none of ours.
const PODMAN: [&str; 3] = ["--cgroup-manager=cgroupfs", "--events-backend=none", "--log-level=error"];

/// A container does not see the names of network namespaces, by which wireguard finds peers.
const UNNAMED: &str = "mount -t tmpfs none /run/netns && exec ebpf-exporters run \"$@\"";

const DOCS: &str = include_str!("../../../../docs/containers.md");

/// A command of podman.
fn podman(arguments: &[&str]) -> Output {
    Command::new("podman").args(PODMAN).args(arguments).output().unwrap()
}

/// The same; returns its first line.
#[track_caller]
fn ask(arguments: &[&str]) -> String {
    let output = podman(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}

/// The line of `image: ` of a manifest.
fn image(manifest: &str) -> &str {
    manifest.lines().find_map(|line| line.trim().strip_prefix("image: ")).unwrap()
}

/// The arguments in a manifest: those of the supervisor, then the names of exporters.
fn arguments(manifest: &str) -> Vec<&str> {
    let (_, rest) = manifest.split_once("args:\n").unwrap();
    let (list, _) = rest.split_once("ports:\n").unwrap();
    list.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect()
}

/// What the manifests say of a container, in podman's words.
fn rights(manifest: &str) -> Vec<String> {
    let mut rights: Vec<String> = [
        "--pid=host",
        "--read-only",
        "--read-only-tmpfs=false",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--user=0",
        "--memory=256m",
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    rights.extend(listed(manifest, "capabilities").iter().map(|name| format!("--cap-add={name}")));
    let network = if manifest.contains("hostNetwork: true") { "host" } else { "none" };
    rights.push(format!("--network={network}"));
    if manifest.contains("mountPath: /sys/fs/cgroup") {
        rights.push("--volume=/sys/fs/cgroup:/sys/fs/cgroup:ro".to_owned());
    }
    rights
}

/// Writes the profile that docs/containers.md makes.
fn profile(folder: &Folder) -> String {
    let (_, rest) = DOCS.split_once("    jq '").unwrap();
    let (command, _) = rest.split_once(" > ebpf-exporters.json").unwrap();
    let path = folder.path("ebpf-exporters.json");
    sh(&format!("jq '{command} > {path}"));
    path
}

/// A running container.
struct Container {
    id: String,
    pid: String,
    port: String,
}

impl Container {
    /// Starts the container of a manifest, with a seccomp profile.
    fn start(manifest: &str, profile: &str) -> Self {
        let (rights, seccomp) = (rights(manifest), format!("--security-opt=seccomp={profile}"));
        let mut command = vec!["run", "--detach", &seccomp];
        command.extend(rights.iter().map(String::as_str));
        command.push(image(manifest));
        let arguments = arguments(manifest);
        command.extend(&arguments);
        let id = ask(&command);
        let pid = ask(&["inspect", "--format={{.State.Pid}}", &id]);
        let port = arguments.iter().find_map(|word| word.strip_prefix("--web.listen-address=:"));
        let container = Self { id, pid, port: port.unwrap().to_owned() };
        wait_until("all are started", LIMIT, || {
            let ready = container.get("/-/ready");
            !ready.is_empty() && !ready.starts_with("starting")
        });
        container
    }

    /// An answer; empty if there is none.
    fn get(&self, path: &str) -> String {
        let Self { pid, port, .. } = self;
        sh(&format!("nsenter --net=/proc/{pid}/ns/net curl -s http://127.0.0.1:{port}{path} || :"))
    }

    fn scrape(&self) -> Exposition {
        Exposition::parse(&self.get("/metrics"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        podman(&["rm", "--force", "--time=30", &self.id]);
    }
}

/// The names of all metrics, and of those that count. Sums of times differ: two programs on one hook run one after the
/// other.
fn names(page: &Exposition) -> (BTreeSet<String>, BTreeSet<String>) {
    let all: BTreeSet<String> = page.series().map(|(name, _)| name.to_owned()).collect();
    let counts = all.iter().filter(|name| name.starts_with("ebpf_") && !name.starts_with("ebpf_exporter"));
    let counts = counts.filter(|name| ["_total", "_count"].iter().any(|end| name.ends_with(end)));
    (all.clone(), counts.cloned().collect())
}

/// Asserts that over a longer time at least as much was counted as by the others over a part of it.
fn assert_within(what: &str, part: &Delta, whole: &Delta) -> usize {
    let lost = part.lost() + whole.lost();
    let mut grown = 0;
    for name in names(&part.1).1 {
        let [least, most] = [part, whole].map(|delta| delta.of(&name, &[]));
        assert!(least <= most + lost, "{what}: {name} {least}, {most} over a longer time");
        grown += usize::from(least > 0.0);
    }
    grown
}

/// Programs in the kernel that are not among those of `before`; systemd makes some for units.
fn more_programs(before: &[String]) -> Vec<String> {
    let mut more = bpf_programs();
    for name in before {
        if let Some(at) = more.iter().position(|other| other == name) {
            more.swap_remove(at);
        }
    }
    more.retain(|name| !name.starts_with("sd_"));
    more
}

/// Something for each exporter to count.
fn work(pool: &Pool, tunnel: &Tunnel) {
    processes(23);
    fs::read(cold_file(211)).unwrap();
    sh("dd if=/dev/zero of=/tank/file bs=64k count=16 conv=fsync status=none; cat /tank/file > /dev/null");
    pool.sync();
    tunnel.exchange("left", "right", "10.98.0.2", 37);
}

#[live::test(
    once,
    own_machine,
    module("zfs"),
    module("wireguard"),
    spare_disks,
    tool("podman"),
    tool("jq"),
    tool("unshare"),
    tool("wg"),
    file("/payload/ebpf-exporters.oci.tar"),
    file("/usr/share/containers/seccomp.json")
)]
fn in_a_container_the_image_counts_what_is_counted_outside() {
    ask(&["load", "--quiet", "--input=/payload/ebpf-exporters.oci.tar"]);
    let (pool, tunnel) = (Pool::create("tank", DISKS[0]), Tunnel::new(""));
    let folder = Folder::new();
    let profile = profile(&folder);

    // With podman's own profile all is well, or what docs/containers.md says is said.
    let manifest = CONTAINERS[0];
    let rights = rights(manifest);
    let mut check = vec!["run", "--rm", "--entrypoint=/usr/bin/ebpf-syscall-exporter"];
    check.extend(rights.iter().map(String::as_str));
    check.extend([image(manifest), "--check"]);
    let output = podman(&check);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("podman's own profile: {} {errors}", output.status);
    if !output.status.success() {
        let (_, rest) = DOCS.split_once("    cannot run: ... ").unwrap();
        assert!(errors.contains(rest.lines().next().unwrap()), "{errors}");
    }

    let programs = bpf_programs();
    for manifest in CONTAINERS {
        let inside = Container::start(manifest, &profile);
        let exporters = listed(manifest, "exporters");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", UNNAMED, "sh"]).args(&exporters);
        let outside = Exporter::spawn(&mut command);
        wait_until("all are started", LIMIT, || {
            !live::exporter::get(outside.port(), "/-/ready").1.starts_with("starting")
        });
        let sources: [&dyn Fn() -> Exposition; 2] = [&|| inside.scrape(), &|| outside.scrape()];
        for exporter in &exporters {
            let up = sources.map(|scrape| scrape().get("ebpf_exporters_up", &[("exporter", exporter)]));
            assert_eq!(up, [Some(1.0); 2], "{exporter}: {}", inside.get("/-/ready"));
        }
        // Whoever is asked first and last has counted for longer.
        for (what, [longer, shorter]) in
            [("inside for longer", sources), ("outside", [sources[1], sources[0]])]
        {
            let (first, second) = (longer(), shorter());
            work(&pool, &tunnel);
            let part = Delta(second, shorter());
            let whole = Delta(first, longer());
            let grown = assert_within(what, &part, &whole);
            println!("{what}: {grown} counters of {} went up", names(&part.1).1.len());
            assert!(grown > 0);
        }
        // Some metrics begin with their first event. The container was started first, and is asked last.
        let [outside, inside] = [outside.scrape(), inside.scrape()].map(|page| names(&page).0);
        assert!(outside.is_subset(&inside), "{:?}", outside.difference(&inside).collect::<Vec<_>>());
    }
    // Each container took its programs with it.
    wait_until("no program is left", LIMIT, || more_programs(&programs).is_empty());
}
