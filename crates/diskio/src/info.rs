// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metrics that do not come from maps.

use common::exposition::metric::{Families, Labels, Value};
use common::read::decode::shown;

use crate::sysfs::Disk;

/// Adds the source of the numbers, and names of devices.
pub fn describe(disks: &[Disk], source: &str, families: &mut Families) {
    families.gauge(
        "ebpf_diskio_exporter_info",
        "Always 1. The labels give the exporter's version and the source of its numbers.",
        Labels::of(&[("version", env!("CARGO_PKG_VERSION")), ("source", source)]),
        Value::Integer(1),
    );
    for disk in disks {
        families.gauge(
            "ebpf_disk_device_info",
            "Always 1. The labels give other names of a block device: major:minor number, device mapper name and UUID, model.",
            Labels::of(&[
                ("device", &*shown(&disk.name)),
                ("number", &disk.number),
                ("dm_name", &disk.dm_name),
                ("dm_uuid", &disk.dm_uuid),
                ("model", &disk.model),
            ]),
            Value::Integer(1),
        );
    }
}
