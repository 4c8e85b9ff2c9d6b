// SPDX-License-Identifier: MIT OR Apache-2.0
// jsonnet -S alerts.jsonnet > alerts.yml
std.manifestYamlDoc((import 'mixin.libsonnet').prometheusAlerts)
