// SPDX-License-Identifier: MIT OR Apache-2.0
//! TLS and passwords: of a unit that gets them as credentials, and of an exporter whose module is
//! loaded later.

use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use live::exporter::{unit_becomes, unit_state};
use live::exposition::Exposition;
use live::work::Running;
use live::{sh, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::MEMORY;

const FOLDER: &str = "/etc/ebpf-exporters";
const UNIT: &str = "ebpf-diskio-exporter";
const DROP_IN: &str = "/etc/systemd/system/ebpf-diskio-exporter.service.d";

/// Time limit for a start, which is slow under emulation.
const LIMIT: Duration = Duration::from_secs(180);

/// bcrypt hash of "sesame", with a low cost.
const HASH: &str = "$2y$05$AOiHAOiHAOiHAOiHAOiHAOMzJVTPhcbpEzDStSol2ygw6mOUdHR8i";

/// The settings that docs/operations.md describes. Dropping this removes them.
struct Settings;

impl Settings {
    fn new() -> Self {
        let settings = Self;
        fs::create_dir_all(FOLDER).unwrap();
        fs::create_dir_all(DROP_IN).unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate with the same name as its authority for a self-signed one.
        authority.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &authority).unwrap();
        let config = format!(
            "tls_server_config: {{cert_file: web.crt, key_file: web.key}}\nbasic_auth_users: {{alice: {HASH}}}\n"
        );
        let flag = format!("ARGS=--web.config.file=/run/credentials/{UNIT}.service/web.yml\n");
        let credentials = ["web.yml", "web.crt", "web.key"];
        let credentials = credentials.map(|name| format!("LoadCredential={name}:{FOLDER}/{name}\n")).concat();
        for (path, text) in [
            (format!("{FOLDER}/ca.crt"), authority.pem()),
            (format!("{FOLDER}/web.crt"), certificate.pem()),
            (format!("{FOLDER}/web.key"), key.serialize_pem()),
            (format!("{FOLDER}/web.yml"), config),
            (format!("/etc/default/{UNIT}"), flag),
            (format!("{DROP_IN}/web.conf"), format!("[Service]\n{credentials}")),
        ] {
            fs::write(&path, text).unwrap();
        }
        sh(&format!("chmod 600 {FOLDER}/web.key; systemctl daemon-reload"));
        settings
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let line = format!(
            "systemctl stop {UNIT}; rm {FOLDER}/web.* {FOLDER}/ca.crt; rm -r {DROP_IN} /etc/default/{UNIT}
             rmdir --ignore-fail-on-non-empty {FOLDER}; systemctl daemon-reload"
        );
        let _ = Command::new("sh").args(["-c", &line]).status();
    }
}

/// HTTP status and body that curl got.
fn ask(port: u16, options: &str) -> (String, String) {
    let status = sh(&format!(
        "rm -f /tmp/answer; curl -s -o /tmp/answer -w '%{{http_code}}' --max-time 60 \
         --resolve localhost:{port}:127.0.0.1 {options} || :"
    ));
    (status, fs::read_to_string("/tmp/answer").unwrap_or_default())
}

fn asks_well(port: u16) -> String {
    format!("--cacert {FOLDER}/ca.crt -u alice:sesame https://localhost:{port}")
}

fn fronts() -> Vec<String> {
    sh("pgrep -x ebpf-exporters- || :").lines().map(ToOwned::to_owned).collect()
}

#[live::test(own_machine, once)]
fn a_unit_speaks_tls_and_asks_for_a_password() {
    let _settings = Settings::new();
    sh(&format!("systemctl restart {UNIT}"));
    let good = asks_well(9101);
    let (status, text) = ask(9101, &format!("{good}/metrics"));
    assert_eq!(status, "200");
    let scraped = Exposition::parse(&text);
    assert!(scraped.get("ebpf_exporter_build_info", &[]).is_some(), "{text}");
    assert!(scraped.get("process_resident_memory_bytes", &[]).unwrap() <= MEMORY);
    assert_eq!(ask(9101, &good.replace("sesame", "sesam")).0, "401");
    assert_eq!(ask(9101, &good.replace("-u alice:sesame", "")).0, "401");
    // Neither plain HTTP nor a certificate of an unknown authority works.
    assert_eq!(ask(9101, &good.replace("https", "http")).0, "000");
    assert_eq!(ask(9101, &format!("-u alice:sesame https://localhost:{}", 9101)).0, "000");

    let [front] = fronts().try_into().expect("one");
    let pid = sh(&format!("systemctl show -P MainPID {UNIT}"));
    let capabilities =
        sh(&format!("cat /proc/{front}/status /proc/{pid}/task/*/status | sed -n 's/^CapEff:\t//p'"));
    assert!(capabilities.lines().count() > 3);
    // CAP_BPF is 39. Before 5.19, reading maps requires it.
    assert!(
        capabilities.lines().all(|line| u64::from_str_radix(line, 16).unwrap() & !(1 << 39) == 0),
        "{capabilities}"
    );
    // A signal to the whole unit is for the exporter.
    sh(&format!("systemctl kill -s USR1 {UNIT}"));
    assert_eq!(ask(9101, &format!("{good}/metrics")).0, "200");
    assert_eq!((fronts(), sh(&format!("systemctl show -P MainPID {UNIT}"))), (vec![front.clone()], pid));
    // The exporter's own socket answers nobody else, not even root.
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let name = sockets.split_whitespace().find_map(|word| word.strip_prefix("@ebpf-exporters-web/")).unwrap();
    let name = SocketAddr::from_abstract_name(format!("ebpf-exporters-web/{name}")).unwrap();
    let mut behind = UnixStream::connect_addr(&name).unwrap();
    let mut answer = Vec::new();
    // The exporter may close the connection before or after this is written.
    let _ = behind.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
    let _ = behind.read_to_end(&mut answer);
    assert_eq!(answer, b"");

    sh(&format!("kill -KILL {front}"));
    wait_until("systemd starts both again", LIMIT, || ask(9101, &format!("{good}/metrics")).0 == "200");
    unit_becomes(UNIT, "active");
    assert_ne!(fronts(), [front]);
    sh(&format!("systemctl stop {UNIT}"));
    assert_eq!(unit_state(UNIT), "inactive");
    fs::write(format!("{FOLDER}/web.yml"), "tls_server_confg: {}\n").unwrap();
    assert!(!Command::new("systemctl").args(["restart", UNIT]).status().unwrap().success());
    let said = sh(&format!("journalctl -u {UNIT} -n 30 -o cat"));
    assert!(said.contains("tls_server_confg"), "{said}");
}

#[live::test(kprobes, module("wireguard"), own_machine, once)]
fn an_exporter_that_starts_over_speaks_tls_again() {
    let _settings = Settings::new();
    sh("modprobe -r wireguard || :");
    assert!(!Path::new("/sys/module/wireguard").exists());
    let _exporter = Running::start(
        Command::new("ebpf-wireguard-exporter")
            .args(["--web.listen-address", "127.0.0.1:19199"])
            .arg(format!("--web.config.file={FOLDER}/web.yml")),
    );
    let good = asks_well(19199);
    wait_until("it waits", LIMIT, || ask(19199, &format!("{good}/-/ready")).0 == "503");
    let [first] = fronts().try_into().expect("one");
    sh("modprobe wireguard");
    wait_until("it has started over", LIMIT, || ask(19199, &format!("{good}/-/ready")).0 == "200");
    let [second] = fronts().try_into().expect("one");
    assert_ne!(first, second);
}
