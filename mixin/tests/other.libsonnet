// SPDX-License-Identifier: MIT OR Apache-2.0
// All that can be set, set to something else.
(import '../mixin.libsonnet') + {
  _config+:: {
    ebpfSelector: 'env="prod"',
    jobs: 'job=~"kernel/.+"',
    customJob: 'kernel/own',
    clusterLabel: 'k8s_cluster',
    thresholds+: { DiskLatencyP99High: 0.2 },
    dashboardTags: ['kernel'],
    dashboardRefresh: { host: '10s', fleet: '5m' },
  },
}
