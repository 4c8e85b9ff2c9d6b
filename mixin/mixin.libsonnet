// SPDX-License-Identifier: MIT OR Apache-2.0
// The alerts, recording rules and dashboards of this repository, with what `config.libsonnet` says. They are written
// in alerts/, rules/ and grafana/rows/, and with nothing set they come out as they are there.
local defaults = import 'config.libsonnet';
local promql = import 'promql.libsonnet';
local sources = import 'sources.json';

defaults {
  local config = self._config,
  local thresholds = config.thresholds,

  local query(expr) =
    local replaced = std.strReplace(expr, 'job=~"ebpf-.+"', config.jobs);
    local custom = std.strReplace(replaced, '"ebpf-custom"', '"%s"' % config.customJob);
    promql.rewrite(custom, config.ebpfSelector, config.clusterLabel),

  local text(words) =
    std.strReplace(
      std.strReplace(words, '{{cluster}}', '{{%s}}' % config.clusterLabel),
      '.labels.cluster}',
      '.labels.%s}' % config.clusterLabel,
    ),

  local withThreshold(rule) =
    local name = std.get(rule, 'alert', '');
    if !std.objectHas(thresholds, name) || thresholds[name] == promql.threshold(rule.expr) then rule
    else rule { expr: promql.withThreshold(rule.expr, thresholds[name]) },

  local groups(of) = [
    group { rules: [withThreshold(rule) + { expr: query(super.expr) } for rule in group.rules] }
    for name in std.objectFields(of)
    for group in of[name].groups
  ],

  local unknown = std.setDiff(std.objectFields(thresholds), std.objectFields(defaults._config.thresholds)),
  assert unknown == [] : 'no alert with a threshold is called %s' % std.join(', ', unknown),

  prometheusAlerts+:: { groups+: groups(sources.alerts) },
  prometheusRules+:: { groups+: groups(sources.rules) },

  local panel(of) =
    if of.type == 'row' then of
    else of {
      fieldConfig+: {
        defaults+: if std.objectHas(of.fieldConfig.defaults, 'links') then {
          links: [link { url: text(super.url) } for link in super.links],
        } else {},
      },
      targets: [target { expr: query(super.expr), legendFormat: text(super.legendFormat) } for target in super.targets],
    },

  local variable(of) =
    if of.type != 'query' then of
    else of { query+: { query: query(super.query) } },

  local dashboard(of, refresh) = of {
    panels: [panel(each) for each in super.panels],
    refresh: refresh,
    tags: config.dashboardTags,
    templating+: { list: [variable(each) for each in super.list] },
  },

  grafanaDashboards+:: {
    'ebpf-host.json': dashboard(import '../grafana/dashboard.json', config.dashboardRefresh.host),
    'ebpf-fleet.json': dashboard(import '../grafana/fleet.json', config.dashboardRefresh.fleet),
  },
}
