// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kubelet's list of pods: the few members of it that are needed, read as they come. How much of it is kept is
//! bounded, whatever is in it.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use common::read::containers;
use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Most pods of a node. A kubelet takes 110 unless it is told otherwise; 500 are common among larger settings.
const PODS: usize = 4096;

/// Most containers of a kind in a pod.
const CONTAINERS: usize = 256;

/// Longest name of an object.
const NAME: usize = 253;

/// A pod that the kubelet runs or has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// UIDs that its cgroup may have.
    pub uids: Vec<String>,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Id and name of its containers, also of those that have ended.
    pub containers: Vec<(String, String)>,
}

/// The pods of a `v1.PodList` in JSON. What has no usable name is left out.
///
/// # Errors
/// When this is no such list, or one that is longer than a node can have.
pub fn read(json: impl Read) -> Result<Vec<Pod>, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_reader(json);
    let list = List::deserialize(&mut json)?;
    if list.kind.0 != "PodList" && list.kind.0 != "List" {
        return Err(serde_json::Error::custom("it is not a list of pods"));
    }
    Ok(list.items.0.into_iter().filter_map(Item::pod).collect())
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    kind: Short,
    #[serde(default)]
    items: Few<Item, PODS>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item {
    metadata: Metadata,
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    uid: Short,
    namespace: Short,
    name: Short,
    annotations: Option<Annotations>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    /// Of a static pod, the UID that its cgroup has. The kubelet's own list has it as the UID too.
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Short,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    container_statuses: Few<Container, CONTAINERS>,
    init_container_statuses: Few<Container, CONTAINERS>,
    ephemeral_container_statuses: Few<Container, CONTAINERS>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: Short,
    #[serde(rename = "containerID")]
    id: Short,
    state: Option<State>,
    last_state: Option<State>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    terminated: Option<Terminated>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Terminated {
    #[serde(rename = "containerID")]
    id: Short,
}

impl Item {
    fn pod(self) -> Option<Pod> {
        let Metadata { uid, namespace, name, annotations } = self.metadata;
        let hash = annotations.unwrap_or_default().hash;
        let mut uids: Vec<String> = [uid.0, hash.0].into_iter().filter(|uid| !uid.is_empty()).collect();
        uids.dedup();
        let is_named = is_name(&namespace.0) && is_name(&name.0) && !uids.is_empty();
        let status = self.status.unwrap_or_default();
        let kinds =
            [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
        let containers = kinds.into_iter().flat_map(|kind| kind.0).flat_map(Container::ids).collect();
        is_named.then_some(Pod { uids, namespace: namespace.0, name: name.0, containers })
    }
}

impl Container {
    /// Its id and those of the runs before, each with its name.
    fn ids(self) -> impl Iterator<Item = (String, String)> {
        let ended = [self.state, self.last_state].into_iter().flatten().filter_map(|state| state.terminated);
        let mut ids: Vec<String> = [self.id.0].into_iter().chain(ended.map(|ended| ended.id.0)).collect();
        // ENGINE://ID.
        ids.iter_mut().for_each(|id| drop(id.drain(..id.rfind('/').map_or(0, |slash| slash + 1))));
        ids.retain(|id| containers::is_id(id) && is_name(&self.name.0));
        ids.dedup();
        ids.into_iter().map(move |id| (id, self.name.0.clone()))
    }
}

/// Whether this can be the name of an object, which then needs no escapes in a label.
fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    (1..=NAME).contains(&text.len()) && text.bytes().all(is_part)
}

/// A text; empty if it is null or longer than any name.
#[derive(Default)]
struct Short(String);

impl<'de> Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Short;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Short, E> {
                Ok(if text.len() <= NAME { Short(text.to_owned()) } else { Short::default() })
            }

            fn visit_unit<E>(self) -> Result<Short, E> {
                Ok(Short::default())
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// Up to so many; null is none.
struct Few<T, const MOST: usize>(Vec<T>);

impl<T, const MOST: usize> Default for Few<T, MOST> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Several<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Several<T, MOST> {
            type Value = Few<T, MOST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST}")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Few::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut few = Vec::new();
                while few.len() < MOST {
                    let Some(one) = list.next_element()? else { return Ok(Few(few)) };
                    few.push(one);
                }
                if list.next_element::<IgnoredAny>()?.is_some() {
                    return Err(A::Error::invalid_length(MOST + 1, &self));
                }
                Ok(Few(few))
            }
        }
        deserializer.deserialize_any(Several(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

    fn ids() -> [String; 4] {
        ["a", "b", "c", "d"].map(|digit| digit.repeat(64))
    }

    #[test]
    fn pods_have_names_and_containers_whatever_state_they_are_in() {
        let [a, b, c, d] = ids();
        let json = format!(
            r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[
            {{"metadata":{{"name":"web-0","namespace":"shop","uid":"{UID}","annotations":{{"x":"y"}},"managedFields":[{{"a":[1]}}]}},
              "spec":{{"containers":[{{"name":"nginx"}}]}},
              "status":{{"phase":"Running","containerStatuses":[
                {{"name":"nginx","containerID":"containerd://{a}","restartCount":1,"state":{{"running":{{}}}},
                  "lastState":{{"terminated":{{"exitCode":1,"containerID":"containerd://{b}"}}}}}},
                {{"name":"new","containerID":"","state":{{"waiting":{{"reason":"ContainerCreating"}}}},"lastState":{{}}}}],
              "initContainerStatuses":[{{"name":"setup","containerID":"cri-o://{c}","state":{{"terminated":{{"containerID":"cri-o://{c}"}}}}}}],
              "ephemeralContainerStatuses":[{{"name":"debugger","containerID":"docker://{d}","lastState":null}}]}}}},
            {{"metadata":{{"name":"etcd-a","namespace":"kube-system","uid":"187bff14cccb94f179e943eacce55bb3",
              "annotations":{{"kubernetes.io/config.hash":"187bff14cccb94f179e943eacce55bb3"}}}},"status":{{"containerStatuses":null}}}},
            {{"metadata":{{"name":"mirror","namespace":"kube-system","uid":"{UID}","annotations":{{"kubernetes.io/config.hash":"{}"}}}}}}
            ]}}"#,
            "e".repeat(32)
        );
        let pod = |uids: &[&str], namespace: &str, name: &str, containers: &[(&String, &str)]| Pod {
            uids: uids.iter().map(ToString::to_string).collect(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            containers: containers.iter().map(|(id, name)| ((*id).clone(), (*name).to_owned())).collect(),
        };
        let expected = [
            pod(&[UID], "shop", "web-0", &[(&a, "nginx"), (&b, "nginx"), (&c, "setup"), (&d, "debugger")]),
            pod(&["187bff14cccb94f179e943eacce55bb3"], "kube-system", "etcd-a", &[]),
            pod(&[UID, &"e".repeat(32)], "kube-system", "mirror", &[]),
        ];
        assert_eq!(read(json.as_bytes()).expect("a list"), expected);
        assert_eq!(read(&br#"{"kind":"PodList","items":null}"#[..]).expect("a list"), []);
    }

    #[test]
    fn what_could_not_be_a_name_is_left_out() {
        let [a, ..] = ids();
        let of = |name: &str, namespace: &str, container: &str, id: &str| {
            let json = format!(
                r#"{{"kind":"PodList","items":[{{"metadata":{{"uid":"{UID}","namespace":{namespace},"name":{name}}},
                "status":{{"containerStatuses":[{{"name":{container},"containerID":{id}}}]}}}}]}}"#
            );
            let pods = read(json.as_bytes()).expect("a list");
            (pods.len(), pods.iter().map(|pod| pod.containers.len()).sum::<usize>())
        };
        let (id, long) = (format!("\"containerd://{a}\""), format!("\"{}\"", "a".repeat(254)));
        assert_eq!(of("\"a\"", "\"b\"", "\"c\"", &id), (1, 1));
        for wrong in ["null", "\"\"", "\"a\\\"b\"", "\"a\\nb\"", "\"A\"", "\"é\"", &long] {
            assert_eq!(of(wrong, "\"b\"", "\"c\"", &id), (0, 0), "{wrong}");
            assert_eq!(of("\"a\"", wrong, "\"c\"", &id), (0, 0), "{wrong}");
            assert_eq!(of("\"a\"", "\"b\"", wrong, &id), (1, 0), "{wrong}");
            assert_eq!(of("\"a\"", "\"b\"", "\"c\"", wrong), (1, 0), "{wrong}");
        }
        assert_eq!(of("\"a\"", "\"b\"", "\"c\"", "\"containerd://0123\""), (1, 0));
    }

    #[test]
    fn what_is_no_list_of_pods_is_refused() {
        let many = |one: &str, n: usize| vec![one; n].join(",");
        for json in [
            String::new(),
            "<html>".to_owned(),
            "Forbidden (user=system:anonymous, verb=get, resource=nodes)".to_owned(),
            "{}".to_owned(),
            "[]".to_owned(),
            r#"{"kind":"Status","status":"Failure"}"#.to_owned(),
            r#"{"kind":"PodList","items":[{"metadata":{"name":"cut"#.to_owned(),
            r#"{"kind":"PodList","items":7}"#.to_owned(),
            r#"{"kind":"PodList","items":[{"metadata":{"name":7}}]}"#.to_owned(),
            "[".repeat(100_000),
            format!(r#"{{"kind":"PodList","items":{}"#, "[".repeat(100_000)),
            format!(r#"{{"kind":"PodList","x":{}"#, "[".repeat(100_000)),
            format!(r#"{{"kind":"PodList","items":[{}]}}"#, many("{}", PODS + 1)),
            format!(
                r#"{{"kind":"PodList","items":[{{"status":{{"containerStatuses":[{}]}}}}]}}"#,
                many("{}", CONTAINERS + 1)
            ),
        ] {
            assert!(read(json.as_bytes()).is_err(), "{}", json.chars().take(100).collect::<String>());
        }
        let most = format!(r#"{{"kind":"PodList","items":[{}]}}"#, many("{}", PODS));
        assert_eq!(read(most.as_bytes()).expect("a list"), []);
    }
}
