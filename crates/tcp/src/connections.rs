// SPDX-License-Identifier: MIT OR Apache-2.0
//! Number of connections: those at the start, plus those established and minus those closed since.

use anyhow::Result;
use common::exposition::metric::{Families, Labels, Value};
use common::kernel::view::why_not;
use common::read::live::Live;
use common::read::part::Reader;
use common::spec::View;

use crate::namespaces::established;

/// Programs that tasks run with interrupts on: the kernel would skip them for a segment that arrives meanwhile.
/// The gauge of connections is a difference, and a lost event would stay in it.
pub const INTERRUPTED: [&str; 9] = [
    "state_btf",
    "state_raw",
    "connect_state_btf",
    "retransmit_btf",
    "retransmit_raw",
    "receive_reset_btf",
    "receive_reset_raw",
    "send_reset_btf",
    "send_reset_raw",
];

/// Programs that count connections opened, best first.
pub const OPENED: [&str; 3] =
    ["connect_fentry+connect_fexit", "connect_kprobe+connect_kretprobe", "connect_state_btf"];

/// Current connections.
#[derive(Default)]
pub struct Current {
    /// Connections established before attaching. Negative if a network namespace was removed with
    /// connections in it. None if namespaces may be hidden.
    before: Option<i64>,
}

impl Current {
    /// Counts the connections that exist right after attaching.
    ///
    /// # Errors
    /// When /proc or a map cannot be read.
    pub fn now(live: &Live) -> Result<Self> {
        let mut before = None;
        if why_not(View::Processes).is_some() {
            return Ok(Self { before });
        }
        // Repeat until nothing changes while the files are read. Usually once is enough.
        for _ in 0..100 {
            let now = come_and_gone(live)?;
            before = Some(established()? - now);
            if come_and_gone(live)? == now {
                break;
            }
        }
        Ok(Self { before })
    }

    /// Adds the gauge, if the number is known.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn show(&self, live: &Live, families: &mut Families) -> Result<()> {
        if let Some(before) = self.before {
            active(before + come_and_gone(live)?, families);
        }
        Ok(())
    }
}

/// Connections established since attaching, minus those closed since.
fn come_and_gone(live: &Live) -> Result<i64> {
    Ok(live.total("counts", "established")? as i64 - live.total("counts", "left")? as i64)
}

/// Reads the number of connections from /proc, without eBPF programs.
pub fn reader() -> Reader {
    let mut warned = false;
    Box::new(move |families| {
        match why_not(View::Processes) {
            // The exporter may have dropped the privileges to see hidden processes.
            Some(why) if !warned => {
                log::warn!("cannot count connections: {why}");
                warned = true;
            }
            Some(_) => {}
            None => active(established()?, families),
        }
        Ok(())
    })
}

/// Adds the gauge. A number below 0 is wrong: events were lost, which the exporter counts.
pub fn active(connections: i64, families: &mut Families) {
    let Ok(connections) = u64::try_from(connections) else { return };
    families.gauge(
        "ebpf_tcp_active_connections",
        "TCP connections now in state ESTABLISHED or CLOSE_WAIT, in all network namespaces (CurrEstab).",
        Labels::none(),
        Value::Integer(connections),
    );
}
