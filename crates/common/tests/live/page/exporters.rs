// SPDX-License-Identifier: MIT OR Apache-2.0
//! The page of exporters that run: killed and started again, with TLS and a password, and with another
//! path.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use live::Folder;
use live::browser::Browser;
use live::exporter::Exporter;
use live::work::{Stop, wait_for_no_signal};
use rcgen::{CertificateParams, KeyPair};
use rustix::process::Signal;

use super::heatmap::Heatmap;
use super::{keep, until_answers};

/// bcrypt hash of "sesame", with a low cost.
const HASH: &str = "$2y$05$AOiHAOiHAOiHAOiHAOiHAOMzJVTPhcbpEzDStSol2ygw6mOUdHR8i";

#[live::test(once, browser)]
fn an_exporter_that_is_killed_and_started_again_is_seen_to_be() {
    let exporter = Exporter::start("process", &[]);
    let port = exporter.port();
    let mut browser = Browser::start(1300, 1000);
    browser.open(&format!("http://127.0.0.1:{port}/"));
    until_answers(&mut browser, 3);
    let state = "document.getElementById('state').innerText";
    // On some kernels it lacks a probe, and says so.
    assert!(browser.text(state).starts_with("Running"), "{}", browser.text(state));
    browser.until("it asks for CPU time", "document.getElementById('headline').innerText.includes('CPUs')");
    let itself = browser.text("document.getElementById('itself').innerText");
    assert!(itself.contains("attached") && itself.contains("Nothing was lost"), "{itself}");
    keep(&mut browser, "process");
    assert_eq!(browser.complaints(), [""; 0]);

    exporter.end(Signal::KILL);
    browser.until("its silence is told", &format!("{state}.includes('does not answer since')"));
    assert_eq!(browser.evaluate("document.body.classList.contains('stale')"), true);
    let _exporter = Exporter::start("process", &[&format!("--web.listen-address=127.0.0.1:{port}")]);
    browser.until("its start is told", &format!("/^Running; started again/.test({state})"));
    assert_eq!(browser.evaluate("document.body.classList.contains('stale')"), false);
    // Steps before the start are kept, and none has a negative rate.
    let least = "Math.min(...[...cards.values()].flatMap(({ past }) => past.steps.map(({ all }) => (typeof all === 'number' ? all : 0))))";
    assert_eq!(browser.evaluate(least), 0);
    // The browser logs that it was refused, and nothing else.
    let complaints = browser.complaints();
    assert!(
        complaints.iter().all(|line| line.contains("ERR_CONNECTION_REFUSED")
            || line.contains("ERR_EMPTY_RESPONSE")
            || line.contains("ERR_CONNECTION_RESET")),
        "{complaints:?}"
    );
}

#[live::test(once, browser)]
fn it_works_with_tls_a_password_a_path_and_a_policy() {
    let folder = Folder::new();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(folder.path("web.crt"), certificate.pem()).unwrap();
    fs::write(folder.path("web.key"), key.serialize_pem()).unwrap();
    let config = format!(
        "tls_server_config: {{cert_file: web.crt, key_file: web.key}}\nbasic_auth_users: {{alice: {HASH}}}\n\
         http_server_config:\n  headers:\n    Content-Security-Policy: \"default-src 'self'\"\n    X-Frame-Options: deny\n"
    );
    fs::write(folder.path("web.yml"), config).unwrap();
    let config = format!("--web.config.file={}", folder.path("web.yml"));
    let exporter = Exporter::start("process", &[&config, "--web.telemetry-path=/own/numbers"]);
    let mut browser = Browser::start(1300, 1000);
    // The password is in the page's own address, as in a bookmark.
    browser.open(&format!("https://alice:sesame@localhost:{}/", exporter.port()));
    until_answers(&mut browser, 3);
    let state = browser.text("document.getElementById('state').innerText");
    assert!(state.starts_with("Running"), "{state}");
    assert_eq!(browser.text("new URL(document.getElementById('metrics').href).pathname"), "/own/numbers");
    assert_eq!(browser.complaints(), [""; 0]);
    keep(&mut browser, "tls");
}

/// Time of each system call: in the bucket from 2^16 to 2^17 us.
const WAIT: Duration = Duration::from_millis(90);

#[live::test(once, browser)]
fn calls_of_a_known_time_are_in_the_bright_row() {
    let exporter = Exporter::start("syscall", &["--syscall.latency"]);
    let mut browser = Browser::start(1300, 1000);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                wait_for_no_signal(WAIT);
            }
        });
        let _stop = Stop(&stop);
        browser.open(&format!("http://127.0.0.1:{}/", exporter.port()));
        until_answers(&mut browser, 3);
        let heatmap = Heatmap("ebpf_syscall_latency_microseconds");
        heatmap.choose(&mut browser, "rt_sigtimedwait");
        // Each step is long enough for calls.
        browser.evaluate("pace.period = pace.second = 1000");
        let answers = browser.evaluate("answers").as_u64().unwrap();
        browser.until("further steps", &format!("answers >= {}", answers + 4));
        let read = heatmap.read_where_it_is_brightest(&mut browser);
        assert!(read.contains("; 66 ms to 131 ms: "), "{read}");
        keep(&mut browser, "syscall");
        let quantile = |name: &str| {
            let (_, rest) =
                read.split_once(&format!("{name} ")).unwrap_or_else(|| panic!("no {name}: {read}"));
            let number = rest.split(' ').next().unwrap().parse::<f64>().unwrap();
            assert!(rest[number.to_string().len()..].starts_with(" ms"), "{read}");
            number
        };
        for name in ["p50 (line)", "p99 (dashes)"] {
            assert!((65.0..=131.0).contains(&quantile(name)), "{read}");
        }
    });
}
