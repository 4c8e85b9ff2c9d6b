// SPDX-License-Identifier: MIT OR Apache-2.0
//! ZFS pools for a test, and ZFS's own counters.

use std::fs;
use std::path::PathBuf;
use std::sync::Once;

use crate::machine::{sh, undo};

/// The empty disks of a guest.
pub const DISKS: [&str; 2] = ["/dev/disk/by-id/virtio-spare-a", "/dev/disk/by-id/virtio-spare-b"];

/// A pool. It is destroyed when this is dropped.
#[derive(Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
}

impl Pool {
    /// Creates a pool of `vdevs`, as for `zpool create`, without compression and atime, so that the bytes
    /// written are those that are counted.
    ///
    /// # Panics
    /// When ZFS refuses.
    #[track_caller]
    pub fn create(name: &str, vdevs: &str) -> Self {
        // udev reads a disk's partition table again after every write to it. If the machine is slow, the
        // partitions vanish for a moment while they are being opened.
        static ALONE: Once = Once::new();
        ALONE.call_once(|| {
            sh("mkdir -p /run/udev/rules.d
                echo 'SUBSYSTEM==\"block\", ENV{ID_SERIAL}==\"spare-?\", OPTIONS+=\"nowatch\"' \
                > /run/udev/rules.d/99-spare.rules
                udevadm control --reload; udevadm trigger --subsystem-match=block; udevadm settle");
        });
        // A second attempt, in case udev was already handling an event.
        sh(&format!(
            "modprobe zfs; udevadm settle
            create() {{ zpool create -f -o ashift=12 -O compression=off -O atime=off -O recordsize=128k \
                -O mountpoint=/{name} {name} {vdevs}; }}
            create || {{ udevadm settle; create; }}; udevadm settle"
        ));
        Self { name: name.to_owned() }
    }

    /// Drops all data of the pool from the ARC, by export and import.
    ///
    /// # Panics
    /// When ZFS refuses.
    #[track_caller]
    pub fn forget(&self) {
        sh(&format!("zpool export {0}; zpool import -d /dev/disk/by-id -d /var/tmp {0}", self.name));
    }

    /// Writes all dirty data to disk.
    ///
    /// # Panics
    /// When ZFS refuses.
    #[track_caller]
    pub fn sync(&self) {
        sh(&format!("zpool sync {}", self.name));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        undo(&format!("zpool destroy -f {}", self.name));
    }
}

/// A number of `/proc/spl/kstat/zfs/NAME`; 0 if this ZFS version does not have it.
///
/// # Panics
/// When there is no such kstat.
#[track_caller]
pub fn kstat(name: &str, key: &str) -> f64 {
    let path = format!("/proc/spl/kstat/zfs/{name}");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
    line.and_then(|line| line.split_whitespace().last()?.parse().ok()).unwrap_or(0.0)
}

/// The kstat of a dataset, as `POOL/objset-0xID`, and the dataset's id.
///
/// # Panics
/// When there is no dataset with this name.
#[track_caller]
pub fn objset(pool: &str, dataset: &str) -> (String, u64) {
    let folder = PathBuf::from(format!("/proc/spl/kstat/zfs/{pool}"));
    for entry in fs::read_dir(&folder).expect("a pool's kstats").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix("objset-0x") else { continue };
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let of = text.lines().find(|line| line.starts_with("dataset_name "));
        if of.is_some_and(|line| line.split_whitespace().last() == Some(dataset)) {
            return (format!("{pool}/{name}"), u64::from_str_radix(id, 16).expect("hexadecimal"));
        }
    }
    panic!("no objset of {pool} is {dataset}")
}
