// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the page computes, compared with what `ebpf-exporters top` computes of the same text.

use common::spec::Headline;
use headlines::amount::{amount, safe};
use headlines::{Distribution, Interval, Scrape, Selector, Unit};
use live::browser::Browser;
use serde_json::json;

use super::serve_page;

/// Metrics at one time, and two seconds later.
const BEFORE: &str = "# TYPE calls_total counter\n\
    calls_total{name=\"read\",cpu=\"0\"} 100\ncalls_total{name=\"read\",cpu=\"1\"} 7\n\
    calls_total{name=\"write\",cpu=\"0\"} 5\ncalls_total{name=\"other\",cpu=\"0\"} 1\n\
    # TYPE hits_total counter\nhits_total 10\n# TYPE misses_total counter\nmisses_total 10\n\
    # TYPE wait_seconds histogram\n\
    wait_seconds_bucket{disk=\"a\",le=\"0.001\"} 5\nwait_seconds_bucket{disk=\"a\",le=\"0.002\"} 5\n\
    wait_seconds_bucket{disk=\"a\",le=\"+Inf\"} 5\nwait_seconds_count{disk=\"a\"} 5\n\
    # TYPE quiet_total counter\n";
const AFTER: &str = "# TYPE calls_total counter\n\
    calls_total{name=\"read\",cpu=\"0\"} 160\ncalls_total{name=\"read\",cpu=\"1\"} 67\n\
    calls_total{name=\"write\",cpu=\"0\"} 32\ncalls_total{name=\"other\",cpu=\"0\"} 900\n\
    # TYPE hits_total counter\nhits_total 107\n# TYPE misses_total counter\nmisses_total 13\n\
    # TYPE wait_seconds histogram\n\
    wait_seconds_bucket{disk=\"a\",le=\"0.001\"} 8\nwait_seconds_bucket{disk=\"a\",le=\"0.002\"} 105\n\
    wait_seconds_bucket{disk=\"a\",le=\"+Inf\"} 106\nwait_seconds_count{disk=\"a\"} 106\n\
    wait_seconds_bucket{disk=\"b\",le=\"0.001\"} 9\nwait_seconds_bucket{disk=\"b\",le=\"0.002\"} 9\n\
    wait_seconds_bucket{disk=\"b\",le=\"+Inf\"} 9\nwait_seconds_count{disk=\"b\"} 9\n\
    # TYPE quiet_total counter\n# TYPE used_bytes gauge\nused_bytes{pool=\"tank\"} 1e9\nfree_bytes{pool=\"tank\"} 3e9\n\
    # TYPE age_seconds gauge\nage_seconds{peer=\"AQ\"} 34\nage_seconds{peer=\"BQ\"} NaN\n\
    disk_info{disk=\"a\",label=\"root\\\\ \\\"x\\\" {y}\"} 1\n";

fn all() -> Vec<Headline> {
    vec![
        Headline::rate("top: {name} {value}/s", "calls_total").or("no calls"),
        Headline::rate("{value} on {cpu}", "calls_total").only("name", "read"),
        Headline::rate("{value} in all", "calls_total"),
        Headline::rate("{value} waits/s", "wait_seconds_count"),
        Headline::rate("{value} events/s", "quiet_total").or("no events"),
        Headline::rate("{value} of what is not there", "absent_total").or("none"),
        Headline::ratio("hit ratio {value}", "hits_total", &["hits_total", "misses_total"]),
        Headline::ratio("{value} of nothing", "quiet_total", &["quiet_total"]).or("no look-ups"),
        Headline::quantile("p99 {value} on {disk}", 0.99, "wait_seconds").alias("disk", "disk_info", "label"),
        Headline::quantile("p50 {value}", 0.5, "wait_seconds"),
        Headline::quantile("max {value} on {disk}", 1.0, "wait_seconds").only("disk", "b"),
        Headline::gauge("{peer}: {value} ago", "age_seconds").or("no handshake"),
        Headline::gauge("{value} of what is not there", "absent").or("none"),
        Headline::share("{pool} {value} full", "used_bytes", &["used_bytes", "free_bytes"]),
    ]
}

#[live::test(once, browser)]
fn the_page_says_what_the_terminal_says() {
    let address = serve_page(all(), |asked| if asked == 0 { BEFORE } else { AFTER }.to_owned());
    let mut browser = Browser::start(1000, 800);
    browser.open(&address);
    // Two answers, and no third.
    browser.evaluate("pace.period = 1e9");
    let (before, after) = (Scrape::parse(BEFORE).unwrap(), Scrape::parse(AFTER).unwrap());
    let interval = Interval::new(Some(&before), &after, 2.0);
    for headline in all() {
        let expression = format!(
            "(() => {{ const before = parse({}); \
             return headlineOf({}, intervalOf(before, parse({}, before), 2))?.map(({{ text }}) => text).join('') ?? null; }})()",
            json!(BEFORE),
            json!(headline),
            json!(AFTER)
        );
        let said = browser.evaluate(&expression);
        assert_eq!(said.as_str().map(ToOwned::to_owned), interval.text(&headline), "{headline:?}");
    }
    // It shows them too; rates are those of the clock.
    let said = all().iter().filter(|headline| interval.text(headline).is_some()).count();
    browser.until("the headline", &format!("document.querySelectorAll('#headline li').length === {said}"));
    let shown = browser.text("document.getElementById('headline').innerText.replace(/\\s*\\n\\s*/g, '\\n')");
    for text in
        ["hit ratio 97 %", "p99 2 ms on root\\ \"x\" {y}", "no events", "AQ: 34 s ago", "tank 25 % full"]
    {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    assert_eq!(browser.complaints(), [""; 0]);
}

#[live::test(once, browser)]
fn numbers_and_foreign_text_are_as_in_the_terminal() {
    let address = serve_page([], |_| BEFORE.to_owned());
    let mut browser = Browser::start(1000, 800);
    browser.open(&address);
    let mut cases = Vec::new();
    for unit in [
        Unit::Seconds,
        Unit::Microseconds,
        Unit::Bytes,
        Unit::BytesPerSecond,
        Unit::Ratio,
        Unit::Percent,
        Unit::Number,
    ] {
        // Not where a digit is exactly between two.
        let sizes = (-70..120).map(|n| 1.237 * 10f64.powf(f64::from(n) / 10.0));
        let values = sizes.chain([0.0, 1.0, 0.9996, 0.9999, 99.97, 100.0, 59.9, 999.7, -2.7]);
        cases.extend(values.map(|value| (value, unit)));
    }
    let said = browser.evaluate(&format!("{}.map(([value, unit]) => amount(value, unit))", json!(cases)));
    for ((value, unit), said) in cases.iter().zip(said.as_array().unwrap()) {
        assert_eq!(said, &amount(*value, *unit), "{value} {unit:?}");
    }
    assert_eq!(browser.text("amount(NaN, 'number') + amount(Infinity, 'seconds')"), "unknownendless");
    for name in ["a_microseconds", "a_seconds_total", "a_bytes", "a_ratio", "a_percent", "a_total", "seconds"]
    {
        let unit = browser.evaluate(&format!("unitOf({})", json!(name)));
        assert_eq!(unit, json!(Unit::of_metric(name)), "{name}");
    }
    let hostile =
        "a\u{9b}31m\u{7}\r\n\u{202e}\u{2066}\u{200b}\u{e0041}\u{5e9}\u{5dc}é😀".to_owned() + &"b".repeat(300);
    assert_eq!(browser.text(&format!("shortened({}, 40)", json!(hostile))), safe(&hostile, 40));

    for buckets in [
        vec![(1.0, 0.0), (2.0, 10.0), (4.0, 90.0), (8.0, 100.0), (f64::INFINITY, 100.0)],
        vec![(1.0, 1.0), (2.0, 1.0), (f64::INFINITY, 10.0)],
        vec![(1.0, 0.0), (f64::INFINITY, 0.0)],
        vec![(0.5, 3.0), (f64::INFINITY, 3.0)],
    ] {
        let mut distribution = Distribution::default();
        buckets.iter().for_each(|(bound, count)| distribution.add(*bound, *count));
        let pairs: Vec<String> = buckets
            .iter()
            .map(|(bound, count)| {
                format!(
                    "[{},{count}]",
                    if bound.is_finite() { bound.to_string() } else { "Infinity".to_owned() }
                )
            })
            .collect();
        for q in [0.0, 0.5, 0.9, 0.99, 1.0] {
            let said = browser.evaluate(&format!("quantile([{}], {q}) ?? null", pairs.join(",")));
            assert_eq!(said.as_f64(), distribution.quantile(q), "{q} of {buckets:?}");
        }
    }
}

#[live::test(once, browser)]
fn the_text_format_is_read_as_in_the_terminal() {
    let address = serve_page([], |_| BEFORE.to_owned());
    let mut browser = Browser::start(1000, 800);
    browser.open(&address);
    let text = "# HELP a A.\n# TYPE a gauge\na{b=\"x,\\\"y\\\\\\n}\u{2028}\",le=\"+Inf\"} 3\na 1e-05\n\
                b{c=\"\",} +Inf 1700000000\nd NaN\ne -2\n\nf { g = \"h\" , i=\"j\" } 7\n";
    let read = browser.evaluate(&format!(
        "[...parse({}).samples].flatMap(([name, samples]) => \
         samples.map(([series, value]) => [name, Object.fromEntries(series.labels), String(value)]))",
        json!(text)
    ));
    let expected = json!([
        ["a", {"b": "x,\"y\\\n}\u{2028}", "le": "+Inf"}, "3"],
        ["a", {}, "0.00001"],
        ["b", {"c": ""}, "Infinity"],
        ["d", {}, "NaN"],
        ["e", {}, "-2"],
        ["f", {"g": "h", "i": "j"}, "7"],
    ]);
    assert_eq!(read, expected);
    let scrape = Scrape::parse(text).unwrap();
    for line in expected.as_array().unwrap() {
        let (name, labels) = (line[0].as_str().unwrap(), line[1].as_object().unwrap());
        let labels =
            labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
        let value: f64 = line[2].as_str().unwrap().parse().unwrap();
        let read = scrape.value(name, &labels).unwrap();
        assert!(read == value || read.is_nan() && value.is_nan(), "{line}");
    }
    for wrong in ["<!doctype html>", "a", "a{b=\"c} 1", "a{b} 1", "a x", "{} 1", "a{b=\"\\", "é 1"] {
        let refused = format!(
            "(() => {{ try {{ parse({}); return false; }} catch {{ return true; }} }})()",
            json!(wrong)
        );
        assert_eq!(browser.evaluate(&refused), true, "{wrong}");
        assert!(Scrape::parse(wrong).is_err(), "{wrong}");
    }
    let grown =
        |interval: &Interval<'_>| interval.distributions(&Selector::all("wait_seconds"), &[]).is_some();
    let (before, after) = (Scrape::parse(BEFORE).unwrap(), Scrape::parse(AFTER).unwrap());
    // A counter that goes down is one that counts anew: nothing is known, here as there.
    for (first, second) in [(BEFORE, AFTER), (AFTER, BEFORE)] {
        let known = browser.evaluate(&format!(
            "(() => {{ const before = parse({}); \
             return !!distributions(intervalOf(before, parse({}), 2), 'wait_seconds', {{}}, () => ''); }})()",
            json!(first),
            json!(second)
        ));
        let pair = if first == BEFORE { (&before, &after) } else { (&after, &before) };
        assert_eq!(known, grown(&Interval::new(Some(pair.0), pair.1, 2.0)), "{first}");
    }
}
