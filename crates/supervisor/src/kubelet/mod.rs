// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of pods and containers beside `cgroup`: the labels `namespace`, `pod` and `container`, as cAdvisor has them.
//!
//! The path of a cgroup has the UID of the pod and the id of the container. Their names are known to the kubelet of
//! the node, which is asked for its list of pods at `/pods`, in the background: when a page of metrics has a pod or
//! a container that has no name yet. A page is never held back for that, and without an answer it has no names.
//!
//! The supervisor does that, and no exporter: it has a TLS client, and sees the pages of all of them.

mod flags;
mod list;
mod names;
mod request;
mod watch;

pub use flags::Kubelet as Flags;
pub use watch::{Counts, Kubelet};
