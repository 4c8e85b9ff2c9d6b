// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own count of connections, over all network namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// `CurrEstab` of all network namespaces in which there is a process.
///
/// A process's `/proc/PID/net` shows its namespace to everyone, and each namespace's
/// files have inodes of their own: entering a namespace, or asking which one it is,
/// would need more privileges. One that has sockets and no process is not seen. It is for who
/// calls to know that no processes are hidden.
///
/// # Errors
/// When /proc cannot be read.
pub fn established() -> Result<i64> {
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for entry in fs::read_dir("/proc").context("failed to read /proc")?.flatten() {
        let snmp = entry.path().join("net/snmp");
        // No process, or one that is gone by now.
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

/// The number under the word `CurrEstab` of the two lines `Tcp:`.
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
