// SPDX-License-Identifier: MIT OR Apache-2.0
// The card of a family: what it says of itself, a chart of its past, and its greatest series.

// Series in a table, before somebody asks for more, and lines in a chart.
const SHOWN = 10, LINES = 5;

class Family {
  constructor(metric, kind, help) {
    this.metric = metric;
    this.unit = unitOf(metric);
    this.isInfo = metric.endsWith("_info");
    this.past = new Past(metric, kind);
    // The group of the heatmap; all if it is undefined.
    this.group = undefined;
    this.more = false;
    // Which group has which colour: it keeps it while it is among the greatest.
    this.colour = new Map();
    this.plot = new Plot((plot) => this.paint(plot), () => this.pointed());
    this.reading = make("p", { className: "read" });
    this.table = new Table();
    this.button = make("button", { type: "button", onclick: () => this.showMore() });
    this.element = make("section", { className: "card", id: metric }, make("h2", {}, ...brokenName(metric)), helpOf(help));
    if (!this.isInfo) this.element.append(this.plot.canvas, this.reading);
    this.element.append(this.table.element, make("p", { className: "note" }, this.button));
    this.element.setAttribute("aria-label", metric);
    // Only what is seen is drawn.
    new IntersectionObserver(([entry]) => {
      this.isSeen = entry.isIntersecting;
      this.show();
    }, { rootMargin: "200px" }).observe(this.element);
  }

  add(interval, time) {
    this.past.add(interval, time);
    this.element.hidden = !this.past.isThere;
    this.show();
  }

  show() {
    if (!this.isSeen || !this.past.steps.length) return;
    const totals = this.past.totals();
    this.isQuiet = !totals.length;
    this.plot.canvas.hidden = this.isQuiet;
    this.choose(totals);
    this.tabulate(totals);
    this.plot.steps = this.past.steps;
    if (!this.plot.steps.includes(this.plot.at)) this.plot.at = null;
    this.plot.draw();
    this.read();
  }

  // Gives the greatest series colours.
  choose(totals) {
    if (this.group !== undefined && !totals.some(([group]) => group === this.group)) this.group = undefined;
    const chosen = totals.slice(0, LINES).map(([group]) => group);
    for (const group of this.colour.keys()) if (!chosen.includes(group)) this.colour.delete(group);
    const taken = new Set(this.colour.values());
    const free = [0, 1, 2, 3, 4].filter((number) => !taken.has(number));
    for (const group of chosen) if (!this.colour.has(group)) this.colour.set(group, free.shift());
  }

  tabulate(totals) {
    const { past, unit } = this;
    const names = [...(past.series.values().next().value?.labels.keys() ?? [])].filter((name) => name !== "le");
    const label = names.join(" · ") || "series";
    const shown = totals.slice(0, this.more ? KEPT : SHOWN);
    const seconds = past.seconds() || 1;
    const last = past.steps.at(-1);
    if (past.kind === "histogram") {
      this.table.headers([label, "per second", "p50", "p99"]);
      const several = totals.length > 1;
      const line = (group, counts) => [
        `${several} ${group ?? "all"}`, () => (several ? this.choice(group) : this.named(group)), rate(sum(counts) / seconds, "number"),
        ...[0.5, 0.99].map((q) => amount(past.quantile(counts, q), unit)),
      ];
      const all = several ? [line(undefined, past.total())] : [];
      this.table.show([...all, ...shown.map(([group, counts]) => line(group, counts))]);
      for (const button of this.table.body.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", String(button.group === this.group));
      }
    } else if (this.isInfo) {
      this.table.headers([label]);
      this.table.show(shown.map(([group]) => [group, () => this.named(group)]));
    } else if (past.kind === "counter") {
      this.table.headers([label, "now", "mean"]);
      const now = (group) => { const value = past.of(last, group); return value === undefined ? "…" : rate(value, unit); };
      this.table.show(shown.map(([group, total]) => [group, () => this.named(group), now(group), rate(total / seconds, unit)]));
    } else {
      this.table.headers([label, "now"]);
      this.table.show(shown.map(([group, value]) => [group, () => this.named(group), amount(value, unit)]));
    }
    for (const [group, row] of this.table.lines) {
      const colour = past.kind === "histogram" ? undefined : this.colour.get(group);
      row.className = colour === undefined ? "" : `k${colour}`;
    }
    const hidden = totals.length - shown.length;
    this.button.parentNode.hidden = !hidden && !this.more;
    say(this.button, this.more ? "Show fewer" : `Show ${hidden} more`);
  }

  named(group) {
    const series = this.past.series.get(group);
    return make("span", { className: "label", title: safe(group) }, ...(series ? labelsOf(series) : [safe(group)]));
  }

  // The name of a series that a click shows alone.
  choice(group) {
    const name = group === undefined ? make("span", { className: "label" }, "all") : this.named(group);
    const button = make("button", { type: "button", onclick: () => { this.group = group; this.show(); } }, name);
    button.group = group;
    return button;
  }

  showMore() {
    this.more = !this.more;
    this.show();
  }

  paint(plot) {
    const { past, unit } = this;
    if (past.kind === "histogram") return drawHeat(plot, past, this.group, unit);
    const label = (value) => (past.kind === "counter" ? rate(value, unit) : amount(value, unit));
    drawLines(plot, past, [...this.colour].map(([group, colour]) => [group, colours[`c${colour}`]]), unit, label);
  }

  // A screen reader reads what the keys choose, and not every answer.
  pointed() {
    this.reading.ariaLive = this.plot.at ? "polite" : "off";
    this.read();
  }

  // Says in words what is pointed at, or what came last.
  read() {
    const { past, plot } = this;
    const step = plot.at ?? past.steps.at(-1);
    let text = plot.at ? clock(Date.now() - (performance.now() - step.time * 1000)) : "now";
    if (!past.steps.some((step) => step.rows)) text = "Rates take two answers: a moment.";
    else if (this.isQuiet) text = past.kind === "gauge" ? "There is nothing now." : "No events in the last minutes.";
    else text += `: ${this.said(step)}`;
    say(this.reading, text);
    const kind = past.kind === "histogram" ? "Heatmap" : "Lines";
    this.plot.canvas.setAttribute("aria-label", `${kind} of ${this.metric}, the last minutes; arrow keys choose a time. ${text}`);
  }

  // What a step has, in words.
  said(step) {
    const { past, plot, unit } = this;
    if (!step.rows) return "not known, as it was started again";
    if (past.kind !== "histogram") {
      const value = past.kind === "counter" ? step.all : sum([...step.rows.values()]);
      if (past.kind === "counter") return rate(value, unit);
      return step.rows.size === 1 ? amount(value, unit) : `${step.rows.size} series`;
    }
    const counts = past.of(step, this.group);
    let text = rate(sum(counts) / step.seconds, "number");
    for (const [name, q] of [["p50 (line)", 0.5], ["p99 (dashes)", 0.99]]) {
      const value = past.quantile(counts, q);
      if (value !== undefined) text += `, ${name} ${amount(value, unit)}`;
    }
    if (plot.at && plot.y !== null && plot.bucketAt) {
      const at = plot.bucketAt(plot.y);
      const bound = past.bounds[at];
      const below = amount(past.bounds[at - 1] ?? 0, unit);
      const range = bound === Infinity ? `over ${below}` : `${below} to ${amount(bound, unit)}`;
      text += `; ${range}: ${rate(counts[at] / step.seconds, "number")}`;
    }
    return text;
  }
}

// The first sentence, and the others when asked for.
function helpOf(help = "") {
  const [, sentence, rest] = /^(.*?[.:])\s+(.*)$/s.exec(help) ?? [null, help, ""];
  if (!rest) return make("p", { className: "help" }, sentence);
  return make("details", { className: "help" }, make("summary", {}, sentence), rest);
}

function clock(time) {
  return new Date(time).toLocaleTimeString();
}
