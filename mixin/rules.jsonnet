// SPDX-License-Identifier: MIT OR Apache-2.0
// jsonnet -S rules.jsonnet > rules.yml
std.manifestYamlDoc((import 'mixin.libsonnet').prometheusRules)
