// SPDX-License-Identifier: MIT OR Apache-2.0
//! Block devices with known behaviour, exact I/O on them, and `/proc/diskstats`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::machine::{Folder, has_module, sh, udev_settles, undo, wait_until};

/// A block device. One that was made for a test is removed when this is dropped.
#[derive(Debug)]
pub struct Device {
    /// The kernel's name for it.
    pub name: String,
    remove: String,
}

impl Device {
    /// A device that the machine already has.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), remove: ":".to_owned() }
    }

    /// Path of its device node.
    pub fn path(&self) -> PathBuf {
        format!("/dev/{}", self.name).into()
    }

    /// Major and minor number, as `8:0`.
    pub fn number(&self) -> String {
        sh(&format!("cat /sys/block/{}/dev", self.name))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        undo(&self.remove);
    }
}

/// A null_blk device of 64 MiB that completes each request after `delay_ns`.
///
/// # Panics
/// When the kernel cannot create it.
#[track_caller]
pub fn null_blk(delay_ns: u64, scheduler: &str) -> Device {
    // The lowest free number, so that a device that is made again has the same name.
    let folder = (0..).map(|n| format!("/sys/kernel/config/nullb/nulltest{n}"));
    let folder = folder.into_iter().find(|path| !Path::new(path).exists()).expect("one is free");
    // irqmode 2: a timer completes requests; queue_mode 2: multi-queue.
    sh(&format!(
        "modprobe null_blk nr_devices=0
         mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
         mkdir {folder}; cd {folder}
         echo 64 > size; echo 2 > queue_mode; echo 2 > irqmode; echo {delay_ns} > completion_nsec
         echo 1 > power"
    ));
    // Linux 6.x names the device after the folder; older kernels name it nullbN.
    let name = sh(&format!(
        "cd {folder}; basename $(ls -d /sys/block/${{PWD##*/}} /sys/block/nullb$(cat index) 2> /dev/null)"
    ));
    udev_settles();
    sh(&format!("echo {scheduler} > /sys/block/{name}/queue/scheduler"));
    Device { name, remove: format!("echo 0 > {folder}/power; rmdir {folder}") }
}

/// A loop device of 64 MiB on a file in memory, with a write cache and discards.
///
/// # Panics
/// When the kernel cannot create it.
#[track_caller]
pub fn memory_loop() -> Device {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file in memory");
    file.as_file().set_len(64 << 20).expect("it grows");
    loop_on(file.path())
}

/// A loop device on a file, which the caller may then remove.
///
/// # Panics
/// When the kernel cannot create it.
#[track_caller]
pub fn loop_on(file: &Path) -> Device {
    let node = sh(&format!("losetup --find --show {}", file.display()));
    let name = node.strip_prefix("/dev/").expect("a device").to_owned();
    let device = Device { remove: format!("losetup --detach {node}"), name };
    udev_settles();
    sh(&format!("echo none > /sys/block/{}/queue/scheduler", device.name));
    device
}

/// A disk whose writes wait until [`Frozen::thaw`]: it is on a file system that is frozen.
#[derive(Debug)]
pub struct Frozen {
    /// A loop device on a file in that file system.
    pub device: Device,
    mount: Mount,
}

/// A file system on a disk in memory; unmounted when this is dropped.
#[derive(Debug)]
struct Mount {
    folder: Folder,
    _disk: Device,
}

impl Frozen {
    /// Creates it with 32 MiB.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn new() -> Self {
        let (folder, disk) = (Folder::new(), memory_loop());
        let at = folder.path("");
        sh(&format!("mkfs.ext4 -q {0}; mount {0} {at}", disk.path().display()));
        let mount = Mount { folder, _disk: disk };
        let file = mount.folder.path("file");
        sh(&format!("dd if=/dev/zero of={file} bs=1M count=32 conv=fsync status=none"));
        let device = loop_on(Path::new(&file));
        sh(&format!("fsfreeze --freeze {at}"));
        Self { device, mount }
    }

    /// The path of a file in that file system.
    pub fn path(&self, name: &str) -> String {
        self.mount.folder.path(name)
    }

    /// Stops all writes.
    ///
    /// # Panics
    /// When it is already frozen.
    #[track_caller]
    pub fn freeze(&self) {
        sh(&format!("fsfreeze --freeze {}", self.path("")));
    }

    /// Lets writes continue.
    pub fn thaw(&self) {
        // It may not be frozen.
        let _ = std::process::Command::new("fsfreeze").args(["--unfreeze", &self.path("")]).output();
    }
}

impl Default for Frozen {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
    }
}

/// Thaws a disk when this is dropped, also when a test fails.
#[derive(Debug)]
pub struct Thaw<'d>(pub &'d Frozen);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        undo(&format!("umount {}", self.folder.path("")));
    }
}

/// A fast disk of 64 MiB without a scheduler: null_blk where the kernel has it, else a loop device
/// in memory.
///
/// # Panics
/// When the kernel cannot create it.
#[track_caller]
pub fn fast() -> Device {
    if has_module("null_blk") { null_blk(10_000, "none") } else { memory_loop() }
}

/// The disk that holds a folder, by its name in /proc/diskstats; `None` if the folder is in memory, on
/// several disks, or on the network.
pub fn below(folder: &Path) -> Option<String> {
    let number = fs::metadata(folder).ok()?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let node = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // The folder of a partition is in that of its disk.
    let disk = if node.join("partition").exists() { node.parent()? } else { &node };
    let name = disk.file_name()?.to_str()?.to_owned();
    Diskstats::find(&name).map(|_| name)
}

/// A simulated SCSI disk of 64 MiB. `options` are those of the module scsi_debug.
///
/// # Panics
/// When the kernel cannot create it.
#[track_caller]
pub fn scsi_debug(options: &str) -> Device {
    sh(&format!("modprobe scsi_debug dev_size_mb=64 {options}"));
    // The kernel looks for SCSI disks and reads their partitions asynchronously. udev is told when a disk
    // is ready.
    let mut name = String::new();
    wait_until("the disk is ready", Duration::from_secs(60), || {
        name = sh("ls /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block 2> /dev/null || :");
        let number = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap_or_default();
        !name.is_empty() && Path::new(&format!("/run/udev/data/b{}", number.trim())).exists()
    });
    udev_settles();
    Device { name, remove: "rmmod scsi_debug".to_owned() }
}

/// A device mapper device `name`. `table` is the table's line after start and length.
///
/// # Panics
/// When the kernel cannot create it.
#[track_caller]
pub fn device_mapper(name: &str, table: &str) -> Device {
    sh(&format!("dmsetup create {name} --table '0 65536 {table}'"));
    udev_settles();
    let node = sh(&format!("basename $(readlink -f /dev/mapper/{name})"));
    Device { name: node, remove: format!("dmsetup remove --retry {name}") }
}

/// A buffer that is aligned for direct I/O.
#[repr(align(4096))]
struct Aligned([u8; 1 << 20]);

fn open(device: &Device, flags: rustix::fs::OFlags) -> File {
    let flags = flags.bits() as i32;
    let path = device.path();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
    opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Makes `count` direct reads of `bytes` each, one after the other. Returns how many failed.
pub fn direct_reads(device: &Device, count: u64, bytes: usize) -> u64 {
    let file = open(device, rustix::fs::OFlags::DIRECT);
    let mut buffer = Box::new(Aligned([0; 1 << 20]));
    let mut failed = |n: &u64| file.read_exact_at(&mut buffer.0[..bytes], n * bytes as u64).is_err();
    (0..count).filter(|n| failed(n)).count() as u64
}

/// Makes `count` direct writes of `bytes` each, one after the other.
///
/// # Panics
/// When one fails.
pub fn direct_writes(device: &Device, count: u64, bytes: usize) {
    let file = open(device, rustix::fs::OFlags::DIRECT);
    let buffer = Box::new(Aligned([7; 1 << 20]));
    for n in 0..count {
        file.write_all_at(&buffer.0[..bytes], n * bytes as u64).expect("written");
    }
}

/// Makes `count` direct reads or writes of `bytes` each, one after the other. Returns how long each
/// call took.
///
/// # Panics
/// When one fails.
pub fn direct_latencies(device: &Device, write: bool, count: u64, bytes: usize) -> Vec<Duration> {
    let file = open(device, rustix::fs::OFlags::DIRECT);
    let mut buffer = Box::new(Aligned([7; 1 << 20]));
    let once = |n| {
        let (buffer, position) = (&mut buffer.0[..bytes], n * bytes as u64);
        let start = Instant::now();
        if write { file.write_all_at(buffer, position) } else { file.read_exact_at(buffer, position) }
            .expect("done");
        start.elapsed()
    };
    (0..count).map(once).collect()
}

/// Writes a page and flushes the device's cache, `count` times.
///
/// # Panics
/// When one fails.
pub fn writes_with_flush(device: &Device, count: u64) {
    let file = open(device, rustix::fs::OFlags::DIRECT);
    let buffer = Box::new(Aligned([7; 1 << 20]));
    for n in 0..count {
        file.write_all_at(&buffer.0[..4096], n * 4096).expect("written");
        file.sync_data().expect("flushed");
    }
}

/// Makes `count` writes of `bytes` each that return once the data is on the medium (O_DSYNC).
///
/// # Panics
/// When one fails.
pub fn synchronous_writes(device: &Device, count: u64, bytes: usize) {
    let file = open(device, rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC);
    let buffer = Box::new(Aligned([7; 1 << 20]));
    for n in 0..count {
        file.write_all_at(&buffer.0[..bytes], n * bytes as u64).expect("written");
    }
}

/// A line of `/proc/diskstats`; the kernel's admin-guide/iostats describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's names")]
pub struct Diskstats {
    pub reads: u64,
    pub read_sectors: u64,
    pub read_ms: u64,
    pub writes: u64,
    pub write_sectors: u64,
    pub write_ms: u64,
    pub in_flight: u64,
    pub discards: u64,
    pub discard_sectors: u64,
    pub flushes: u64,
}

impl Diskstats {
    /// The current counters of a device.
    ///
    /// # Panics
    /// When there is no such device.
    #[track_caller]
    pub fn of(name: &str) -> Self {
        Self::find(name).expect("a line for the device")
    }

    fn find(name: &str) -> Option<Self> {
        let text = fs::read_to_string("/proc/diskstats").ok()?;
        let line = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let fields = line.into_iter().find(|fields| fields[2] == name)?;
        let number = |at: usize| fields.get(at).map_or(0, |field| field.parse().expect("a number"));
        Some(Self {
            reads: number(3),
            read_sectors: number(5),
            read_ms: number(6),
            writes: number(7),
            write_sectors: number(9),
            write_ms: number(10),
            in_flight: number(11),
            discards: number(14),
            discard_sectors: number(16),
            flushes: number(18),
        })
    }

    /// The increase since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            read_sectors: self.read_sectors - before.read_sectors,
            read_ms: self.read_ms - before.read_ms,
            writes: self.writes - before.writes,
            write_sectors: self.write_sectors - before.write_sectors,
            write_ms: self.write_ms - before.write_ms,
            in_flight: self.in_flight,
            discards: self.discards - before.discards,
            discard_sectors: self.discard_sectors - before.discard_sectors,
            flushes: self.flushes - before.flushes,
        }
    }
}
