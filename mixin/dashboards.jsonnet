// SPDX-License-Identifier: MIT OR Apache-2.0
// jsonnet -m FOLDER dashboards.jsonnet
(import 'mixin.libsonnet').grafanaDashboards
