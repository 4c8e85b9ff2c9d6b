// SPDX-License-Identifier: MIT OR Apache-2.0
std.manifestYamlDoc((import 'other.libsonnet').prometheusRules)
