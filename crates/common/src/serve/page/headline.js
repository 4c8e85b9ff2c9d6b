// SPDX-License-Identifier: MIT OR Apache-2.0
// The numbers of the headline: crates/headlines/src/evaluate.rs in JavaScript.

const KEYS = ["text", "none", "measure", "unit", "alias"];
const UNITS = ["seconds", "microseconds", "bytes", "bytes_per_second", "ratio", "percent", "number"];

// Pieces of text, of which `value` marks the number: `read p99 `, `1.3 ms`, ` on nvme0n1`. Null if it is not known,
// or a later version's that means something else.
function headlineOf(headline, interval) {
  const [[kind, measure]] = Object.entries(headline.measure);
  if (!UNITS.includes(headline.unit) || Object.keys(headline).some((key) => !KEYS.includes(key))) return null;
  const by = [...headline.text.matchAll(/\{(.*?)\}/g)].map(([, name]) => name).filter((name) => name !== "value");
  const selectors = measure.of ? [measure.of] : [measure.part, ...measure.whole];
  const counts = kind !== "gauge" && kind !== "share";
  if (counts && selectors.some((of) => !has(interval.after, of.metric))) return null;
  const values = valuesOf(kind, measure, by, interval);
  if (!values) return null;
  const best = greatest(values);
  if (!best) return headline.none ? [{ text: headline.none }] : null;
  const labels = new Map(by.map((name, at) => [name, named(headline, interval.after, name, best.labels[at])]));
  return headline.text.split(/(\{.*?\})/).filter(Boolean).map((piece) => {
    if (piece === "{value}") return { text: amount(best.value, headline.unit), value: true };
    if (/^\{.*\}$/.test(piece)) return { text: shortened(labels.get(piece.slice(1, -1)) ?? "", 40) };
    return { text: piece };
  });
}

// Values by the labels in the text: a map from the labels as JSON. Null if they are not known.
function valuesOf(kind, measure, by, interval) {
  const key = (series) => (by.length ? JSON.stringify(by.map((name) => series.labels.get(name) ?? "")) : "[]");
  const sums = (pairs) => {
    const all = new Map();
    for (const [series, value] of pairs) {
      const of = key(series);
      all.set(of, (all.get(of) ?? 0) + value);
    }
    return all;
  };
  const now = (of) => sums(chosen(interval.after, of.metric, of.labels));
  const growth = (of) => {
    const pairs = grown(interval, of.metric, of.labels);
    return pairs && sums(pairs);
  };
  switch (kind) {
    case "gauge": return now(measure.of);
    case "share": return divided(now(measure.part), measure.whole.map(now));
    case "ratio": {
      const [part, ...whole] = [measure.part, ...measure.whole].map(growth);
      return part && whole.every(Boolean) ? divided(part, whole) : null;
    }
    case "rate": {
      const events = growth(measure.of);
      return events && new Map([...events].filter(([, by]) => by > 0).map(([of, by]) => [of, by / interval.seconds]));
    }
    case "quantile": {
      const all = distributions(interval, measure.of.metric, measure.of.labels, key);
      const quantiles = new Map();
      for (const [of, cumulative] of all ?? []) {
        const value = quantile(cumulative, measure.q);
        if (value !== undefined) quantiles.set(of, value);
      }
      return all && quantiles;
    }
    default: return null;
  }
}

// Quotients of groups. There is none where the divisor is 0.
function divided(part, whole) {
  const divisors = new Map();
  for (const [of, value] of whole.flatMap((values) => [...values])) divisors.set(of, (divisors.get(of) ?? 0) + value);
  const quotients = [...divisors].filter(([, divisor]) => divisor > 0);
  return new Map(quotients.map(([of, divisor]) => [of, (part.get(of) ?? 0) / divisor]));
}

// The greatest value. What found no room of its own comes last: it is several.
function greatest(values) {
  const all = [...values].map(([of, value]) => ({ labels: JSON.parse(of), value }));
  const isOne = (one) => (one.labels.includes("other") ? 0 : 1);
  const order = (a, b) => isOne(b) - isOne(a) || b.value - a.value;
  return all.reduce((best, next) => (best && order(best, next) <= 0 ? best : next), undefined);
}

// The value of a label, or a better name for it.
function named(headline, scrape, label, text) {
  const alias = headline.alias;
  if (alias?.label !== label) return text;
  const same = scrape.samples.get(alias.metric)?.find(([series]) => series.labels.get(label) === text);
  return same?.[0].labels.get(alias.name) || text;
}
