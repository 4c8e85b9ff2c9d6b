// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel also sends private and preshared keys. They must not be in the output, nor in a core
//! dump of the process.

use std::process::Command;
use std::time::Duration;

use live::exporter::{Exporter, get};
use live::exposition::Exposition;
use live::wireguard::{KEYS, Tunnel, key};
use live::{sh, wait_until};

#[live::test(kprobes, module("wireguard"), tool("wg"), own_machine, once)]
fn private_keys_are_nowhere() {
    let tunnel = Tunnel::new("");
    let secrets = ["a.key", "b.key", "c.key", "psk"].map(key);
    // The file of names also has a private key.
    sh(&format!(
        "{{ echo '[Interface]'; echo PrivateKey = $(cat {KEYS}/c.key); echo '[Peer]'
            echo '# friendly_name = the right one'; echo PublicKey = $(cat {KEYS}/b.pub)
            echo PresharedKey = $(cat {KEYS}/psk); }} > /run/names.conf
        echo /run/core > /proc/sys/kernel/core_pattern"
    ));
    let shell = "ulimit -c unlimited; exec ebpf-wireguard-exporter --log.level debug \"$@\"";
    let exporter = Exporter::spawn(Command::new("sh").args([
        "-c",
        shell,
        "sh",
        "--wireguard.detail",
        "packet",
        "--wireguard.peer-names",
        "/run/names.conf",
        "--wireguard.full-keys",
    ]));
    tunnel.exchange("left", "right", "10.98.0.2", 3);
    let (_, text) = get(exporter.port(), "/metrics");
    let named = [("peer", &*key("b.pub")), ("name", "the right one")];
    assert_eq!(Exposition::parse(&text).get("ebpf_wireguard_peer_info", &named), Some(1.0), "{text}");
    // All output, at the most verbose log level.
    let said = Command::new("ebpf-wireguard-exporter")
        .args(["--once=2s", "--log.level=debug", "--wireguard.detail=packet"])
        .arg("--wireguard.peer-names=/run/names.conf")
        .output()
        .unwrap();
    let said = [text.as_bytes(), &said.stdout, &said.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("level=debug") || said.contains("level=info"), "{said}");
    sh(&format!("kill -ABRT {}", exporter.pid()));
    wait_until("the core is there", Duration::from_secs(30), || {
        !std::path::Path::new(&format!("/proc/{}", exporter.pid())).exists()
            || sh(&format!("cat /proc/{}/stat", exporter.pid())).contains(") Z ")
    });
    let core = std::fs::read("/run/core").unwrap();
    assert!(core.len() > 1_000_000, "{} bytes", core.len());
    let has = |needle: &[u8]| {
        let (start, length) = (core.as_ptr().cast(), core.len());
        // SAFETY: both are slices, of these lengths.
        let found = unsafe { libc::memmem(start, length, needle.as_ptr().cast(), needle.len()) };
        !found.is_null()
    };
    let raw = |text: &str| {
        let bytes = sh(&format!("echo {text} | base64 -d | od -An -v -tx1 | tr -d ' \\n'"));
        (0..bytes.len()).step_by(2).map(|at| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap()).collect()
    };
    // Check that the core dump has public keys, as bytes.
    let public: Vec<u8> = raw(&key("b.pub"));
    assert!(has(&public));
    for secret in &secrets {
        let bytes: Vec<u8> = raw(secret);
        assert_eq!(bytes.len(), 32);
        assert!(!said.contains(secret.as_str()), "a private key is shown");
        assert!(!has(secret.as_bytes()) && !has(&bytes), "a private key is in the process's memory");
    }
    sh("rm /run/core /run/names.conf");
}
