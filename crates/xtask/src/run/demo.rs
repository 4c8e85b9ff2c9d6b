// SPDX-License-Identifier: MIT OR Apache-2.0
//! `make demo`: a guest with activity of all kinds. Its ports are forwarded to this machine.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::guest::Guest;
use crate::guest::accel::Accel;
use crate::guest::image::remove;
use crate::guest::suites::SUITES;
use crate::release::package;
use crate::workspace::{exporters, root};

/// A port of the guest plus this is the port on this machine's loopback address.
const OFFSET: u16 = 10_000;

/// Prometheus' port.
const PROMETHEUS: u16 = 9090;

/// About 34 years.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// Boots the guest and runs it until this process ends.
///
/// # Errors
/// When the package or the guest cannot be built, the guest does not boot, or a port is taken.
pub fn run(accel: Option<Accel>) -> Result<()> {
    let suite = SUITES.first().context("no guests")?;
    let payload = root().join("target/demo/payload");
    remove(&payload)?;
    fs::create_dir_all(&payload)?;
    fs::copy(package::deb()?, payload.join("ebpf-exporters.deb"))?;
    fs::copy(root().join("scripts/demo"), payload.join("run"))?;
    let mut ports = vec![("prometheus".to_owned(), PROMETHEUS)];
    // The guest has no programs of users.
    for exporter in exporters()?.into_iter().filter(|exporter| exporter.built_in) {
        let path = format!("prometheus/jobs/{}.yml", exporter.name);
        let job = fs::read_to_string(root().join(&path)).with_context(|| path.clone())?;
        let port = job.split_once("localhost:").and_then(|(_, rest)| rest.split('"').next()?.parse().ok());
        ports.push((exporter.name, port.with_context(|| format!("{path}: no target"))?));
    }
    let forwarded = ports
        .iter()
        .map(|(_, port)| format!(",hostfwd=tcp:127.0.0.1:{}-:{port}", port + OFFSET))
        .collect::<String>();
    println!("booting Debian {} in a virtual machine; nothing of this machine is looked at", suite.name);
    let started = Instant::now();
    let mut say = |line: &str| {
        println!("{line} after {} s", started.elapsed().as_secs());
        if line.starts_with("all ") {
            for (name, port) in &ports {
                // Those of exporters are their pages, with links to their metrics.
                let path = if *port == PROMETHEUS { "graph" } else { "" };
                println!("{name:<14} http://127.0.0.1:{}/{path}", port + OFFSET);
            }
            println!("Ctrl-C ends it.");
        }
    };
    let network = format!("user,model=virtio-net-pci{forwarded}");
    Guest::of(suite, accel)?.run(&payload, &root().join("target/demo/guest"), &network, FOR_EVER, &mut say)
}
