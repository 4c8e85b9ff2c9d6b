// SPDX-License-Identifier: MIT OR Apache-2.0
//! Control groups: those in a program's map, and those of containers.

use std::fs;
use std::time::Duration;

use libbpf_rs::MapType;
use live::cgroup::{self, Group};
use live::exporter::Exporter;
use live::wait_until;

use crate::folder::{Folder, said, trigger};

/// Runs `work` while this process is in a control group below the root.
fn inside(group: &str, work: impl FnOnce()) {
    let root = cgroup::root().unwrap();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap().to_owned();
    let join = |path: &str| fs::write(root.join(path).join("cgroup.procs"), std::process::id().to_string());
    join(group).unwrap();
    work();
    join(&own).unwrap();
}

/// Value of the counter `ebpf_exporter_METRIC` for a control group below the root.
fn counted(exporter: &Exporter, metric: &str, group: &str) -> Option<f64> {
    let path = format!("{}/{group}", cgroup::root().unwrap().display());
    exporter.scrape().get(&format!("ebpf_exporter_{metric}"), &[("cgroup", &path)])
}

/// The metrics of a config count triggers in groups that its map holds and in others.
fn groups_are_told_apart(config: &str) {
    let folder = Folder::of(&[config]);
    let before = Group::new("custom-test-1");
    let exporter = folder.start(&[]);
    let counted = |group: &str| counted(&exporter, &format!("{config}_total"), group);
    let others = || exporter.scrape().get(&format!("ebpf_exporter_{config}_others_total"), &[]).unwrap();
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
fn groups_whose_path_matches_are_in_the_map() {
    groups_are_told_apart("cgroup_map");
}

#[live::test(cgroup2)]
fn groups_whose_path_matches_have_storage() {
    // Since Linux 6.2.
    if MapType::CGrpStorage.is_supported().unwrap() {
        return groups_are_told_apart("cgroup_storage");
    }
    let refused = Folder::of(&["cgroup_storage"]).run(&[]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("cgroup_storage_ids"), "{}", said(&refused));
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
    let folder = Folder::of(&["container"]);
    let exporter = folder.start(&[]);
    let paths: Vec<String> = in_containers.iter().map(|(path, ..)| path).chain(&in_none).cloned().collect();
    let groups = Groups::new(&paths);
    paths.iter().for_each(|path| inside(path, || trigger(0, 0)));
    let name = "ebpf_exporter_container_total";
    let scrape = exporter.scrape();
    for (path, digit, times) in &in_containers {
        let counted = scrape.get(name, &[("container", &id(*digit))]);
        assert_eq!(counted, Some(31.0 * times), "{path}: {:?}", scrape.labels(name));
    }
    assert_eq!(scrape.get(name, &[("container", "")]), Some(31.0 * in_none.len() as f64));
    assert_eq!(scrape.labels(name).len(), 8);
    drop(groups);
    let scrape = exporter.scrape();
    assert_eq!(scrape.labels(name).len(), 8, "what ended keeps its label");
}
