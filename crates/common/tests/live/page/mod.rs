// SPDX-License-Identifier: MIT OR Apache-2.0
//! The landing page in a real browser: what it computes (`numbers.rs`), what it draws of metrics that a
//! test makes up (`drawn.rs`), and of those of exporters (`exporters.rs`).

mod drawn;
mod exporters;
mod heatmap;
mod numbers;

use std::path::Path;
use std::sync::{Arc, Mutex};

use common::exposition::native::Schema;
use common::read::engine::Engine;
use common::serve::http::{Limits, Reply, Request, bind, serve};
use common::serve::site::Site;
use common::spec::{Headline, Spec};
use live::browser::Browser;

/// Metrics of every exporter, as a process says them that started at `start` and was asked `asked` times.
fn itself(start: u32, asked: u32) -> String {
    format!(
        "# TYPE ebpf_exporter_mode gauge\nebpf_exporter_mode{{mode=\"ebpf\"}} 1\n\
         # TYPE ebpf_exporter_scrapes_total counter\nebpf_exporter_scrapes_total {asked}\n\
         # TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {start}\n"
    )
}

/// Serves the real page with metrics that `answer` makes, which is told how often it was asked before.
/// Returns the address.
fn serve_page(
    headlines: impl IntoIterator<Item = Headline>,
    answer: impl Fn(u32) -> String + Send + Sync + 'static,
) -> String {
    let spec = Spec::new("fixture", 1, "does the page <draw>?").headlines(headlines);
    let site = Site::new(&spec, "/metrics", 1, Schema::FINEST, Arc::new(Engine::default()));
    let listener = bind(&["127.0.0.1:0".to_owned()]).expect("a free port").remove(0);
    let address = format!("http://{}/", listener.local_addr().expect("bound"));
    let asked = Mutex::new(0);
    let handler = move |request: &Request| {
        if request.path != "/metrics" {
            return site.answer(request);
        }
        let mut asked = asked.lock().unwrap();
        let text = answer(*asked);
        *asked += 1;
        Reply::new(200, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
    };
    serve(listener.into(), Limits::default(), |_| true, handler).expect("served");
    address
}

/// Waits until the page has had so many answers, for which it asks faster than for people.
#[track_caller]
fn until_answers(browser: &mut Browser, least: u32) {
    browser.evaluate("pace.period = pace.second = 200");
    browser.until(&format!("{least} answers"), &format!("answers >= {least}"));
}

/// Keeps a picture of the page, for people to look at.
fn keep(browser: &mut Browser, name: &str) {
    browser.picture(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page/{name}.png")));
}
