// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ebpf-exporters top` shows, compared with what was done, as a user without privileges.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use live::Folder;
use live::exporter::Exporter;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

/// bcrypt hash of "sesame", with a low cost.
const HASH: &str = "$2y$05$AOiHAOiHAOiHAOiHAOiHAOMzJVTPhcbpEzDStSol2ygw6mOUdHR8i";

/// System calls made at once, every ten milliseconds.
const BURST: u64 = 500;

/// Runs it as the user who has no rights, and whose home has none of our programs.
fn top(folder: &Folder, arguments: &[&str]) -> Output {
    let binary = folder.path("ebpf-exporters");
    if !fs::exists(&binary).unwrap() {
        let from = live::sh("command -v ebpf-exporters");
        fs::copy(from.trim(), &binary).unwrap();
        fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", &binary, "top"]).args(arguments);
    command.output().unwrap()
}

/// The line of an exporter.
fn line(output: &Output, name: &str) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{text}{said}")).to_owned()
}

#[live::test(tool("setpriv"))]
fn a_headline_agrees_with_what_was_done() {
    let exporter = Exporter::start("syscall", &[]);
    let (made, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    let (output, rate) = thread::scope(|scope| {
        scope.spawn(|| {
            for burst in 1.. {
                for _ in 0..BURST {
                    // SAFETY: it takes no arguments and changes nothing.
                    unsafe { libc::syscall(libc::SYS_getpgrp) };
                }
                made.fetch_add(BURST, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // Not a wait for an event: keeps the rate even.
                thread::sleep(
                    (started + burst * Duration::from_millis(10)).saturating_duration_since(Instant::now()),
                );
            }
        });
        let address = format!("127.0.0.1:{}", exporter.port());
        let output = top(&Folder::new(), &["--once", "--interval=3s", &address]);
        let rate = made.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        (output, rate)
    });
    assert!(output.status.success(), "{output:?}");
    let line = line(&output, "syscall");
    assert!(line.contains(" running "), "{line}");
    let shown = line.split_once("top: getpgrp ").and_then(|(_, rest)| rest.split_once("k/s")).map(|(n, _)| n);
    let shown: f64 = shown.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
    let shown = shown * 1000.0;
    assert!((shown / rate - 1.0).abs() < 0.1, "{shown} a second, {rate} were made: {line}");
}

#[live::test(once, tool("script"))]
fn keys_open_an_exporter_and_the_terminal_is_given_back() {
    let exporter = Exporter::start("process", &[]);
    let line = format!("stty rows 30 cols 120; ebpf-exporters top 127.0.0.1:{}", exporter.port());
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = script.spawn().unwrap();
    let (mut keys, mut screen) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
    let mut shown = String::new();
    let mut until = |what: &str| {
        let mut buffer = [0; 4096];
        while !shown.contains(what) {
            let n = screen.read(&mut buffer).unwrap();
            assert_ne!(n, 0, "no {what:?} in {shown}");
            shown += &String::from_utf8_lossy(&buffer[..n]);
        }
        std::mem::take(&mut shown)
    };
    assert!(until("running").contains("\u{1b}[?1049h"), "it has a screen of its own");
    keys.write_all(b"\x1b[C").unwrap();
    until("METRIC");
    keys.write_all(b"q").unwrap();
    until("\u{1b}[?1049l");
    assert!(script.wait().unwrap().success());
}

#[live::test(once, tool("setpriv"))]
fn it_speaks_tls_and_knows_a_password() {
    let folder = Folder::new();
    let authority = CertifiedIssuer::self_signed(CertificateParams::default(), KeyPair::generate().unwrap());
    let authority = authority.unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap();
    for (name, text) in [
        ("ca.crt", authority.pem()),
        ("web.crt", certificate.pem()),
        ("web.key", key.serialize_pem()),
        (
            "web.yml",
            format!(
                "tls_server_config: {{cert_file: web.crt, key_file: web.key}}\nbasic_auth_users: {{alice: {HASH}}}\n"
            ),
        ),
        (
            "top.yml",
            "scheme: https\nbasic_auth: {username: alice, password: sesame}\ntls_config: {ca_file: ca.crt}\n"
                .to_owned(),
        ),
        (
            "wrong.yml",
            "scheme: https\nbasic_auth: {username: alice, password: no}\ntls_config: {ca_file: ca.crt}\n"
                .to_owned(),
        ),
    ] {
        fs::write(folder.path(name), text).unwrap();
    }
    let exporter = Exporter::start("process", &[&format!("--web.config.file={}", folder.path("web.yml"))]);
    let address = format!("localhost:{}", exporter.port());
    let ask = |config: &str| {
        top(&folder, &["--once", "--interval=1s", &format!("--web.config={}", folder.path(config)), &address])
    };
    let output = ask("top.yml");
    assert!(output.status.success(), "{output:?}");
    assert!(line(&output, "process").contains(" running "), "{output:?}");
    let refused = ask("wrong.yml");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(line(&refused, "?").contains("asks for a name and a password"), "{refused:?}");
    let plain = top(&folder, &["--once", "--interval=1s", &address]);
    assert!(line(&plain, "?").contains("speaks TLS"), "{plain:?}");
    let unknown = top(&folder, &["--once", "--interval=1s", &format!("https://{address}")]);
    assert!(line(&unknown, "?").contains("UnknownIssuer"), "{unknown:?}");
}
