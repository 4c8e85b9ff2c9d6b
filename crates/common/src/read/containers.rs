// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which container and which pod a cgroup belongs to, by its path alone. Nobody is asked.
//!
//! Container engines name cgroups so:
//!
//! | | systemd | cgroupfs |
//! |---|---|---|
//! | docker | `docker-ID.scope` | `docker/ID` |
//! | containerd | `cri-containerd-ID.scope`, `nerdctl-ID.scope` | `podUID/ID`, `NAMESPACE/ID`, `SLICE:cri-containerd:ID` |
//! | cri-o | `crio-ID.scope` | `crio-ID` |
//! | podman | `libpod-ID.scope` | `libpod-ID` |
//!
//! The kubelet names those of pods `kubepods-burstable-podUID.slice`, with `_` for each `-` of the UID, or
//! `kubepods/burstable/podUID`. Of a static pod the UID is a hash of 32 digits. Names of either version of
//! cgroups are the same. What runs in a cgroup below that of a container is in the container.

use std::borrow::Cow;

/// Digits of the id of a container.
const ID: usize = 64;

/// A pod, a container, or a container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place<'p> {
    /// The UID of the pod, as the kubelet and the API server have it.
    pub pod: Option<Cow<'p, str>>,
    /// The id of the container: 64 hexadecimal digits.
    pub container: Option<&'p str>,
}

/// Where a cgroup is, from the outermost place to the innermost: a container may have others in it, as those
/// of kind have. Empty if it is in no container and no pod.
pub fn places(path: &str) -> Vec<Place<'_>> {
    let mut places: Vec<Place<'_>> = Vec::new();
    // A cgroup that could not be made as a unit of systemd has the name of its slice as a part of its own.
    for name in path.split(['/', ':']) {
        if let Some(pod) = pod(name) {
            // A container with a systemd of its own may have the path of its pod in it once more.
            if places.last().is_none_or(|last| last.pod.as_ref() != Some(&pod)) {
                places.push(Place { pod: Some(pod), container: None });
            }
        } else if let Some(id) = container(name) {
            match places.last_mut() {
                Some(last) if last.container.is_none() => last.container = Some(id),
                _ => places.push(Place { pod: None, container: Some(id) }),
            }
        }
    }
    places
}

/// The id of the container in the name of its cgroup. A `conmon` only watches a container.
fn container(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (engine, id) = name.split_at_checked(name.len().checked_sub(ID)?)?;
    let separated = engine.is_empty() || engine.ends_with('-');
    (is_id(id) && separated && !engine.ends_with("conmon-")).then_some(id)
}

/// The UID of the pod in the name of its cgroup.
fn pod(name: &str) -> Option<Cow<'_, str>> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let (before, uid) = name.rsplit_once("pod")?;
    if !(before.is_empty() || before.ends_with('-')) {
        return None;
    }
    let uid = if uid.contains('_') { Cow::Owned(uid.replace('_', "-")) } else { Cow::Borrowed(uid) };
    is_uid(&uid).then_some(uid)
}

/// Whether this is a UUID, or the hash that a static pod has.
fn is_uid(uid: &str) -> bool {
    let groups = uid.split('-').map(str::len);
    let is_shaped = groups.clone().eq([8, 4, 4, 4, 12]) || groups.eq([32]);
    is_shaped && uid.bytes().all(|byte| is_digit(byte) || byte == b'-')
}

/// Whether this is the id of a container.
pub fn is_id(text: &str) -> bool {
    text.len() == ID && text.bytes().all(is_digit)
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests;
