// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of pods and containers, and what was looked for in vain.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::read::containers::places;

use crate::apart::More;
use crate::kubelet::list::Pod;

/// How long names stay known of pods that the kubelet no longer lists. Counters of their cgroups may be shown as long.
const KEPT: Duration = Duration::from_secs(3600);

/// Most pods that are remembered, those that the kubelet lists included.
const MOST: usize = 8192;

/// Most containers that a pod has had and that are remembered.
const CONTAINERS: usize = 1024;

/// Most pods and containers without a name that are remembered.
const MISSING: usize = 1024;

/// After so many answers without it, a pod or a container is no longer asked for. A container is in the list a
/// moment after it was started; that of the pod itself, which only sleeps, never is.
const ANSWERS: u8 = 3;

/// Pods and containers.
#[derive(Debug, Default)]
pub struct Names {
    /// By UID.
    pods: BTreeMap<String, Named>,
    /// By UID and id of the container, which is empty if the pod is missing.
    missing: BTreeMap<(String, String), Missing>,
}

#[derive(Debug)]
struct Named {
    labels: More,
    containers: Vec<(String, More)>,
    is_listed: bool,
    used: Instant,
}

#[derive(Debug)]
struct Missing {
    /// How many answers did not have it.
    answers: u8,
    used: Instant,
}

impl Names {
    /// The labels of what runs in a cgroup. Notes what is missing.
    pub fn labels(&mut self, path: &str, now: Instant) -> More {
        let places = places(path);
        // A node may itself run in a pod: this is the list of one kubelet, which knows one of the two.
        let pods = || {
            places
                .iter()
                .rev()
                .filter_map(|place| Some((place.pod.as_deref()?, place.container.unwrap_or(""))))
        };
        let Some((uid, id)) = pods().find(|(uid, _)| self.pods.contains_key(*uid)).or_else(|| pods().next())
        else {
            return More::default();
        };
        let Some(named) = self.pods.get_mut(uid) else {
            self.note(uid, "", now);
            return More::default();
        };
        named.used = now;
        if let Some((_, labels)) = named.containers.iter().find(|(known, _)| known == id) {
            return More::clone(labels);
        }
        let labels = More::clone(&named.labels);
        if !id.is_empty() {
            self.note(uid, id, now);
        }
        labels
    }

    fn note(&mut self, uid: &str, id: &str, now: Instant) {
        let key = (uid.to_owned(), id.to_owned());
        if self.missing.len() < MISSING || self.missing.contains_key(&key) {
            self.missing.entry(key).or_insert(Missing { answers: 0, used: now }).used = now;
        }
    }

    /// Whether something is missing that the kubelet may know.
    pub fn are_wanted(&self) -> bool {
        self.missing.values().any(|missing| missing.answers < ANSWERS)
    }

    /// How many pods are missing that the kubelet may know.
    pub fn missing_pods(&self) -> usize {
        let pods = self.missing.iter().filter(|((_, id), _)| id.is_empty());
        pods.filter(|(_, missing)| missing.answers < ANSWERS).count()
    }

    /// How many pods the kubelet listed last.
    pub fn listed_pods(&self) -> usize {
        self.pods.values().filter(|named| named.is_listed).count()
    }

    /// Takes a list of all pods of the kubelet.
    pub fn update(&mut self, list: Vec<Pod>, now: Instant) {
        self.pods.values_mut().for_each(|named| named.is_listed = false);
        for pod in list {
            let [namespace, name] = [("namespace", &pod.namespace), ("pod", &pod.name)];
            let labels = |more: &[(&'static str, &String)]| -> More {
                let all = [namespace, name].into_iter().chain(more.iter().copied());
                all.map(|(label, value)| (label, value.clone())).collect()
            };
            for uid in pod.uids {
                let before = self.pods.remove(&uid);
                let mut containers: Vec<(String, More)> = pod
                    .containers
                    .iter()
                    .map(|(id, name)| (id.clone(), labels(&[("container", name)])))
                    .collect();
                // The kubelet forgets those that were restarted more than once.
                for old in before.into_iter().flat_map(|before| before.containers) {
                    if containers.len() < CONTAINERS && containers.iter().all(|(id, _)| *id != old.0) {
                        containers.push(old);
                    }
                }
                self.pods.insert(uid, Named { labels: labels(&[]), containers, is_listed: true, used: now });
            }
        }
        self.pods.retain(|_, named| named.is_listed || now.duration_since(named.used) < KEPT);
        if self.pods.len() > MOST {
            self.pods.retain(|_, named| named.is_listed);
        }
        let pods = &self.pods;
        self.missing.retain(|(uid, id), missing| {
            missing.answers = missing.answers.saturating_add(1);
            let found = pods
                .get(uid)
                .is_some_and(|named| id.is_empty() || named.containers.iter().any(|(known, _)| known == id));
            !found && now.duration_since(missing.used) < KEPT
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn path(container: char) -> String {
        format!("/kubepods/burstable/pod{UID}/{}", id(container))
    }

    fn pod(name: &str, containers: &[(char, &str)]) -> Pod {
        let containers = containers.iter().map(|(digit, name)| (id(*digit), (*name).to_owned())).collect();
        Pod { uids: vec![UID.to_owned()], namespace: "shop".to_owned(), name: name.to_owned(), containers }
    }

    fn shown(labels: &More) -> String {
        labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_in_a_pod_has_its_names_and_a_container_its_own_too() {
        let (mut names, now) = (Names::default(), Instant::now());
        assert_eq!(shown(&names.labels(&path('a'), now)), "");
        assert!(names.are_wanted());
        names.update(vec![pod("web-0", &[('a', "nginx")])], now);
        assert_eq!((names.listed_pods(), names.missing_pods(), names.are_wanted()), (1, 0, false));
        let mut shown = |path: &str| shown(&names.labels(path, now));
        assert_eq!(shown(&path('a')), "namespace=shop pod=web-0 container=nginx");
        assert_eq!(shown(&format!("{}/init.scope", path('a'))), "namespace=shop pod=web-0 container=nginx");
        assert_eq!(shown(&format!("/kubepods/burstable/pod{UID}")), "namespace=shop pod=web-0");
        // A node in that container, whose pods another kubelet knows.
        let inner = format!("{}/kubelet/kubepods/pod{}/{}", path('a'), "e".repeat(32), id('b'));
        assert_eq!(shown(&inner), "namespace=shop pod=web-0 container=nginx");
        for other in ["other", "gone", "/", "/system.slice/ssh.service", &format!("/docker/{}", id('a'))] {
            assert_eq!(shown(other), "", "{other}");
        }
        assert!(!names.are_wanted(), "nothing of that is the kubelet's");
    }

    #[test]
    fn what_no_answer_has_is_asked_for_three_times() {
        let (mut names, now) = (Names::default(), Instant::now());
        names.update(vec![pod("web-0", &[])], now);
        // The container of the pod itself, and a pod that is gone.
        let gone = format!("/kubepods/pod{}", "e".repeat(32));
        for answers in 0..ANSWERS {
            assert_eq!(shown(&names.labels(&path('0'), now)), "namespace=shop pod=web-0");
            assert_eq!(shown(&names.labels(&gone, now)), "");
            assert_eq!((names.are_wanted(), names.missing_pods()), (true, 1), "{answers}");
            names.update(vec![pod("web-0", &[])], now);
        }
        names.labels(&path('0'), now);
        names.labels(&gone, now);
        assert_eq!((names.are_wanted(), names.missing_pods()), (false, 0));
        // Another one is new.
        names.labels(&path('1'), now);
        assert!(names.are_wanted());
        names.update(vec![pod("web-0", &[('1', "late"), ('0', "later")])], now);
        assert_eq!(shown(&names.labels(&path('0'), now)), "namespace=shop pod=web-0 container=later");
    }

    #[test]
    fn names_stay_while_they_are_used_and_an_hour_longer() {
        let (mut names, start) = (Names::default(), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        names.update(vec![pod("web-0", &[('a', "nginx")])], start);
        // Restarted twice: the kubelet knows the last two.
        names.update(vec![pod("web-0", &[('c', "nginx"), ('b', "nginx")])], start);
        assert_eq!(shown(&names.labels(&path('a'), after(1))), "namespace=shop pod=web-0 container=nginx");
        names.update(Vec::new(), after(3600));
        assert_eq!(names.listed_pods(), 0);
        assert_eq!(shown(&names.labels(&path('a'), after(3600))), "namespace=shop pod=web-0 container=nginx");
        names.update(Vec::new(), after(7199));
        assert_eq!(shown(&names.labels(&path('a'), after(7200))), "namespace=shop pod=web-0 container=nginx");
        names.update(Vec::new(), after(7200 + 3600));
        assert_eq!(shown(&names.labels(&path('a'), after(7200 + 3600))), "");
        // A pod of the same name is another.
        let other = Pod { uids: vec!["e".repeat(32)], ..pod("web-0", &[('d', "nginx")]) };
        names.update(vec![other], after(7200 + 3600));
        assert_eq!(shown(&names.labels(&path('a'), after(7200 + 3600))), "");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut names, now) = (Names::default(), Instant::now());
        for n in 0..2 * MISSING {
            names.labels(&format!("/kubepods/pod{n:032x}"), now);
        }
        assert_eq!(names.missing.len(), MISSING);
        for n in 0..2 * MOST as u64 {
            let mut pod = pod("web-0", &[]);
            pod.uids = vec![format!("{n:032x}")];
            names.update(vec![pod], now);
            assert!(names.pods.len() <= MOST);
        }
        for n in 0..2 * CONTAINERS {
            let mut pod = pod("web-0", &[]);
            pod.containers = vec![(format!("{n:064x}"), "a".to_owned())];
            names.update(vec![pod], now);
        }
        assert_eq!(names.pods[UID].containers.len(), CONTAINERS);
    }
}
