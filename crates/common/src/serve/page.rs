// SPDX-License-Identifier: MIT OR Apache-2.0
//! The landing page: a file that draws the metrics in the browser, and that the binary contains compressed.
//!
//! It is made of the files in `page/` by `build/page.rs`. An exporter adds a few words. The browser asks for
//! `/headlines` and for the metrics, so that nothing is kept here for it.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;
use headlines::Page;

use crate::serve::http::Reply;

/// The page, in zlib's format.
const PAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/page.z"));

/// What the page may do: run its own script, and ask this exporter.
const POLICY: &str = include_str!(concat!(env!("OUT_DIR"), "/policy.txt"));

/// The landing page of the exporter that `page` describes.
pub fn landing(page: &Page) -> Reply {
    let html = match inflated() {
        Ok(html) => filled(html, page),
        Err(error) => return Reply::text(500, &format!("failed to read the page: {error}")),
    };
    let mut reply = Reply::new(200, "text/html; charset=utf-8", html.into_bytes());
    reply.say("Content-Security-Policy", POLICY);
    reply.say("X-Content-Type-Options", "nosniff");
    reply.say("Referrer-Policy", "no-referrer");
    // After an upgrade it is another page.
    reply.say("Cache-Control", "no-cache");
    reply
}

fn inflated() -> io::Result<String> {
    let mut html = String::new();
    ZlibDecoder::new(PAGE).read_to_string(&mut html)?;
    Ok(html)
}

/// The page with the words of an exporter.
fn filled(html: String, page: &Page) -> String {
    // Relative, so that the page also works behind a proxy that serves it below a path of its own.
    let metrics = format!(".{}", page.metrics);
    let words = [
        ("{{name}}", &*page.exporter),
        ("{{question}}", &*page.summary),
        ("{{version}}", &*page.version),
        ("{{metrics}}", &*metrics),
    ];
    words.into_iter().fold(html, |html, (mark, word)| html.replace(mark, &escaped(word)))
}

/// Text as it is written in HTML.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '&' => html.push_str("&amp;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_text_and_the_rest_is_in_the_page() {
        let page = Page {
            exporter: "test".into(),
            version: "1.2.3".into(),
            summary: "is a < b, \"quoted\" & 'so'?".into(),
            metrics: "/a\"><script>".into(),
            headlines: Vec::new(),
        };
        let reply = landing(&page);
        let html = String::from_utf8(reply.body).expect("text");
        assert!(
            html.contains("<p id=\"question\">is a &lt; b, &quot;quoted&quot; &amp; &#39;so&#39;?</p>"),
            "{html}"
        );
        assert!(html.contains("href=\"./a&quot;&gt;&lt;script&gt;\""), "{html}");
        assert!(html.contains("<title>ebpf-test-exporter</title>") && html.contains("1.2.3"), "{html}");
        assert_eq!((html.matches("<script").count(), html.matches("<style").count()), (1, 1));
        for outside in ["{{", "src=", "http:", "https:", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}: {html}");
        }
    }
}
