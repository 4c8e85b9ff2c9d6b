// SPDX-License-Identifier: MIT OR Apache-2.0
// Draws the past of a family on a canvas: a heatmap, or lines.

// Room for the axes, in CSS pixels.
const LEFT = 60, RIGHT = 8, TOP = 8, BOTTOM = 20;

// Rows that a heatmap has at least.
const ROWS = 8;

const colours = {};

// Reads the colours of page.css, which are others in the dark.
function readColours() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  for (const name of ["card", "text", "quiet", "line", "c0", "c1", "c2", "c3", "c4"]) colours[name] = value(`--${name}`);
  colours.heat = value("--heat").split(",").map((hex) => {
    const digits = hex.length === 4 ? hex.slice(1).replace(/./g, "$&$&") : hex.slice(1);
    return [0, 2, 4].map((at) => parseInt(digits.slice(at, at + 2), 16));
  });
}

// The colour of a share from 0 to 1. The least that is not nothing is seen.
function heat(share) {
  if (!(share > 0)) return null;
  const at = (0.15 + 0.85 * Math.sqrt(share)) * (colours.heat.length - 1);
  const low = Math.min(Math.floor(at), colours.heat.length - 2);
  const [from, to] = [colours.heat[low], colours.heat[low + 1]];
  return `rgb(${from.map((part, i) => Math.round(part + (to[i] - part) * (at - low))).join()})`;
}

// The smallest of 1, 2, 5, 10, 20 and so on that is not below a value.
function roundUp(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * size).find((step) => step >= value * 0.9999) ?? value;
}

class Plot {
  // `paint` draws; `moved` is called when somebody points at another time.
  constructor(paint, moved) {
    this.canvas = make("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "img");
    this.paint = paint;
    this.moved = moved;
    // What is drawn, and up to when.
    this.steps = [];
    this.now = 0;
    // Where the drawing ends, and which bucket is at a height of a heatmap.
    this.right = 0;
    this.bottom = 0;
    this.bucketAt = null;
    // The step that somebody points at, and the height.
    this.at = null;
    this.y = null;
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX, event.offsetY));
    this.canvas.addEventListener("pointerdown", (event) => this.point(event.offsetX, event.offsetY));
    this.canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.leave());
    this.canvas.addEventListener("blur", () => this.leave());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !this.steps.length) return;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.context = this.canvas.getContext("2d");
    this.context.scale(scale, scale);
    this.context.font = "11px system-ui, sans-serif";
    [this.right, this.bottom, this.now] = [width - RIGHT, height - BOTTOM, this.steps.at(-1).time];
    // Whole minutes, as many as are known.
    this.span = Math.min(Math.max(Math.ceil((this.now - this.steps[0].time) / 60), 1) * 60, WINDOW);
    this.paint(this);
    this.times();
    if (!this.at) return;
    const x = this.x(this.at.time - this.at.seconds / 2);
    this.stroke([[x, TOP], [x, this.bottom]], colours.text, 1);
  }

  x(time) {
    return this.right - ((this.now - time) / this.span) * (this.right - LEFT);
  }

  // The axis of time.
  times() {
    const every = this.span > 60 ? 60 : 15;
    for (let ago = 0; ago < this.span; ago += every) {
      const x = this.x(this.now - ago);
      const text = every < 60 ? `-${ago} s` : `-${ago / 60} min`;
      this.text(ago ? text : "now", x, this.bottom + 14, ago ? "center" : "right");
      this.stroke([[x, this.bottom], [x, this.bottom + 3]], colours.quiet, 1);
    }
    this.stroke([[LEFT, this.bottom], [this.right, this.bottom]], colours.quiet, 1);
  }

  text(text, x, y, align) {
    this.context.fillStyle = colours.quiet;
    this.context.textAlign = align;
    this.context.fillText(text, x, y);
  }

  // A line through points, interrupted where one is null.
  stroke(points, colour, width, dash = []) {
    const context = this.context;
    context.beginPath();
    let begun = false;
    for (const point of points) {
      if (point) context[begun ? "lineTo" : "moveTo"](...point);
      begun = !!point;
    }
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.stroke();
    context.setLineDash([]);
  }

  point(x, y) {
    const covers = (step) => x >= this.x(step.time - step.seconds) && x <= this.x(step.time);
    this.look(this.steps.find((step) => step.rows && covers(step)) ?? null, y);
  }

  leave() {
    if (this.at) this.look(null, null);
  }

  key(event) {
    const known = this.steps.filter((step) => step.rows && step.seconds);
    const now = known.indexOf(this.at);
    const last = known.length - 1;
    const to = {
      ArrowLeft: now < 0 ? last : Math.max(now - 1, 0),
      ArrowRight: now < 0 ? last : Math.min(now + 1, last),
      Home: 0, End: last, Escape: -1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.look(known[to] ?? null, null);
  }

  look(step, y) {
    [this.at, this.y] = [step, y];
    this.draw();
    this.moved();
  }
}

// Draws how many observations of `group`, or of all, were in which bucket at what time, with lines of p50 and p99.
function drawHeat(plot, past, group, unit) {
  const { context, bottom } = plot;
  const steps = past.steps.map((step) => [step, past.of(step, group)]).filter(([step, counts]) => counts && step.seconds);
  const used = past.bounds.map((_, at) => at).filter((at) => steps.some(([, counts]) => counts[at] > 0));
  let [low, high] = [used[0] ?? 0, used.at(-1) ?? 0];
  while (high - low + 1 < ROWS && (low > 0 || high < past.bounds.length - 1)) {
    if (high < past.bounds.length - 1) high++;
    if (low > 0 && high - low + 1 < ROWS) low--;
  }
  const height = (bottom - TOP) / (high - low + 1);
  const below = (at) => past.bounds[at - 1] ?? 0;
  const yOf = (value) => {
    let at = low;
    while (at < high && past.bounds[at] < value) at++;
    const within = Number.isFinite(past.bounds[at]) ? (value - below(at)) / (past.bounds[at] - below(at)) : 0;
    return bottom - (at - low + Math.min(Math.max(within, 0), 1)) * height;
  };
  // The bucket at a height.
  plot.bucketAt = (y) => Math.min(Math.max(low + Math.floor((bottom - y) / height), low), high);
  let most = 0;
  for (const [step, counts] of steps) for (const count of counts) most = Math.max(most, count / step.seconds);
  for (const [step, counts] of steps) {
    const x = Math.max(plot.x(step.time - step.seconds), LEFT);
    // To the next pixel, so that no gap is seen between steps.
    const width = Math.max(plot.x(step.time) - x, 1) + 0.5;
    for (let at = low; at <= high; at++) {
      const colour = heat(counts[at] / step.seconds / most);
      if (!colour) continue;
      context.fillStyle = colour;
      context.fillRect(x, bottom - (at - low + 1) * height, width, height);
    }
  }
  const every = Math.ceil(14 / height);
  for (let at = low; at <= high; at += every) {
    const y = bottom - (at - low) * height;
    plot.text(amount(below(at), unit), LEFT - 6, y + 4, "right");
    plot.stroke([[LEFT - 3, y], [LEFT, y]], colours.quiet, 1);
  }
  for (const [q, dash] of [[0.5, []], [0.99, [5, 3]]]) {
    const points = past.steps.map((step) => {
      const counts = past.of(step, group);
      const value = counts && step.seconds ? past.quantile(counts, q) : undefined;
      const x = plot.x(step.time - step.seconds / 2);
      return value === undefined || x < LEFT ? null : [x, yOf(value)];
    });
    // Seen on every colour.
    plot.stroke(points, colours.card, 4);
    plot.stroke(points, colours.text, 1.5, dash);
  }
}

// Draws lines of groups, or of all together: pairs of group and colour.
function drawLines(plot, past, lines, unit, label) {
  const points = lines.map(([group]) => past.steps.map((step) => {
    const value = past.of(step, group);
    const time = past.kind === "counter" ? step.time - step.seconds / 2 : step.time;
    return value === undefined || plot.x(time) < LEFT ? null : [plot.x(time), value];
  }));
  const values = points.flat().filter(Boolean).map(([, value]) => value);
  const whole = unit === "ratio" ? 1 : unit === "percent" ? 100 : 0;
  const most = whole || roundUp(Math.max(...values, 0) || 1);
  const least = Math.min(0, ...values);
  const y = (value) => plot.bottom - ((value - least) / (most - least)) * (plot.bottom - TOP - 4);
  for (const value of [least, (least + most) / 2, most]) {
    plot.text(label(value), LEFT - 6, y(value) + 4, "right");
    plot.stroke([[LEFT, y(value)], [plot.right, y(value)]], colours.line, 1);
  }
  points.forEach((line, at) => plot.stroke(line.map((point) => point && [point[0], y(point[1])]), lines[at][1], 2));
}
