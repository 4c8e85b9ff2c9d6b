// SPDX-License-Identifier: MIT OR Apache-2.0
// Asks the exporter for its metrics every two seconds, and shows what it says, or that it does not answer.

// Milliseconds from one request to the next. The second comes sooner: rates take two answers. A test hastens.
const pace = { period: 2000, second: 1000 };

// Milliseconds that an answer may take.
const PATIENCE = 10000;

const page = {
  state: document.getElementById("state"),
  headline: document.getElementById("headline"),
  families: document.getElementById("families"),
  itself: new Itself(document.getElementById("itself")),
  title: document.title,
  version: document.getElementById("version").textContent,
};

// Cards by metric; the last scrape and its time in milliseconds; what /headlines says.
const cards = new Map();
let last = null, lastTime = 0, headlines = null;

// When the exporter was last seen to be started again, and since when it does not answer, as clock times.
let startedAgain = "", silentSince = "";

// Answers so far.
let answers = 0;

// How long the last refresh took, in milliseconds, without waiting for the exporter.
let took = 0;

// The address below this page. A password in the page's own address must not be in it: fetch() refuses that.
function address(path) {
  return new URL(path, location.origin + location.pathname).href;
}

async function ask(path) {
  const signal = AbortSignal.timeout(PATIENCE);
  let answer;
  try {
    answer = await fetch(address(path), { cache: "no-store", headers: { Accept: "text/plain" }, signal });
    const time = performance.now();
    return { status: answer.status, text: await answer.text(), time };
  } catch {
    throw new Error(`it does not answer since ${(silentSince ||= clock(Date.now()))}. What is below is from before`);
  }
}

async function poll() {
  const begun = performance.now();
  try {
    await refresh();
  } catch (error) {
    tell(error.message, true);
  }
  const period = answers === 1 ? pace.second : pace.period;
  if (!document.hidden) setTimeout(poll, Math.max(period - (performance.now() - begun), 100));
  else document.addEventListener("visibilitychange", poll, { once: true });
}

async function refresh() {
  const metrics = document.getElementById("metrics").getAttribute("href");
  headlines ??= await ask("./headlines").then(({ status, text }) => (status === 200 ? JSON.parse(text).headlines : []));
  const { status, text, time } = await ask(metrics);
  if (status === 401) throw new Error("it asks for a name and a password: reload this page");
  if (status !== 200) throw new Error(`it answers ${status}: ${shortened(text.trim(), 200)}`);
  silentSince = "";
  const begun = performance.now();
  const scrape = parse(text, last);
  const interval = intervalOf(last, scrape, (time - lastTime) / 1000);
  if (last && !interval.before) {
    startedAgain = clock(Date.now());
    // Flags may be others.
    headlines = null;
  }
  [last, lastTime] = [scrape, time];
  answers++;
  showFamilies(scrape, interval, time / 1000);
  showHeadline(interval);
  await tellState(scrape, page.itself.show(interval));
  took = performance.now() - begun;
}

// Shows a card for each family: first those of the headline, then histograms, then in the order of the answer.
function showFamilies(scrape, interval, time) {
  for (const [metric, kind] of scrape.kinds) {
    if (ITSELF.test(metric) || cards.has(metric)) continue;
    const known = kind === "histogram" || kind === "counter" ? kind : "gauge";
    cards.set(metric, new Family(metric, known, scrape.helps.get(metric)));
  }
  const asked = (headlines ?? []).flatMap((headline) => metricOf(headline));
  const rank = ({ metric, past, isInfo }) => {
    const at = asked.indexOf(metric);
    return at >= 0 ? at - 100 : isInfo ? 2 : past.kind === "histogram" ? 0 : 1;
  };
  if (page.families.children.length !== cards.size) {
    page.families.replaceChildren(...[...cards.values()].sort((a, b) => rank(a) - rank(b)).map((card) => card.element));
  }
  for (const card of cards.values()) card.add(interval, time);
}

// The family that a headline is about.
function metricOf(headline) {
  const [measure] = Object.values(headline.measure);
  return (measure.of ?? measure.part).metric.replace(/_count$/, "");
}

function showHeadline(interval) {
  const items = [];
  for (const headline of headlines ?? []) {
    const pieces = headlineOf(headline, interval);
    if (!pieces) continue;
    const text = pieces.map((piece) => make(piece.value ? "b" : "bdi", {}, safe(piece.text)));
    items.push([headline, make("a", { href: `#${metricOf(headline)}` }, ...text)]);
  }
  // The same elements as long as they are the same numbers, for the keyboard's focus.
  while (page.headline.children.length > items.length) page.headline.lastChild.remove();
  items.forEach(([, link], at) => {
    const item = page.headline.children[at];
    const old = item?.querySelector("a");
    if (!old) page.headline.append(make("li", {}, link));
    else if (old.href !== link.href) old.replaceWith(link);
    else if (old.textContent !== link.textContent) old.replaceChildren(...link.childNodes);
  });
}

// Tells how the exporter is.
async function tellState(scrape, { notes, wrong }) {
  const mode = firstLabel(scrape, "ebpf_exporter_mode", "mode");
  let text = { fallback: "Running without eBPF: only what the kernel counts by itself is shown" }[mode] ?? "Running";
  if (mode === "waiting") text = (await ask("./-/ready")).text.trim().replace(/^./, (c) => c.toUpperCase());
  const version = firstLabel(scrape, "ebpf_exporter_build_info", "version");
  if (version && version !== page.version) wrong.push(`this page is of version ${page.version}: reload it`);
  if (startedAgain) text += `; started again, seen at ${startedAgain}`;
  tell([text, ...notes, ...wrong].join("; "), wrong.length > 0);
}

// Tells a sentence about the exporter. `bad` is what needs to be looked at.
function tell(text, bad) {
  say(page.state, shortened(text, 500) + ".");
  page.state.classList.toggle("bad", bad);
  document.body.classList.toggle("stale", silentSince !== "");
  document.title = (silentSince ? "✗ " : bad ? "! " : "") + page.title;
}

readColours();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readColours();
  for (const card of cards.values()) card.show();
});
poll();
