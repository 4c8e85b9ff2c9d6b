// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guests that tests run in: adding one is adding a row.

/// A Debian release to boot.
#[derive(Debug)]
pub struct Suite {
    /// Debian's name of it.
    pub name: &'static str,
    /// What it is about, for the head of a table.
    pub kernel: &'static str,
    /// Whether its kernel is between two others: then what depends on no module runs on those
    /// two, when all guests are run.
    pub is_between: bool,
    /// What else mmdebstrap has to be told.
    pub mmdebstrap: &'static [&'static str],
}

/// All guests, in the order in which they are run.
pub const SUITES: &[Suite] = &[
    Suite { name: "bookworm", kernel: "6.1, ZFS 2.1", is_between: true, mmdebstrap: &[] },
    Suite { name: "trixie", kernel: "6.12, ZFS 2.3", is_between: false, mmdebstrap: &[] },
    // Its archive is no longer signed anew.
    Suite {
        name: "bullseye",
        kernel: "5.10, ZFS 2.0",
        is_between: false,
        mmdebstrap: &["--aptopt=Acquire::Check-Valid-Until \"false\""],
    },
];

/// What every guest has: a kernel with ZFS, and what tests drive its subsystems with.
pub const PACKAGES: &[&str] = &[
    "bind9-dnsutils",
    "ca-certificates",
    "curl",
    "dbus",
    "dmsetup",
    "dnsmasq-base",
    "iproute2",
    "kmod",
    "linux-headers-cloud-amd64",
    "linux-image-cloud-amd64",
    "procps",
    "prometheus",
    "prometheus-node-exporter",
    "systemd",
    "systemd-sysv",
    "udev",
    "wireguard-tools",
    "zfs-dkms",
    "zfsutils-linux",
];

/// Debian's archive.
pub const MIRROR: &str = "http://deb.debian.org/debian";

/// Size of the root file system; sparse.
pub const ROOT_SIZE: &str = "6G";

/// Size of each empty disk that a guest has beside its root; sparse.
pub const DISK_BYTES: u64 = 1 << 30;

/// Serial numbers of those disks: `/dev/disk/by-id/virtio-NAME`.
pub const DISKS: &[&str] = &["spare-a", "spare-b"];

/// Memory of a guest, in MiB.
pub const MEMORY_MIB: u32 = 3072;

/// Runs what the payload disk holds, once the guest is up.
pub const SERVICE: &str = "\
[Unit]
Description=Run the payload and power off
After=multi-user.target
[Service]
Type=exec
ExecStart=/usr/local/sbin/guest-run
StandardOutput=journal+console
[Install]
WantedBy=multi-user.target
";

/// The other end of [`super::run`]: lines that start with `guest:` are for it.
pub const SCRIPT: &str = "\
#!/bin/sh
out=/dev/virtio-ports/out
udevadm settle
echo 'guest: up' > $out
mkdir -p /payload
mount -o ro /dev/disk/by-id/virtio-payload /payload
/payload/run > $out 2>&1 < /dev/null
echo \"guest: exit $?\" > $out
poweroff -ff
";
