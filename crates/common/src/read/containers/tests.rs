// SPDX-License-Identifier: MIT OR Apache-2.0
//! Paths of cgroups as machines have them, and paths that only look like them.
#![allow(clippy::unwrap_used, reason = "a panic is a test's way to fail")]

use super::*;

/// Where a path leads, as `POD CONTAINER` of each place, with `-` for what there is none of. Ids of containers
/// are cut to eight digits, after their length was checked.
fn found(path: &str) -> String {
    let short = |id: &str| {
        assert_eq!(id.len(), ID, "{path}");
        id[..8].to_owned()
    };
    let place = |place: Place<'_>| {
        let container = place.container.map_or("-".to_owned(), short);
        format!("{} {container}", place.pod.as_deref().unwrap_or("-"))
    };
    places(path).into_iter().map(place).collect::<Vec<_>>().join(" > ")
}

/// Paths that were reported from machines, with the place of the report.
const REPORTED: &[(&str, &str)] = &[
    // kubernetes/kubernetes issue 129253: systemd, containerd.
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poddc35e999_4467_45c5_92ee_4dd4ae8baa2c.slice/cri-containerd-104d1007f522b9efb6ab12384082efc8ff218652b1898d9db208a6ea2712c873.scope",
        "dc35e999-4467-45c5-92ee-4dd4ae8baa2c 104d1007",
    ),
    // The same issue: the container runs a systemd, which sees the path of its pod.
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poddc35e999_4467_45c5_92ee_4dd4ae8baa2c.slice/cri-containerd-104d1007f522b9efb6ab12384082efc8ff218652b1898d9db208a6ea2712c873.scope/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poddc35e999_4467_45c5_92ee_4dd4ae8baa2c.slice",
        "dc35e999-4467-45c5-92ee-4dd4ae8baa2c 104d1007",
    ),
    // netdata/netdata issue 4868: a static pod, whose UID is a hash; and a guaranteed one, without a class.
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod187bff14cccb94f179e943eacce55bb3.slice/cri-containerd-c203a2647ef1ad78e990157c50331f3b6ef0b03336cf08535d6bf7faa5421415.scope",
        "187bff14cccb94f179e943eacce55bb3 c203a264",
    ),
    (
        "/kubepods.slice/kubepods-pod91f5b561_369f_4103_8015_66391059996a.slice/cri-containerd-24c53b774a586f06abc058619b47f71d9d869ac50c92898adbd199106fd0aaeb.scope",
        "91f5b561-369f-4103-8015-66391059996a 24c53b77",
    ),
    // google/cadvisor issue 2630: slices of systemd with a container named as by cgroupfs.
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podfa92a330f4b025479d8e2f1804482b69.slice/547ab08695706f15aa0c9f9c7e2b85bb74cba534d35f5873dbeff33d19cd25f1",
        "fa92a330f4b025479d8e2f1804482b69 547ab086",
    ),
    // google/cadvisor issue 3687: cgroupfs, MicroK8s. The cgroup of the pod, and that of a container.
    ("/kubepods/burstable/pod1f7ef46a-2bfb-4fd3-ae62-bfd74a3f6b8f", "1f7ef46a-2bfb-4fd3-ae62-bfd74a3f6b8f -"),
    (
        "/kubepods/besteffort/podf311d12f-7dee-4286-935d-5dbd44cf2956/728cc588f21ef9310b4394cbb5c6cbc664c8ded6c836583cad3bd0d60564646e",
        "f311d12f-7dee-4286-935d-5dbd44cf2956 728cc588",
    ),
    // opencontainers/runc issue 4620: cri-o. crun has a cgroup for processes below that of the container.
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda5c1f8d5_1919_434d_add7_4afaafdaef89.slice/crio-5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c.scope/container",
        "a5c1f8d5-1919-434d-add7-4afaafdaef89 5eed9175",
    ),
    // cri-o/cri-o issue 8904: what watches a container is in the pod, and in no container.
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda5c1f8d5_1919_434d_add7_4afaafdaef89.slice/crio-conmon-0644511bc2734f5ff9f9532fdecddb9f1b92597fe269168b137ada040c3a3118.scope",
        "a5c1f8d5-1919-434d-add7-4afaafdaef89 -",
    ),
    // kinvolk/traceloop pull request 34: docker as the engine of a kubelet.
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod5759a1ae_36ca_48a8_b20a_b0b5c8a90fb8.slice/docker-c8b38413c88eefe063b8cd3f01c16be5e3bda9693a19a68a88807baca9feb937.scope",
        "5759a1ae-36ca-48a8-b20a-b0b5c8a90fb8 c8b38413",
    ),
    // kubernetes/minikube issue 11280: a node in a container of docker, with cri-o in it.
    (
        "/docker/d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod2ca4a155_3599_498d_bb9d_4446693fa3ea.slice/crio-358607a37e7ada357032e7f5729c9ae6a3efdb7962acbcbe47ff6a3c5506cb1c.scope",
        "- d6701ec2 > 2ca4a155-3599-498d-bb9d-4446693fa3ea 358607a3",
    ),
    // aquasecurity/tracee, and kind: a node in a container of docker, whose kubelet has a slice of its own.
    (
        "/system.slice/docker-fd9d0ea06257a9780827cbc7fd92e3812a54fca26d63e191b73610d5d48b9cbd.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podeab5a334_93fe_48a8_b139_9e8079c1f163.slice/cri-containerd-99f3a16ea25b7724cb56a4f0c0df1113ad9474fbf5545bead97fd5c7f61c13f4.scope",
        "- fd9d0ea0 > eab5a334-93fe-48a8-b139-9e8079c1f163 99f3a16e",
    ),
    // containerd with the cgroup driver of systemd, and a runc that makes cgroups by itself.
    (
        "/system.slice/containerd.service/kubepods-besteffort-pod214f3ba8_4b69_4bdb_a7d5_5ecc73f04ae9.slice:cri-containerd:d4e8e05a546c86b6443f101966c618e47753ed01fa9929cae00d3b692f7a9f80",
        "214f3ba8-4b69-4bdb-a7d5-5ecc73f04ae9 d4e8e05a",
    ),
    // containerd/cri pull request 290: no kubelet.
    (
        "/system.slice/system-getty.slice/cri-containerd-0e768f8db752fcd648adb264498daa1d8f31562320e881d6a9ec593d24b1f779.scope",
        "- 0e768f8d",
    ),
    // neuvector/neuvector: docker on Debian, as the first process of a machine, and on CentOS.
    ("/4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970", "- 4f797c53"),
    (
        "/system.slice/docker-9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d.scope",
        "- 9ec39b91",
    ),
    // containers/podman: conmon, which has a scope of its own.
    (
        "/machine.slice/libpod-conmon-6dd05e91f00f99281f70b1fd90a29e5cc30b0dab243cb7cfb6153d8017872394.scope",
        "",
    ),
    (
        "/machine.slice/libpod-6dd05e91f00f99281f70b1fd90a29e5cc30b0dab243cb7cfb6153d8017872394.scope/container",
        "- 6dd05e91",
    ),
];

#[test]
fn reported_paths_lead_to_their_pods_and_containers() {
    for (path, expected) in REPORTED {
        assert_eq!(found(path), *expected, "{path}");
        // As ebpf_exporter's decoder shows it.
        assert_eq!(found(&format!("/sys/fs/cgroup{path}")), *expected, "{path}");
    }
}

const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

#[test]
fn the_same_names_have_the_same_meaning_with_each_driver_and_class() {
    let (id, inner) = ("0123456789abcdef".repeat(4), "f".repeat(64));
    let underlined = UID.replace('-', "_");
    for class in ["", "-burstable", "-besteffort"] {
        for (engine, named) in
            [("cri-containerd", id.clone()), ("crio", format!("crio-{id}")), ("docker", id.clone())]
        {
            let slice = format!("kubepods{class}-pod{underlined}.slice");
            let folder = class.replace('-', "/");
            for path in [
                format!("/kubepods.slice/kubepods{class}.slice/{slice}/{engine}-{id}.scope"),
                // A kubelet with --cgroup-root.
                format!("/node.slice/node-kubepods.slice/node-{slice}/{engine}-{id}.scope/init.scope"),
                format!("/kubepods{folder}/pod{UID}/{named}"),
                format!("/system.slice/k3s.service/kubepods{folder}/pod{UID}/{named}/child"),
            ] {
                assert_eq!(found(&path), format!("{UID} 01234567"), "{path}");
                // A docker in the pod.
                let deeper = format!("{path}/docker/{inner}/more");
                assert_eq!(found(&deeper), format!("{UID} 01234567 > - ffffffff"), "{deeper}");
            }
        }
    }
    // A cluster in a pod.
    let nested = format!("/kubepods/pod{UID}/{id}/kubelet/kubepods/burstable/pod{}/{inner}", "a".repeat(32));
    assert_eq!(found(&nested), format!("{UID} 01234567 > {} ffffffff", "a".repeat(32)));
}

#[test]
fn what_only_looks_like_a_container_is_none() {
    let id = "0123456789abcdef".repeat(4);
    for path in [
        String::new(),
        "/".to_owned(),
        "//:/:".to_owned(),
        "/system.slice/ssh.service".to_owned(),
        "/user.slice/user-1000.slice/docker-compose.scope".to_owned(),
        // Short, long and shouted.
        format!("/system.slice/docker-{}.scope", &id[..12]),
        format!("/system.slice/docker-{}.scope", &id[1..]),
        format!("/system.slice/docker-{id}0.scope"),
        format!("/docker/{}", id.repeat(20_000)),
        format!("/docker/{}", id.to_uppercase()),
        format!("/docker/{}g", &id[1..]),
        // No scope, and a name that runs into the digits.
        format!("/system.slice/docker-{id}.slice"),
        format!("/system.slice/docker-{id}.service"),
        format!("/system.slice/docker-{id}.scope.scope"),
        format!("/system.slice/docker{id}.scope"),
        format!("/machine.slice/crio-conmon-{id}.scope"),
        // Bytes of characters, and digits that are not ASCII.
        "é".repeat(40),
        format!("/docker/é{}", &id[1..]),
        format!("/docker/{}", "０".repeat(64)),
        format!("/docker/{}", "\u{661}".repeat(32)),
        "\0".repeat(64),
        // Pods of podman are others than those of a kubelet.
        format!("/machine.slice/machine-libpod_pod_{id}.slice"),
        // Pods.
        "/kubepods.slice/kubepods-pod.slice".to_owned(),
        "/kubepods/pod".to_owned(),
        "/kubepods/burstable/podinfo".to_owned(),
        format!("/kubepods/pod{}", UID.to_uppercase()),
        format!("/kubepods/pod{}", &UID[1..]),
        format!("/kubepods/pod{UID}0"),
        format!("/kubepods/pod{}", UID.replacen('-', "", 1)),
        format!("/kubepods/pod{}", "-".repeat(36)),
        format!("/kubepods/pod{}", "a".repeat(36)),
        format!("/kubepods/tripod{UID}"),
        format!("/kubepods/pod{}", "é".repeat(16)),
        format!("/kubepods/pod{}", "pod".repeat(100_000)),
    ] {
        assert_eq!(found(&path), "", "{}", path.chars().take(100).collect::<String>());
    }
}
