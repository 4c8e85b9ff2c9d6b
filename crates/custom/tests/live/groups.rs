// SPDX-License-Identifier: MIT OR Apache-2.0
//! Control groups: their names, also of those that are gone, the map of those whose path matches, and
//! containers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use libbpf_rs::MapType;
use live::cgroup::{self, Group};
use live::exporter::Exporter;
use live::{seccomp, wait_until};

use crate::folder::{Folder, said, trigger};

/// Number of groups that come and go. Every second is a container's.
const GROUPS: usize = 50;

/// Runs `work` while this process is in a control group below the root.
pub fn inside(group: &str, work: impl FnOnce()) {
    let root = cgroup::root().unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
    let join = |path: &str| fs::write(root.join(path).join("cgroup.procs"), std::process::id().to_string());
    join(group).unwrap();
    work();
    join(&own).unwrap();
}

/// Whether a process watches a folder by inotify(7).
fn watches(process: u32, folder: &Path) -> bool {
    let id = format!(" ino:{:x} ", fs::metadata(folder).unwrap().ino());
    let descriptors = fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap();
    let of = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    descriptors
        .flatten()
        .any(|entry| of(&entry.path()).lines().any(|line| line.starts_with("inotify ") && line.contains(&id)))
}

#[live::test(cgroup2)]
fn groups_that_are_gone_before_the_first_scrape_have_names() {
    let folder = Folder::of(&["groups"]);
    let exporter = folder.start(&[]);
    let root = cgroup::root().unwrap();
    let container = |n: usize| format!("{n:064x}");
    let name = |n: usize| match n % 2 {
        0 => format!("custom-soon-{n}"),
        _ => format!("docker-{}.scope", container(n)),
    };
    for name in (0..GROUPS).map(name) {
        let _group = Group::new(&name);
        // It lives for as long as the exporter takes to hear of it, on a busy machine too.
        wait_until("the new group is watched", Duration::from_secs(60), || {
            watches(exporter.pid(), &root.join(&name))
        });
        inside(&name, || trigger(0, 0));
    }
    let scrape = exporter.scrape();
    for n in 0..GROUPS {
        let path = root.join(name(n)).display().to_string();
        let found = scrape.get("ebpf_exporter_groups_total", &[("cgroup", &path)]);
        assert_eq!(found, Some(19.0), "{path}: {:?}", scrape.labels("ebpf_exporter_groups_total"));
    }
    let containers = "ebpf_exporter_groups_containers_total";
    for n in (1..GROUPS).step_by(2) {
        assert_eq!(scrape.get(containers, &[("container", &container(n))]), Some(19.0), "{n}");
    }
    let others = GROUPS.div_ceil(2) as f64 * 19.0;
    assert_eq!(scrape.get(containers, &[("container", "")]), Some(others), "in no container");
    let watched = (0..GROUPS).filter(|n| root.join(name(*n)).exists()).count();
    assert_eq!(watched, 0, "none of them is left");
}

#[live::test(cgroup2)]
fn groups_whose_path_matches_are_in_the_map() {
    matching_groups("cgroup_map");
}

#[live::test(cgroup2, storage)]
fn groups_whose_path_matches_have_storage() {
    // Since Linux 6.2.
    if MapType::CGrpStorage.is_supported().unwrap() {
        return matching_groups("cgroup_storage");
    }
    let refused = Folder::of(&["cgroup_storage"]).run(&[]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("cgroup_storage_ids"), "{}", said(&refused));
}

/// Compares what programs count in groups whose path matches, and in others.
fn matching_groups(config: &str) {
    let folder = Folder::of(&[config]);
    let before = Group::new("custom-test-1");
    let exporter = folder.start(&[]);
    let root = cgroup::root().unwrap();
    let counted = |name: &str| {
        let path = format!("{}/{name}", root.display());
        exporter.scrape().get(&format!("ebpf_exporter_{config}_total"), &[("cgroup", &path)])
    };
    let others = format!("ebpf_exporter_{config}_others_total");
    let others = || exporter.scrape().get(&others, &[]).unwrap();
    inside("custom-test-1", || trigger(0, 0));
    assert_eq!((counted("custom-test-1"), others()), (Some(19.0), 0.0));
    let _other = Group::new("custom-other-1");
    inside("custom-other-1", || trigger(0, 0));
    assert_eq!((counted("custom-other-1"), others()), (None, 23.0));
    let _after = Group::new("custom-test-2");
    wait_until("the new group is in the map", Duration::from_secs(60), || {
        inside("custom-test-2", || trigger(0, 0));
        counted("custom-test-2").is_some()
    });
    drop(before);
    assert_eq!(counted("custom-test-1"), Some(19.0), "a group that is gone keeps its name for a while");
}

#[live::test(cgroup2)]
fn where_groups_cannot_be_watched_they_are_searched_for() {
    let folder = Folder::of(&["groups", "cgroup_map"]);
    let mut command = folder.command(&[]);
    // As it is when a user has too many watches.
    // SAFETY: between fork and exec, the closure only makes one system call.
    unsafe { command.pre_exec(|| seccomp::refuse(libc::SYS_inotify_add_watch, libc::ENOSPC)) };
    let (log, exporter) = Exporter::spawn_and_read(&mut command);
    assert_eq!(log.matches("fs.inotify.max_user_watches").count(), 1, "{log}");
    let root = cgroup::root().unwrap();
    let counted = |metric: &str, name: &str| {
        let path = root.join(name).display().to_string();
        exporter.scrape().get(&format!("ebpf_exporter_{metric}"), &[("cgroup", &path)])
    };
    let _group = Group::new("custom-test-3");
    wait_until("the new group is in the map", Duration::from_secs(60), || {
        inside("custom-test-3", || trigger(0, 0));
        counted("cgroup_map_total", "custom-test-3").is_some()
    });
    assert!(counted("groups_total", "custom-test-3").is_some(), "it has a name");
}

/// An id of a container: 64 hexadecimal digits.
fn id(digit: char) -> String {
    format!("0123456789abcdef{}", String::from(digit).repeat(48))
}

/// Groups below the root. The last is removed first.
struct Groups(Vec<Group>);

impl Groups {
    /// Creates groups, and those above them.
    fn new(paths: &[String]) -> Self {
        let mut groups = Self(Vec::new());
        let root = cgroup::root().unwrap();
        for path in paths {
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            for path in above.chain([path.as_str()]) {
                if !root.join(path).exists() {
                    groups.0.push(Group::new(path));
                }
            }
        }
        groups
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

#[live::test(cgroup2)]
fn containers_of_all_engines_have_their_ids() {
    let in_containers: Vec<(String, char, f64)> = vec![
        // As systemd's driver of control groups has it, and as cgroupfs does.
        (format!("custom-test.slice/docker-{}.scope", id('a')), 'a', 1.0),
        (format!("custom-test-docker/{}", id('b')), 'b', 1.0),
        (format!("custom-test.slice/custom-test-pod1.slice/cri-containerd-{}.scope", id('c')), 'c', 1.0),
        (format!("custom-test-kubepods/burstable/pod1/{}", id('d')), 'd', 1.0),
        (format!("custom-test-pod1.slice:cri-containerd:{}", id('e')), 'e', 1.0),
        // What runs below is in the container too.
        (format!("custom-test.slice/crio-{}.scope", id('f')), 'f', 2.0),
        (format!("custom-test.slice/crio-{}.scope/container", id('f')), 'f', 2.0),
        (format!("custom-test.slice/libpod-{}.scope/container", id('0')), '0', 1.0),
    ];
    let in_none = [
        "custom-test.slice".to_owned(),
        format!("custom-test.slice/libpod-conmon-{}.scope", id('1')),
        format!("custom-test.slice/docker-{}0.scope", id('2')),
    ];
    let folder = Folder::of(&["groups"]);
    let exporter = folder.start(&[]);
    let paths: Vec<String> = in_containers.iter().map(|(path, ..)| path).chain(&in_none).cloned().collect();
    let groups = Groups::new(&paths);
    paths.iter().for_each(|path| inside(path, || trigger(0, 0)));
    let name = "ebpf_exporter_groups_containers_total";
    let scrape = exporter.scrape();
    for (path, digit, times) in &in_containers {
        let counted = scrape.get(name, &[("container", &id(*digit))]);
        assert_eq!(counted, Some(19.0 * times), "{path}: {:?}", scrape.labels(name));
    }
    assert_eq!(scrape.get(name, &[("container", "")]), Some(19.0 * in_none.len() as f64));
    assert_eq!(scrape.labels(name).len(), 8);
    drop(groups);
    let scrape = exporter.scrape();
    assert_eq!(scrape.labels(name).len(), 8, "what ended keeps its label");
}
