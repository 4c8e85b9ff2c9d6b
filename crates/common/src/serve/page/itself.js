// SPDX-License-Identifier: MIT OR Apache-2.0
// The exporter itself: its probes, what was lost, how full its maps are, and what it costs.

// Names of the metrics that this part shows; custom programs may have others that begin so.
const ITSELF = new RegExp(
  "^(process_|ebpf_exporter_(build_info|mode|enabled_configs|ebpf_program_(info|attached|run_time_seconds(_total)?|run_count_total)" +
  "|(decoder_errors|lost_events|events|folded_events|scrapes)_total|map_(entries|capacity)|scrape_duration_seconds)$)",
);

class Itself {
  constructor(element) {
    this.facts = new Table("", "");
    this.probes = new Table();
    this.losses = new Table("lost, by reason", "now", "since the start");
    this.maps = new Table("map", "entries", "capacity");
    // Not known before the first answer.
    this.none = make("p", { hidden: true }, "Nothing was lost.");
    for (const table of [this.facts, this.probes]) table.element.classList.add("words");
    element.className = "card";
    element.append(
      make("h2", {}, "The exporter itself"), this.facts.element,
      make("h3", {}, "Probes"), this.probes.element,
      make("h3", {}, "What was lost"), this.none, this.losses.element,
      make("h3", {}, "Maps"), this.maps.element,
    );
  }

  // Returns sentences: of what is not as it could be, and of what is wrong.
  show(interval) {
    const { after } = interval;
    const [notes, wrong] = [[], []];
    const samples = (metric) => after.samples.get(metric) ?? [];
    const growth = (series, value) => {
      const before = interval.before?.values.get(series.key);
      return before === undefined || value < before ? undefined : (value - before) / interval.seconds;
    };
    const label = (series, ...names) => names.map((name) => series.labels.get(name)).filter(Boolean).join(" ");

    const facts = [];
    const fact = (name, text) => text !== undefined && facts.push([name, () => name, text]);
    const gauge = (metric, unit) => { const value = first(after, metric); return value === undefined ? undefined : amount(value, unit); };
    fact("version", firstLabel(after, "ebpf_exporter_build_info", "version"));
    const start = first(after, "process_start_time_seconds");
    fact("started", start && new Date(start * 1000).toLocaleString());
    fact("memory", gauge("process_resident_memory_bytes", "bytes"));
    const [cpu] = samples("process_cpu_seconds_total");
    const busy = cpu && growth(...cpu);
    fact("CPU", busy === undefined ? undefined : amount(busy, "ratio"));
    fact("last answer took", gauge("ebpf_exporter_scrape_duration_seconds", "seconds"));
    this.facts.show(facts);

    const hooks = new Map();
    for (const [series] of samples("ebpf_exporter_ebpf_program_info")) hooks.set(label(series, "config", "program"), label(series, "hook"));
    const of = (metric) => new Map(samples(metric).map(([series, value]) => [label(series, "config", "program", "id"), growth(series, value)]));
    const [runs, times] = ["run_count_total", "run_time_seconds_total"].map((name) => of("ebpf_exporter_ebpf_program_" + name));
    // Runs are counted while kernel.bpf_stats_enabled is 1.
    this.probes.headers(["program", "hook", "state", ...(runs.size ? ["runs", "each run"] : [])]);
    let missing = 0;
    this.probes.show(samples("ebpf_exporter_ebpf_program_attached").map(([series, value]) => {
      const key = label(series, "config", "program", "id");
      const [count, time] = [runs.get(key), times.get(key)];
      if (value !== 1) missing++;
      const cost = count > 0 && time !== undefined ? amount(time / count, "seconds") : "";
      const texts = [safe(hooks.get(label(series, "config", "program")) ?? ""), value === 1 ? "attached" : "not attached"];
      if (runs.size) texts.push(count === undefined ? "" : rate(count, "number"), cost);
      return [`${key} ${texts.length}`, () => safe(label(series, "program")), ...texts];
    }));
    if (missing) notes.push(`${missing} of ${this.probes.lines.size} probes ${missing === 1 ? "is" : "are"} not attached`);
    this.probes.element.previousSibling.hidden = this.probes.element.hidden;

    const lost = [
      ["ebpf_exporter_lost_events_total", "lost"],
      ["ebpf_exporter_folded_events_total", "counted under other"],
      ["ebpf_exporter_decoder_errors_total", "not decoded"],
    ].flatMap(([metric, what]) => samples(metric).filter(([, value]) => value > 0).map(([series, value]) => {
      const now = growth(series, value);
      if (now > 0 && what === "lost") wrong.push(`${rate(now, "number")} events are lost: ${safe(label(series, "reason"))}`);
      return [series.key, () => safe(label(series, "reason") || what), now === undefined ? "…" : rate(now, "number"), amount(value, "number")];
    }));
    this.losses.show(lost);
    this.none.hidden = lost.length > 0 || !has(after, "ebpf_exporter_lost_events_total");
    this.losses.element.previousSibling.previousSibling.hidden = this.none.hidden && !lost.length;

    this.maps.show(samples("ebpf_exporter_map_entries").map(([series, value]) => {
      const capacity = after.values.get(series.key.replace("_entries", "_capacity"));
      if (capacity && value >= capacity) notes.push(`map ${safe(label(series, "map"))} is full`);
      return [series.key, () => safe(label(series, "map")), String(value), String(capacity ?? "")];
    }));
    this.maps.element.previousSibling.hidden = this.maps.element.hidden;
    return { notes, wrong };
  }
}
