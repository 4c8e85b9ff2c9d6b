// SPDX-License-Identifier: MIT OR Apache-2.0
// Parses the text format, version 0.0.4.

// A line of a sample: name, labels, value, and a time that is not used. A label may have any character.
const SAMPLE = /^([a-zA-Z_:][\w:]*)[ \t]*(?:\{(.*)\})?[ \t]*([^ \t]+)(?:[ \t]+-?\d+)?$/s;
const LABEL = /[ \t]*(\w+)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|$)/sy;

// The samples of one answer:
//   kinds: the type of each family; helps: what it says of itself
//   samples: for each sample name, pairs of series and value
//   series: the series by the text before the value
// A series is the same object as in the scrape before, whose text is then not parsed again.
function parse(text, before) {
  const scrape = { kinds: new Map(), helps: new Map(), samples: new Map(), series: new Map(), values: new Map() };
  for (const line of text.split("\n")) {
    if (line === "") continue;
    if (line[0] === "#") {
      const [, word, name, rest] = /^#[ \t]+(TYPE|HELP)[ \t]+([^ \t]+)[ \t]?(.*)$/s.exec(line) ?? [];
      if (word === "TYPE") scrape.kinds.set(name, rest.trim());
      if (word === "HELP") scrape.helps.set(name, rest.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c)));
      continue;
    }
    const end = line.lastIndexOf(" ");
    const key = line.slice(0, end);
    let series = before?.series.get(key);
    let word = line.slice(end + 1);
    if (!series) [series, word] = sample(line);
    const value = number(word);
    // With a time at the end, the key would be another at each scrape.
    if (series.key === key) scrape.series.set(key, series);
    scrape.values.set(series.key, value);
    let samples = scrape.samples.get(series.name);
    if (!samples) scrape.samples.set(series.name, (samples = []));
    samples.push([series, value]);
  }
  if (scrape.values.size === 0) throw new Error("there are no metrics in the answer");
  return scrape;
}

// The series of a line, and the word of its value.
function sample(line) {
  const [, name, inside = "", word] = SAMPLE.exec(line) ?? [];
  if (!name) throw new Error(`not a sample: ${shortened(line, 80)}`);
  const labels = new Map();
  LABEL.lastIndex = 0;
  for (let at = 0; at < inside.trimEnd().length; at = LABEL.lastIndex) {
    const [, label, text] = LABEL.exec(inside) ?? [];
    if (label === undefined) throw new Error(`not a sample: ${shortened(line, 80)}`);
    labels.set(label, text.replace(/\\(.)/gs, (_, c) => (c === "n" ? "\n" : c)));
  }
  const key = inside ? `${name}{${inside}}` : name;
  const bound = labels.has("le") ? number(labels.get("le")) : NaN;
  return [{ key, name, labels, bound, group: groupOf(labels) }, word];
}

function number(word) {
  const value = Number(word);
  if (!Number.isNaN(value)) return value;
  const [, minus, infinite] = /^([+-]?)(?:nan|(inf|infinity))$/i.exec(word) ?? [];
  if (minus === undefined) throw new Error(`not a number: ${shortened(word, 80)}`);
  return infinite ? (minus === "-" ? -Infinity : Infinity) : NaN;
}

// What a person calls a series: the values of its labels, with their names. The bound of a bucket is none of them.
function groupOf(labels) {
  const shown = [...labels].filter(([name]) => name !== "le");
  return shown.map(([name, text]) => `${name}="${text}"`).join(", ");
}

// Whether the exporter has that metric, even if it has no series yet: then its type is told.
function has(scrape, metric) {
  return [metric, metric.replace(/_count$/, "")].some((name) => scrape.kinds.has(name)) || scrape.samples.has(metric);
}

// The samples of a name that have these labels, and a value.
function chosen(scrape, metric, labels = {}) {
  const wanted = Object.entries(labels);
  const fits = ([series, value]) => !Number.isNaN(value) && wanted.every(([name, text]) => series.labels.get(name) === text);
  return (scrape.samples.get(metric) ?? []).filter(fits);
}

function first(scrape, metric) {
  return scrape.samples.get(metric)?.[0][1];
}

function firstLabel(scrape, metric, label) {
  return scrape.samples.get(metric)?.[0][0].labels.get(label);
}
