// SPDX-License-Identifier: MIT OR Apache-2.0
// What can be set. `mixin.libsonnet` is used like this:
//
//   (import 'ebpf-exporters/mixin/mixin.libsonnet') + {
//     _config+:: { clusterLabel: 'k8s_cluster', thresholds+: { DiskLatencyP99High: 0.1 } },
//   }
local promql = import 'promql.libsonnet';
local sources = import 'sources.json';

local alerts = [
  rule
  for name in std.objectFields(sources.alerts)
  for group in sources.alerts[name].groups
  for rule in group.rules
];

// Made once here, as a member of an object is made anew whenever it is asked for.
local written = {
  [rule.alert]: promql.threshold(rule.expr)
  for rule in alerts
  if promql.threshold(rule.expr) != null
};

{
  _config:: {
    // More matchers for every series that is scraped, with commas between them: 'env="prod"'.
    ebpfSelector: '',

    // A matcher for the jobs of all exporters, and the name of the job of your own programs.
    jobs: 'job=~"ebpf-.+"',
    customJob: 'ebpf-custom',

    // The label that tells clusters apart where several share a Prometheus. Series may lack it.
    clusterLabel: 'cluster',

    // From where on an alert fires, by its name and in the unit of its expression. What is not set here is as in
    // alerts/. A name that no alert with a threshold has is an error.
    thresholds: written,

    // Of the dashboards.
    dashboardTags: ['ebpf', 'linux', 'zfs', 'wireguard'],
    dashboardRefresh: { host: '30s', fleet: '1m' },
  },
}
