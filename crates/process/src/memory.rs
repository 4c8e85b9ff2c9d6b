// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory by process name, of what the iterator over all tasks wrote.

use std::collections::{BTreeMap, BTreeSet};

use common::exposition::metric::{Families, Labels, Value};
use common::read::cgroups::Paths;
use common::read::decode::{shown, until_nul};
use common::read::layout::number;

/// Bytes of a `struct process_memory`: a name, the id of a cgroup, the id of the process and a number of pages.
pub const RECORD: usize = 40;

/// The family.
pub const MEMORY: &str = "ebpf_process_memory_bytes";

/// Adds up the records that the iterator wrote, with `paths` by cgroup. A process may have several records, of
/// which one counts.
pub fn by_name(records: &[u8], page: u64, mut paths: Option<&mut Paths>, families: &mut Families) {
    let mut bytes: BTreeMap<Labels, u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for record in records.chunks_exact(RECORD) {
        let (name, numbers) = record.split_at(RECORD - 24);
        let [cgroup, id, pages] = [0, 8, 16].map(|at| number(&numbers[at..at + 8]));
        if !seen.insert(id) {
            continue;
        }
        let mut labels = Labels::of(&[("process", &*shown(&String::from_utf8_lossy(until_nul(name))))]);
        if let Some(paths) = &mut paths {
            labels.push("cgroup", &paths.path(cgroup));
        }
        *bytes.entry(labels).or_default() += pages * page;
    }
    if let Some(paths) = paths {
        paths.forget_unused();
    }
    for (labels, bytes) in bytes {
        families.gauge(
            MEMORY,
            "Resident memory by process name. Memory that several processes share counts for each of them; \
             all but the top --process.top names, with --process.cgroup pairs of name and cgroup, are in \"other\".",
            labels,
            Value::Integer(bytes),
        );
    }
}
