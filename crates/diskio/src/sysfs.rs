// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block devices in `/sys/block`.

use std::fs;
use std::path::Path;

/// A whole disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Name, as in the kernel's `disk_name`.
    pub name: String,
    /// Major and minor, `8:0`.
    pub number: String,
    /// Size in sectors; 0 for an unused loop device or an empty drive.
    pub size: u64,
    /// Whether its driver is request-based, not bio-based.
    pub takes_requests: bool,
    /// Name of a device mapper device, or empty.
    pub dm_name: String,
    /// UUID of a device mapper device, or empty.
    pub dm_uuid: String,
    /// Model name that the drive reports, or empty.
    pub model: String,
}

/// All disks; none if sysfs is not mounted.
pub fn disks() -> Vec<Disk> {
    disks_in(Path::new("/sys/block"))
}

fn disks_in(folder: &Path) -> Vec<Disk> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut disks: Vec<Disk> = entries
        .map(|entry| {
            let path = entry.path();
            Disk {
                // In sysfs, `!` stands for the slash of names such as cciss/c0d0.
                name: entry.file_name().to_string_lossy().replace('!', "/"),
                number: line(&path.join("dev")),
                size: line(&path.join("size")).parse().unwrap_or(0),
                takes_requests: path.join("mq").is_dir(),
                dm_name: line(&path.join("dm/name")),
                dm_uuid: line(&path.join("dm/uuid")),
                model: line(&path.join("device/model")),
            }
        })
        .collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

/// Bytes read, written and discarded since the disk appeared, as in /proc/diskstats
/// (Documentation/admin-guide/iostats.rst); None if the disk is gone.
pub fn bytes(disk: &Disk) -> Option<[u64; 3]> {
    let folder = Path::new("/sys/block").join(disk.name.replace('/', "!"));
    bytes_of(&line(&folder.join("stat")))
}

/// The kernel counts sectors of 512 bytes, whatever the disk's sector size. Kernels before 4.18 do not
/// report discards.
fn bytes_of(stat: &str) -> Option<[u64; 3]> {
    let fields: Vec<u64> = stat.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some([2, 6, 13].map(|at| fields.get(at).copied().unwrap_or_default() * 512)).filter(|_| fields.len() > 6)
}

/// Number of requests of all disks: tags of each hardware queue, and those of the scheduler.
pub fn requests() -> u32 {
    requests_in(Path::new("/sys/block"))
}

fn requests_in(folder: &Path) -> u32 {
    let mut requests = 0u32;
    for disk in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = disk.path();
        let scheduled: u32 = line(&path.join("queue/nr_requests")).parse().unwrap_or(0);
        for queue in fs::read_dir(path.join("mq")).into_iter().flatten().flatten() {
            let tags: u32 = line(&queue.path().join("nr_tags")).parse().unwrap_or(0);
            requests = requests.saturating_add(tags).saturating_add(scheduled);
        }
    }
    requests
}

/// The trimmed contents of a file; empty if it does not exist.
fn line(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("has a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        folder
    }

    #[test]
    fn names_are_the_kernels_own() {
        let tree = tree(&[
            ("cciss!c0d0/dev", "104:0\n"),
            ("cciss!c0d0/size", "2048\n"),
            ("cciss!c0d0/mq/0/nr_tags", "64\n"),
            ("dm-0/dm/name", "vg-root\n"),
        ]);
        let disks = disks_in(tree.path());
        assert_eq!(disks[0].name, "cciss/c0d0");
        assert_eq!((disks[0].number.as_str(), disks[0].size, disks[0].takes_requests), ("104:0", 2048, true));
        assert_eq!((disks[1].dm_name.as_str(), disks[1].takes_requests), ("vg-root", false));
    }

    #[test]
    fn bytes_are_those_of_diskstats() {
        let stat = "    7   0   16   1   9   0   32   2   0   3   3   4   0   64   5   6   7";
        assert_eq!(bytes_of(stat), Some([8192, 16384, 32768]));
        assert_eq!(bytes_of(""), None);
        assert_eq!(bytes_of("1 2 x"), None);
    }

    #[test]
    fn requests_are_counted_over_all_queues() {
        let tree = tree(&[
            ("a/mq/0/nr_tags", "64"),
            ("a/mq/1/nr_tags", "64"),
            ("a/queue/nr_requests", "256"),
            ("dm-0/queue/nr_requests", "128"),
        ]);
        assert_eq!(requests_in(tree.path()), 640);
        assert_eq!(requests_in(Path::new("/nonexistent")), 0);
    }
}
