// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own number of connections, over all network namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// The sum of `CurrEstab` over all network namespaces that have a process.
///
/// `/proc/PID/net` shows the namespace of a process to everyone, and the files of each namespace
/// have their own inodes. Entering a namespace, or asking for its identity, would need more
/// privileges. A namespace with sockets but without a process is not seen. The caller must know
/// that no processes are hidden.
///
/// # Errors
/// When /proc cannot be read.
pub fn established() -> Result<i64> {
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for entry in fs::read_dir("/proc").context("failed to read /proc")?.flatten() {
        let snmp = entry.path().join("net/snmp");
        // Not a process, or already gone.
        let Ok(data) = fs::metadata(&snmp) else { continue };
        if seen.insert(data.ino()) {
            total += read(&snmp).unwrap_or_default();
        }
    }
    Ok(total)
}

fn read(snmp: &Path) -> Option<i64> {
    curr_estab(&fs::read_to_string(snmp).ok()?)
}

/// The value below the name `CurrEstab` in the two `Tcp:` lines.
fn curr_estab(text: &str) -> Option<i64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let at = lines.next()?.split(' ').position(|name| name == "CurrEstab")?;
    lines.next()?.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_by_its_name() {
        let text =
            "Ip: A\nIp: 1\nTcp: RtoMax MaxConn CurrEstab InSegs\nTcp: 120 -1 7 9\nUdp: CurrEstab\nUdp: 3\n";
        assert_eq!(curr_estab(text), Some(7));
        assert_eq!(curr_estab("Tcp: RtoMax\nTcp: 120\n"), None);
        assert_eq!(curr_estab(""), None);
    }
}
