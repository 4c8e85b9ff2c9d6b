// SPDX-License-Identifier: MIT OR Apache-2.0
// Grafana's own types of a dashboard, with the options of each type of panel in their
// place: there Grafana's say no more than "anything".
import type * as dashboard from "@grafana/schema/dist/esm/raw/dashboard/x/dashboard_types.gen.d.ts";
import type * as bargauge from "@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen.d.ts";
import type * as gauge from "@grafana/schema/dist/esm/raw/composable/gauge/panelcfg/x/GaugePanelCfg_types.gen.d.ts";
import type * as heatmap from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen.d.ts";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.d.ts";

// Literal text in the place of an enumerator, as JSON has no enumerators.
type Plain<T> = T extends string
  ? `${T}`
  : T extends (infer E)[]
    ? Plain<E>[]
    : T extends object
      ? { [K in keyof T]: Plain<T[K]> }
      : T;

interface Target {
  datasource: { type: "prometheus"; uid: string };
  editorMode: "code";
  expr: string;
  format: "time_series" | "heatmap";
  instant: boolean;
  legendFormat: string;
  range: boolean;
  refId: string;
}

interface Panel<Type extends string, Options, Custom>
  extends Omit<dashboard.Panel, "type" | "options" | "targets" | "fieldConfig"> {
  type: Type;
  title: string;
  description: string;
  options: Options;
  targets: Target[];
  fieldConfig: {
    defaults: Omit<dashboard.FieldConfig, "custom"> & { custom: Custom };
    overrides: never[];
  };
}

export type Strict = Plain<
  Omit<dashboard.Dashboard, "panels"> & {
    panels: (
      | dashboard.RowPanel
      | Panel<"bargauge", bargauge.Options, Record<string, never>>
      | Panel<"gauge", gauge.Options, Record<string, never>>
      | Panel<"heatmap", heatmap.Options, heatmap.FieldConfig>
      | Panel<"timeseries", timeseries.Options, timeseries.FieldConfig>
    )[];
  }
>;
