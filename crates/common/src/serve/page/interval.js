// SPDX-License-Identifier: MIT OR Apache-2.0
// What happened between two scrapes.

// `before` was scraped so many seconds before `after`. If the exporter was started anew in between, or there is no
// `before`, nothing is known of what happened.
function intervalOf(before, after, seconds) {
  const known = before && seconds > 0 && !restarted(before, after);
  return { before: known ? before : null, after, seconds };
}

// Whether another process answers, or the same has executed itself anew.
function restarted(before, after) {
  const both = (metric, differs) => {
    const [a, b] = [first(before, metric), first(after, metric)];
    return a !== undefined && b !== undefined && differs(a, b);
  };
  return (
    both("process_start_time_seconds", (a, b) => a !== b) ||
    both("ebpf_exporter_scrapes_total", (a, b) => b <= a) ||
    firstLabel(before, "ebpf_exporter_mode", "mode") !== firstLabel(after, "ebpf_exporter_mode", "mode")
  );
}

// Pairs of series and growth. A series that was not there before counts from 0. If one went down, the exporter
// counts anew: then nothing is known, which is null.
function grown(interval, metric, labels) {
  if (!interval.before) return null;
  const pairs = [];
  for (const [series, value] of chosen(interval.after, metric, labels)) {
    const growth = value - (interval.before.values.get(series.key) ?? 0);
    if (!(growth >= 0)) return null;
    pairs.push([series, growth]);
  }
  return pairs;
}

// For each group of series of a histogram, how many observations were made up to each bound: pairs, by bound.
function distributions(interval, metric, labels, groupOf) {
  const pairs = grown(interval, metric + "_bucket", labels);
  if (!pairs) return null;
  const groups = new Map();
  for (const [series, growth] of pairs) {
    if (!(series.bound >= 0)) continue;
    const group = groupOf(series);
    let bounds = groups.get(group);
    if (!bounds) groups.set(group, (bounds = new Map()));
    bounds.set(series.bound, (bounds.get(series.bound) ?? 0) + growth);
  }
  for (const [group, bounds] of groups) groups.set(group, [...bounds].sort((a, b) => a[0] - b[0]));
  return groups;
}

// A quantile, interpolated linearly in its bucket as by PromQL's `histogram_quantile`: in the last bucket it is the
// greatest finite bound. Undefined without observations.
function quantile(cumulative, q) {
  const total = cumulative.at(-1)?.[1];
  if (!(total > 0)) return undefined;
  const rank = q * total;
  let [boundBelow, below] = [0, 0];
  for (const [bound, count] of cumulative) {
    if (count >= rank && count > below) {
      if (bound === Infinity) return boundBelow;
      return boundBelow + (bound - boundBelow) * Math.max((rank - below) / (count - below), 0);
    }
    [boundBelow, below] = [bound, count];
  }
  return undefined;
}
