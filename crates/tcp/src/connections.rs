// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many connections there are: those of before, and what came and went since.

use anyhow::Result;
use common::engine::{Live, Reader};
use common::metric::{Families, Labels, Value};
use common::spec::View;
use common::view::why_not;

use crate::namespaces::established;

/// Connections that are there now.
#[derive(Default)]
pub struct Current {
    /// Those of before; less than none when a namespace went with some. None where namespaces may
    /// be hidden.
    before: Option<i64>,
}

impl Current {
    /// Looks at those that are there when programs have just been attached.
    ///
    /// # Errors
    /// When /proc or a map cannot be read.
    pub fn now(live: &Live) -> Result<Self> {
        let mut before = None;
        if why_not(View::Processes).is_some() {
            return Ok(Self { before });
        }
        // Until nothing happens while the files are read; more often than not the first time.
        for _ in 0..100 {
            let now = come_and_gone(live)?;
            before = Some(established()? - now);
            if come_and_gone(live)? == now {
                break;
            }
        }
        Ok(Self { before })
    }

    /// Adds how many there are, where that is known.
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

/// Connections that came since we look, less those that went.
fn come_and_gone(live: &Live) -> Result<i64> {
    Ok(live.total("counts", "established")? as i64 - live.total("counts", "left")? as i64)
}

/// Reads how many there are without programs.
pub fn reader() -> Reader {
    let mut warned = false;
    Box::new(move |families| {
        match why_not(View::Processes) {
            // Privileges that looked behind it may have been given up since.
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

/// Adds the gauge.
pub fn active(connections: i64, families: &mut Families) {
    families.gauge(
        "ebpf_tcp_active_connections",
        "TCP connections now in state ESTABLISHED or CLOSE_WAIT, in all network namespaces (CurrEstab).",
        Labels::none(),
        Value::Integer(connections.try_into().unwrap_or_default()),
    );
}
