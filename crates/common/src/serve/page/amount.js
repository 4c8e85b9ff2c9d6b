// SPDX-License-Identifier: MIT OR Apache-2.0
// Numbers with units, and foreign text, as people can read them: crates/headlines/src/amount.rs in JavaScript.
"use strict";

const TIMES = [[1e-9, "ns"], [1e-6, "µs"], [1e-3, "ms"], [1, "s"], [60, "min"], [3600, "h"], [86400, "d"]];
const BYTES = [[1, "B"], [1e3, "kB"], [1e6, "MB"], [1e9, "GB"], [1e12, "TB"], [1e15, "PB"]];
const NUMBERS = [[1, ""], [1e3, "k"], [1e6, "M"], [1e9, "G"], [1e12, "T"]];

// A value and its unit, with about two digits: `1.3 ms`, `97 %`, `12 MB/s`.
function amount(value, unit) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "unknown" : "endless";
  switch (unit) {
    case "seconds": return scaled(value, TIMES, " ");
    case "microseconds": return scaled(value * 1e-6, TIMES, " ");
    case "bytes": return scaled(value, BYTES, " ");
    case "bytes_per_second": return scaled(value, BYTES, " ") + "/s";
    case "ratio": return percent(value * 100);
    case "percent": return percent(value);
    default: return scaled(value, NUMBERS, "");
  }
}

// The value in the largest of the steps in which it is at least 1. What would be rounded to the next step is in
// that step.
function scaled(value, steps, space) {
  if (value === 0) return "0" + space + steps.find(([size]) => size === 1)[1];
  const [size, name] = steps.findLast(([size]) => Math.abs(value) / size * 1.005 >= 1) ?? steps[0];
  return digits(value / size) + space + name;
}

// Below 10 with one decimal, unless it is 0; below 0.1 with one digit other than 0.
function digits(value) {
  const size = Math.abs(value);
  if (size >= 9.95 || size === 0) return value.toFixed(0);
  if (size < 1e-4) return value.toExponential(0);
  const decimals = size >= 0.095 ? 1 : size >= 0.0095 ? 2 : size >= 0.00095 ? 3 : 4;
  return value.toFixed(decimals).replace(/\.?0+$/, "");
}

// Not all is never shown as all.
function percent(value) {
  return (value >= 99.5 && value < 100 ? Math.min(value, 99.9).toFixed(1) : digits(value)) + " %";
}

// The unit of the values of a metric, as its name tells.
function unitOf(metric) {
  const name = metric.replace(/(_total)+$/, "");
  return ["microseconds", "seconds", "bytes", "percent", "ratio"].find((unit) => name.endsWith("_" + unit)) ?? "number";
}

// A rate of something in a unit: `4.1 kB/s`, `12/s`. Seconds per second are a number: of CPUs that are busy.
function rate(value, unit) {
  if (unit === "bytes") return amount(value, "bytes_per_second");
  return amount(value, "number") + (unit === "number" ? "/s" : "");
}

// Text from elsewhere without characters that are not seen but change how others are.
function safe(text) {
  const hidden = /[\p{Cc}\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;
  return text.replace(hidden, "\ufffd");
}

// At most so many characters of it.
function shortened(text, most) {
  const chars = [...safe(text)];
  return chars.length > most ? chars.slice(0, most - 1).join("") + "…" : chars.join("");
}
