// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the page draws of metrics that are known.

use std::fmt::Write;

use common::spec::Headline;
use headlines::amount::safe;
use headlines::{Distribution, Unit, amount::amount};
use live::browser::Browser;
use serde_json::json;

use super::heatmap::Heatmap;
use super::{itself, keep, serve_page, until_answers};

/// Bounds of buckets, in microseconds, as those of exporters: powers of two.
const BOUNDS: u32 = 25;

/// The lines of a histogram: at each of these latencies so many observations.
fn histogram(name: &str, labels: &str, observations: &[(u64, u64)]) -> String {
    let mut text = String::new();
    let up_to =
        |bound| observations.iter().filter(|(at, _)| *at <= bound).map(|(_, count)| count).sum::<u64>();
    let comma = if labels.is_empty() { "" } else { "," };
    for bound in (0..BOUNDS).map(|power| 1u64 << power) {
        writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {}", up_to(bound)).unwrap();
    }
    let count = up_to(u64::MAX);
    let sum: u64 = observations.iter().map(|(at, count)| at * count).sum();
    writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}").unwrap();
    writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}").unwrap();
    text
}

#[live::test(once, browser)]
fn the_bright_row_is_at_the_latency_and_p99_in_its_bucket() {
    // Of a hundred, 97 take 700 µs and 3 take 6 ms.
    let address = serve_page(
        [Headline::quantile("read p99 {value} on {device}", 0.99, "io_latency_microseconds")],
        |asked| {
            let asked = u64::from(asked) + 1;
            let device = |name: &str, observations: &[(u64, u64)]| {
                histogram(
                    "io_latency_microseconds",
                    &format!("device=\"{name}\",operation=\"read\""),
                    observations,
                )
            };
            itself(7, asked as u32)
                + "# HELP io_latency_microseconds Time of an I/O. From issue to completion.\n# TYPE io_latency_microseconds histogram\n"
                + &device("sda", &[(700, 97 * asked), (6000, 3 * asked)])
                + &device("sdb", &[(30, asked)])
        },
    );
    let mut expected = Distribution::default();
    for (bound, count) in
        [(512.0, 0.0), (1024.0, 97.0), (4096.0, 97.0), (8192.0, 100.0), (f64::INFINITY, 100.0)]
    {
        expected.add(bound, count);
    }
    let p99 = expected.quantile(0.99).unwrap();
    assert!(4096.0 < p99 && p99 <= 8192.0, "the known value is 6000: {p99}");
    let p99 = amount(p99, Unit::Microseconds);

    let mut browser = Browser::start(700, 900);
    browser.open(&address);
    until_answers(&mut browser, 5);
    browser.until(
        "the headline",
        &format!("document.getElementById('headline').innerText === 'read p99 {p99} on sda'"),
    );
    // Only that device, as a click or the keyboard chooses it.
    let heatmap = Heatmap("io_latency_microseconds");
    heatmap.choose(&mut browser, "sda");
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        browser.until("its colours", &format!("matchMedia('(prefers-color-scheme: {scheme})').matches"));
        browser.evaluate("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))");
        let read = heatmap.read_where_it_is_brightest(&mut browser);
        assert!(read.contains("; 512 µs to 1 ms: "), "{read}");
        assert!(read.contains(&format!("p99 (dashes) {p99}")), "{read}");
        browser.point(1.0, 1.0);
        keep(&mut browser, &format!("heatmap-{scheme}"));
    }
    // The keyboard reads single times.
    browser.evaluate("document.querySelector('canvas').focus()");
    browser.press("ArrowLeft");
    browser.until(
        "a time is read",
        &format!("/^\\d.*p99 \\(dashes\\) {p99}$/.test(document.querySelector('.read').innerText)"),
    );
    assert_eq!(browser.text("document.querySelector('.read').ariaLive"), "polite");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[live::test(once, browser)]
fn a_reset_is_a_gap_and_no_negative_rate() {
    // At the fourth answer the counter goes down; from the seventh on another process answers.
    let address = serve_page([Headline::rate("{value} calls/s", "calls_total").or("no calls")], |asked| {
        let value = [1000, 2000, 3000, 50, 1050, 2050, 10, 1010, 2010, 3010][asked.min(9) as usize];
        let (start, asked) = if asked < 6 { (7, asked + 1) } else { (8, asked - 5) };
        // The other process does not have this metric, as without eBPF.
        let gone = if start == 7 { "# TYPE gone_total counter\ngone_total 5\n" } else { "" };
        itself(start, asked)
            + gone
            + &format!("# TYPE calls_total counter\ncalls_total{{name=\"read\"}} {value}\n")
    });
    let mut browser = Browser::start(700, 700);
    browser.open(&address);
    until_answers(&mut browser, 9);
    let steps = "cards.get('calls_total').past.steps.map(({ all, seconds }) => all && all * seconds)";
    let grown: Vec<Option<f64>> = serde_json::from_value(browser.evaluate(steps)).unwrap();
    // Not known at first, where it went down, and where another process answered; else a thousand.
    let known = [None, Some(1000.0), Some(1000.0), None, Some(1000.0), Some(1000.0), None, Some(1000.0)];
    let rounded: Vec<Option<f64>> = grown.iter().map(|grown| grown.map(f64::round)).collect();
    assert_eq!(rounded[..8], known);
    assert_eq!(browser.evaluate("cards.get('gone_total').element.hidden"), true);
    let shown = browser.text("document.body.innerText");
    assert!(shown.contains("started again"), "{shown}");
    assert!(!shown.contains("-1") && !shown.contains("-2"), "{shown}");
    assert_eq!(browser.complaints(), [""; 0]);
    keep(&mut browser, "restart");
}

#[live::test(once, browser)]
fn ten_thousand_series_stay_usable() {
    // 320 histograms of 28 lines, and 1,040 counters, all of which grow.
    let address = serve_page(
        [Headline::quantile("p99 {value} on {device}", 0.99, "io_latency_microseconds")],
        |asked| {
            let count = u64::from(asked) + 1;
            let mut text = itself(7, asked + 1) + "# TYPE io_latency_microseconds histogram\n";
            for n in 0..320u64 {
                let observations = [(n + 1, count * n), (1000, count * 50), (100_000, count)];
                text += &histogram("io_latency_microseconds", &format!("device=\"disk{n}\""), &observations);
            }
            text += "# TYPE calls_total counter\n";
            for n in 0..1040u64 {
                writeln!(text, "calls_total{{name=\"call{n}\",process=\"some-program\"}} {}", n * count)
                    .unwrap();
            }
            text
        },
    );
    let mut browser = Browser::start(1300, 900);
    browser.open(&address);
    until_answers(&mut browser, 2);
    let series = browser.evaluate("last.series.size");
    assert!(series.as_u64().unwrap() >= 10_000, "{series}");
    let mut times = Vec::new();
    for answers in 3..9 {
        until_answers(&mut browser, answers);
        times.push(browser.evaluate("took").as_f64().unwrap());
    }
    // The median: this machine may be busy.
    times.sort_by(f64::total_cmp);
    live::tell(&format!(
        "10,000 series: a refresh takes {:.0} ms, {:.0} to {:.0}",
        times[3], times[0], times[5]
    ));
    assert!(times[3] < 200.0, "{times:?}");
    // Each answer adds as many observations, also those of series that are not shown.
    let added = (0..320).map(|n| n + 51).sum::<u64>();
    let whole = format!(
        "(() => {{ const {{ past }} = cards.get('io_latency_microseconds'); \
         return sum(past.total()) === past.steps.filter(({{ all }}) => all).length * {added}; }})()"
    );
    assert_eq!(browser.evaluate(&whole), true);
    let rows = browser.evaluate("document.querySelectorAll('tbody tr').length");
    assert!(rows.as_u64().unwrap() < 40, "{rows}");
    keep(&mut browser, "ten-thousand");
}

#[live::test(once, browser)]
fn hostile_labels_are_text() {
    let labels = [
        "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>".to_owned(),
        "\"quotes\" 'and' \\ back & {{name}}".to_owned(),
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{202e}txt\u{2066}".to_owned(),
        "x".repeat(300),
        "__proto__".to_owned(),
    ];
    let names = labels.clone();
    let address = serve_page([Headline::rate("top: {process} {value}/s", "calls_total")], move |asked| {
        let mut text = itself(7, asked + 1);
        text += "# HELP calls_total Calls <b>by</b> name. </script><script>window.broken = 1</script>\n# TYPE calls_total counter\n";
        for (at, label) in names.iter().enumerate() {
            let escaped = label.replace('\\', "\\\\").replace('"', "\\\"");
            writeln!(
                text,
                "calls_total{{process=\"{escaped}\",__proto__=\"x\"}} {}",
                asked as usize * (100 - at)
            )
            .unwrap();
        }
        text
    });
    let mut browser = Browser::start(390, 844);
    browser.open(&address);
    until_answers(&mut browser, 3);
    let cells = browser
        .evaluate("[...document.querySelectorAll('td bdi:first-child')].map((cell) => cell.textContent)");
    let expected: Vec<String> = labels.iter().map(|label| safe(label, 400)).collect();
    assert_eq!(cells, json!(expected));
    let broken = browser.evaluate("[window.broken ?? null, document.querySelectorAll('script, img').length]");
    assert_eq!(broken, json!([null, 1]));
    // As wide as the phone, and no wider.
    assert_eq!(browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), true);
    assert!(
        browser.text("document.getElementById('question').textContent").contains("does the page <draw>?")
    );
    assert_eq!(browser.complaints(), [""; 0]);
    keep(&mut browser, "phone");
}
