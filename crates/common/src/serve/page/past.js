// SPDX-License-Identifier: MIT OR Apache-2.0
// What the page remembers of a family: a step for each answer of the last minutes.
//
// A step has the time at which it ended, how long it took, in seconds, and of each series (`rows`) and of all together
// (`all`): of a histogram, how many observations were made in which bucket; of a counter, its growth per second; of a
// gauge, its value. Where nothing is known, as after a restart, `rows` is null.

// How far back charts go, in seconds.
const WINDOW = 300;

// Series that a step remembers: the greatest.
const KEPT = 100;

class Past {
  constructor(metric, kind) {
    this.metric = metric;
    this.kind = kind;
    this.steps = [];
    // Of a histogram, the upper bound of each bucket.
    this.bounds = [];
    // The series of each group.
    this.series = new Map();
  }

  // Adds what happened in an interval that ended at `time`, in seconds.
  add(interval, time) {
    const of = { histogram: "observations", counter: "rates" }[this.kind] ?? "values";
    // As of now: it may be one that needs eBPF, or a module that is not loaded.
    this.isThere = has(interval.after, this.metric);
    const { all = null, rows = null } = (this.isThere && this[of](interval)) || {};
    this.steps.push({ time, seconds: interval.before ? interval.seconds : 0, all, rows });
    this.steps = this.steps.filter((step) => step.time > time - WINDOW);
    const shown = new Set(this.steps.flatMap((step) => [...(step.rows?.keys() ?? [])]));
    for (const group of this.series.keys()) if (!shown.has(group)) this.series.delete(group);
  }

  observations(interval) {
    const groups = distributions(interval, this.metric, {}, (series) => {
      this.series.set(series.group, series);
      return series.group;
    });
    if (!groups) return null;
    const bounds = [...new Set([...groups.values()].flatMap((pairs) => pairs.map(([bound]) => bound)))];
    bounds.sort((a, b) => a - b);
    if (bounds.join() !== this.bounds.join()) [this.bounds, this.steps] = [bounds, []];
    const all = new Float64Array(bounds.length);
    const rows = [];
    for (const [group, cumulative] of groups) {
      const counts = new Float64Array(bounds.length);
      let [at, below] = [0, 0];
      for (const [bound, count] of cumulative) {
        while (bounds[at] < bound) at++;
        counts[at] = Math.max(count - below, 0);
        all[at] += counts[at];
        below = count;
      }
      if (below > 0) rows.push([group, counts, below]);
    }
    return { all, rows: this.kept(rows) };
  }

  rates(interval) {
    const pairs = grown(interval, this.metric, {});
    if (!pairs) return null;
    const rows = [];
    let all = 0;
    for (const [series, growth] of pairs) {
      const value = growth / interval.seconds;
      all += value;
      if (value > 0) rows.push([series.group, value, value]);
      this.series.set(series.group, series);
    }
    return { all, rows: this.kept(rows) };
  }

  values(interval) {
    const rows = chosen(interval.after, this.metric).map(([series, value]) => {
      this.series.set(series.group, series);
      return [series.group, value, value];
    });
    return { rows: this.kept(rows) };
  }

  // The greatest rows, by the third member.
  kept(rows) {
    return new Map(rows.sort((a, b) => b[2] - a[2]).slice(0, KEPT).map(([group, value]) => [group, value]));
  }

  // What a step has of a group, or of all if it is undefined. Undefined if that is not known.
  of(step, group) {
    if (!step.rows) return undefined;
    if (group === undefined) return step.all ?? undefined;
    return step.rows.get(group) ?? { histogram: new Float64Array(this.bounds.length), counter: 0 }[this.kind];
  }

  // A quantile of how many observations are in which bucket.
  quantile(counts, q) {
    let sum = 0;
    return quantile(this.bounds.map((bound, at) => [bound, (sum += counts[at])]), q);
  }

  // How long the steps took of which something is known, in seconds.
  seconds() {
    return this.steps.reduce((sum, step) => sum + (step.rows ? step.seconds : 0), 0);
  }

  // Of a histogram, how many observations of all series were in which bucket in these minutes.
  total() {
    const total = new Float64Array(this.bounds.length);
    for (const step of this.steps) if (step.all) add(total, step.all);
    return total;
  }

  // All that was counted in these minutes, by group: pairs, the greatest first. Of gauges, the last values.
  totals() {
    const last = this.steps.at(-1);
    if (!last) return [];
    if (this.kind === "gauge") return [...(last.rows ?? [])];
    const totals = new Map();
    for (const step of this.steps) {
      for (const [group, value] of step.rows ?? []) {
        if (this.kind === "counter") totals.set(group, (totals.get(group) ?? 0) + value * step.seconds);
        else add(totals.get(group) ?? totals.set(group, new Float64Array(this.bounds.length)).get(group), value);
      }
    }
    const size = (value) => (this.kind === "counter" ? value : sum(value));
    return [...totals].map(([group, value]) => [group, value, size(value)]).sort((a, b) => b[2] - a[2]);
  }
}

function sum(counts) {
  return counts.reduce((sum, count) => sum + count, 0);
}

// Adds counts to those of a sum. A loop: it runs over all steps at each refresh.
function add(total, counts) {
  for (let at = 0; at < counts.length; at++) total[at] += counts[at];
}
