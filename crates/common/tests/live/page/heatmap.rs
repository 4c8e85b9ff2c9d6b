// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads what a heatmap of the page shows.

use live::browser::Browser;

/// The heatmap of a metric.
pub struct Heatmap(pub &'static str);

impl Heatmap {
    /// Its part of the page, as an expression.
    fn card(&self) -> String {
        format!("cards.get('{}')", self.0)
    }

    /// Shows only the series that has this label, as a click or the keyboard chooses it.
    #[track_caller]
    pub fn choose(&self, browser: &mut Browser, label: &str) {
        let card = self.card();
        let buttons = format!("[...{card}.element.querySelectorAll('td button')]");
        // Only what is seen is drawn.
        browser.evaluate(&format!("{card}.element.scrollIntoView()"));
        browser.until("its table", &format!("{buttons}.length > 0"));
        browser.evaluate(&format!("if (!{card}.button.parentNode.hidden) {card}.button.click()"));
        browser.until("the series", &format!("{buttons}.some((b) => b.innerText.includes('{label}'))"));
        browser.evaluate(&format!("{buttons}.find((b) => b.innerText.includes('{label}')).focus()"));
        browser.press("Enter");
    }

    /// For each height how far it is from its background, on the mean of its last steps.
    fn rows(&self, browser: &mut Browser) -> Vec<f64> {
        let rows = browser.evaluate(&format!(
            "(() => {{
                const {{ plot }} = {};
                const {{ canvas }} = plot;
                const from = Math.ceil(plot.x(plot.steps.at(-3).time)), width = Math.floor(plot.right - 2 - from);
                const {{ data }} = plot.context.getImageData(from, 0, width, canvas.height);
                const back = colours.heat[0];
                return Array.from({{ length: Math.floor(plot.bottom) - 1 }}, (_, y) => {{
                    let apart = 0;
                    for (let x = 0; x < width; x++) {{
                        const at = (y * width + x) * 4;
                        if (data[at + 3]) for (const part of [0, 1, 2]) apart += Math.abs(data[at + part] - back[part]);
                    }}
                    return apart / width;
                }});
            }})()",
            self.card()
        ));
        serde_json::from_value(rows).unwrap()
    }

    /// Points at the brightest row, at the latest time, and returns what the page says of it.
    ///
    /// # Panics
    /// When nothing is drawn.
    #[track_caller]
    pub fn read_where_it_is_brightest(&self, browser: &mut Browser) -> String {
        let card = self.card();
        browser.evaluate(&format!("{card}.plot.canvas.scrollIntoView({{ block: 'center' }})"));
        let rows = self.rows(browser);
        // Lines of p50 and p99 are thinner than a row.
        let smooth = |y: &usize| rows[y - 4..=y + 4].iter().sum::<f64>();
        let bright = (4..rows.len() - 4).max_by(|a, b| smooth(a).total_cmp(&smooth(b))).unwrap();
        assert!(smooth(&bright) > 1000.0, "something is drawn: {rows:?}");
        let place = browser.evaluate(&format!(
            "(() => {{ const {{ right, top }} = {card}.plot.canvas.getBoundingClientRect(); return [right - 14, top]; }})()"
        ));
        browser.point(place[0].as_f64().unwrap(), place[1].as_f64().unwrap() + bright as f64);
        let read = format!("{card}.element.querySelector('.read').innerText");
        browser.until("it is pointed at", &format!("{read}.includes(';')"));
        browser.text(&read)
    }
}
