// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queries without an answer.

use anyhow::{Context, Result};
use common::kernel::facts::monotonic_ns;
use common::read::layout::number;
use common::read::live::Live;
use common::read::maps::MapSource;

const OUTSTANDING: &str = "outstanding";

/// Removes queries that were last sent more than `timeout_ns` ago. Returns how many clients had sent,
/// and how many local resolvers.
///
/// # Errors
/// When the map cannot be read or changed.
pub fn expired(live: &Live, timeout_ns: u64) -> Result<[u64; 2]> {
    let layout = live.layouts.get(OUTSTANDING).context("no map of questions")?;
    let (last, upstream) = (layout.value.field("last")?, layout.value.field("upstream")?);
    let now = monotonic_ns();
    let is_late = |value: &[u8]| now.saturating_sub(number(last.bytes(value))) > timeout_ns;
    let mut late = Vec::new();
    live.maps.for_each(OUTSTANDING, &mut |key, value| {
        if is_late(value) {
            late.push(key.to_vec());
        }
    })?;
    let mut expired = [0; 2];
    for key in late {
        // Meanwhile an answer may have removed it, or another query taken its port and ID.
        let Some(value) = live.maps.lookup(OUTSTANDING, &key)?.filter(|value| is_late(value)) else {
            continue;
        };
        if live.maps.delete(OUTSTANDING, &key)? {
            expired[usize::from(number(upstream.bytes(&value)) != 0)] += 1;
        }
    }
    Ok(expired)
}

/// Queries without an answer, of clients and of local resolvers: those that timed out by now, and those before
/// whose answer the asker used their port and ID again.
///
/// # Errors
/// When the map cannot be read.
pub fn unanswered(live: &Live, timed_out: [u64; 2]) -> Result<[u64; 2]> {
    let [lookups, upstream] = timed_out;
    Ok([lookups + live.total("counts", "replaced")?, upstream + live.total("counts", "upstream_replaced")?])
}
