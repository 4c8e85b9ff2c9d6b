// SPDX-License-Identifier: MIT OR Apache-2.0
//! The supervisor's own metrics.

use common::exposition::metric::{Families, Labels, Value};
use common::read::self_metrics;

use crate::ask::Outcome;
use crate::board::{Board, View};
use crate::child::State;
use crate::kubelet::Counts;

/// What is in the label `exporter` of metrics about the supervisor itself. No exporter has that name.
pub const SELF: &str = "supervisor";

/// The metrics, after each exporter was asked.
pub fn families(board: &Board, views: &[View], outcomes: &[Outcome], kubelet: Option<&Counts>) -> Families {
    let mut families = of_exporters(views, outcomes, &|exporter| board.left_out(exporter));
    if let Some(counts) = kubelet {
        of_kubelet(counts, &mut families);
    }
    self_metrics::process(&mut families);
    families
}

fn of_exporters(views: &[View], outcomes: &[Outcome], left_out: &dyn Fn(&str) -> usize) -> Families {
    let mut families = Families::default();
    families.gauge(
        "ebpf_exporters_build_info",
        "Always 1. The labels give the version and revision of ebpf-exporters.",
        Labels::of(&[("version", env!("CARGO_PKG_VERSION")), ("revision", self_metrics::REVISION)]),
        Value::Integer(1),
    );
    for (view, (result, duration)) in views.iter().zip(outcomes) {
        let name = view.listed.exporter.as_str();
        let labels = || Labels::of(&[("exporter", name)]);
        families.counter(
            "ebpf_exporters_restarts_total",
            "How often an exporter was started again after it had ended.",
            labels(),
            Value::Integer(view.restarts),
        );
        families.gauge(
            "ebpf_exporters_left_out_families",
            "Metrics of an exporter that are left out, as another exporter has that name with another type.",
            labels(),
            Value::Integer(left_out(name) as u64),
        );
        if view.state == State::Unsupported {
            families.gauge(
                "ebpf_exporters_unsupported",
                "Always 1. An exporter that cannot run on this machine, and why.",
                Labels::of(&[("exporter", name), ("reason", &view.listed.says)]),
                Value::Integer(1),
            );
            continue;
        }
        families.gauge(
            "ebpf_exporters_up",
            "1 if the metrics of an exporter are in this answer. 0 if it does not run or did not answer in time.",
            labels(),
            Value::Integer(result.is_ok().into()),
        );
        if view.channel.is_some() {
            families.gauge(
                "ebpf_exporters_scrape_duration_seconds",
                "How long an exporter took to answer this scrape. Absent for one that was not asked.",
                labels(),
                Value::Nanoseconds(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
            );
        }
    }
    families
}

fn of_kubelet(counts: &Counts, families: &mut Families) {
    families.counter(
        "ebpf_exporters_kubelet_requests_total",
        "Requests for the pods of the kubelet, with --kubelet.url. There is one when a pod or a container has no \
         name.",
        Labels::none(),
        Value::Integer(counts.requests),
    );
    for (reason, count) in &counts.failures {
        families.counter(
            "ebpf_exporters_kubelet_failures_total",
            "Those of these requests that failed. Metrics then lack names of pods, and nothing else.",
            Labels::of(&[("reason", reason)]),
            Value::Integer(*count),
        );
    }
    families.gauge(
        "ebpf_exporters_kubelet_pods",
        "Pods that the kubelet listed last.",
        Labels::none(),
        Value::Integer(counts.pods),
    );
    families.gauge(
        "ebpf_exporters_kubelet_unnamed_pods",
        "Pods with cgroups that the kubelet has not named yet. Those that three answers did not have are no longer \
         among them.",
        Labels::none(),
        Value::Integer(counts.missing),
    );
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use common::exposition::encode::{Format, encode};
    use common::fixture::same;
    use common::serve::handed;
    use headlines::Listed;

    use super::*;
    use crate::ask::Answer;

    #[test]
    fn each_state_has_its_metrics() {
        let view = |name: &str, state: State, says: &str| View {
            listed: Listed { exporter: name.to_owned(), state: String::new(), says: says.to_owned() },
            channel: (state == State::Running).then(|| handed::pair().expect("a channel").0.into()),
            state,
            restarts: 3,
        };
        let views = [
            view("diskio", State::Running, ""),
            view("dns", State::Unsupported, "cannot run: probe \"x\" cannot be attached"),
            view("tcp", State::Running, ""),
            view("zfs-arc", State::Ended(Instant::now()), "it was killed by signal 9"),
        ];
        let good = Answer { status: 200, content_type: String::new(), body: Vec::new() };
        let outcomes = [
            (Ok(good), Duration::from_millis(3)),
            (Err("it does not run".to_owned()), Duration::ZERO),
            (Err("no answer in time".to_owned()), Duration::from_secs(9)),
            (Err("it does not run".to_owned()), Duration::ZERO),
        ];
        let mut families = of_exporters(&views, &outcomes, &|name| usize::from(name == "tcp"));
        let failures = vec![("connection", 2), ("denied", 1)];
        of_kubelet(&Counts { requests: 5, failures, pods: 31, missing: 1 }, &mut families);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metrics.prom");
        let text = encode(families, Format::Text);
        let revision = format!("revision=\"{}\"", self_metrics::REVISION);
        same(&golden, &text.replace(&revision, "revision=\"unknown\"")).expect("current");
    }
}
