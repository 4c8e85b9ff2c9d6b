// SPDX-License-Identifier: MIT OR Apache-2.0
// With nothing set, all is as it is written.
local mixin = import '../mixin.libsonnet';
local sources = import '../sources.json';

local groups(of) = std.flattenArrays([of[name].groups for name in std.objectFields(of)]);

std.assertEqual(mixin.prometheusAlerts.groups, groups(sources.alerts))
&& std.assertEqual(mixin.prometheusRules.groups, groups(sources.rules))
&& std.assertEqual(mixin.grafanaDashboards['ebpf-host.json'], import '../../grafana/dashboard.json')
&& std.assertEqual(mixin.grafanaDashboards['ebpf-fleet.json'], import '../../grafana/fleet.json')
