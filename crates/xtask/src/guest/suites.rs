// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guests that tests run in: adding one is adding a row.

use anyhow::{Context, Result};

/// A Debian release to boot, with a kernel of it and what that kernel is told.
#[derive(Debug)]
pub struct Suite {
    /// What it is called here, on the command line and in reports.
    pub name: &'static str,
    /// Debian's name of the release.
    pub release: &'static str,
    /// A further archive of the release, such as `backports`: kernel and ZFS come from there.
    pub archive: Option<&'static str>,
    /// Which of the release's kernels: the end of `linux-image-FLAVOUR`.
    pub flavour: &'static str,
    /// What its kernel is told beside what all are told, such as `preempt=full`.
    pub command_line: &'static str,
    /// Whether it has ZFS: not where that of its archive does not know the kernel there yet.
    pub zfs: bool,
    /// What it is about, for the head of a table.
    pub kernel: &'static str,
    /// What of it `make test-vm` runs.
    pub part: Part,
    /// How reasons begin for which it is known that tests are not run in this guest: any other test
    /// that is not run in a guest is a failure of the run.
    pub lacks: &'static [&'static str],
}

/// How reasons begin for which tests are not run in any guest: what they ask is asked on the machine itself.
pub const LACKED: [&str; 1] = ["needs a browser: "];

/// Which tests of a guest a run of all guests has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// Those of exporters of a kernel module: its kernel is between two others that run the rest.
    OfModules,
    /// Those of some crates.
    Only(&'static [&'static str]),
    /// None: it is run when it is named, and by `make test-all`.
    OnDemand,
}

/// Debian's kernel for virtual machines: few drivers, built and booted fast.
const CLOUD: &str = "cloud-amd64";

/// All guests, in the order in which they are run.
pub const SUITES: &[Suite] = &[
    Suite {
        name: "bookworm",
        release: "bookworm",
        archive: None,
        flavour: CLOUD,
        command_line: "",
        zfs: true,
        kernel: "6.1, ZFS 2.1",
        part: Part::Whole,
        lacks: &["needs fprobes: ", "needs a kernel with io_read_mshot: "],
    },
    Suite {
        name: "forky",
        release: "forky",
        archive: None,
        flavour: CLOUD,
        command_line: "",
        zfs: true,
        kernel: "7.2, ZFS 2.4",
        part: Part::Whole,
        lacks: &["needs storage of programs: "],
    },
    Suite {
        name: "trixie",
        release: "trixie",
        archive: None,
        flavour: CLOUD,
        command_line: "",
        zfs: true,
        kernel: "6.12, ZFS 2.3",
        part: Part::OfModules,
        lacks: &[],
    },
    Suite {
        name: "forky-preempt",
        release: "forky",
        archive: None,
        flavour: CLOUD,
        command_line: "preempt=full",
        zfs: true,
        kernel: "7.2, preempt=full",
        part: Part::Only(&["cachestat", "diskio", "memory", "syscall"]),
        lacks: &[],
    },
    // Programs can be preempted wherever they are, also in interrupts, which are threads there.
    Suite {
        name: "forky-rt",
        release: "forky",
        archive: None,
        flavour: "rt-amd64",
        command_line: "",
        zfs: false,
        kernel: "7.2, PREEMPT_RT",
        part: Part::OnDemand,
        lacks: &["needs module zfs: ", "needs storage of programs: "],
    },
    // A stable release with a kernel that is as new as they come; the ZFS of its archive, 2.4.4, takes
    // 7.2 at most.
    Suite {
        name: "trixie-backports",
        release: "trixie",
        archive: Some("backports"),
        flavour: CLOUD,
        command_line: "",
        zfs: false,
        kernel: "7.3",
        part: Part::OnDemand,
        lacks: &["needs module zfs: "],
    },
    // Past its end of life: its archive is no longer signed anew.
    Suite {
        name: "bullseye",
        release: "bullseye",
        archive: None,
        flavour: CLOUD,
        command_line: "",
        zfs: true,
        kernel: "5.10, ZFS 2.0",
        part: Part::OnDemand,
        lacks: &[
            "needs a kernel that tells what a program is attached to",
            "needs fentry twice: ",
            "needs /usr/share/containers/seccomp.json: ",
            "needs fprobes: ",
            "needs a kernel with bpf_loop: ",
            "needs a kernel with bloom_map_alloc: ",
            "needs a kernel with io_read_mshot: ",
            "needs a kernel with bpf_get_attach_cookie_pe: ",
            // draid is in ZFS since 2.1.
            "needs /sys/module/zfs/features.pool/org.openzfs:draid: ",
        ],
    },
];

/// The row of that name.
///
/// # Errors
/// When there is none; names those that there are.
pub fn suite(name: &str) -> Result<&'static Suite> {
    let names = || SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().join(", ");
    SUITES
        .iter()
        .find(|suite| suite.name == name)
        .with_context(|| format!("no guest is called {name:?}; there are: {}", names()))
}

impl Suite {
    /// Whether docs/kernel-support.md has a column of it: all exporters run there.
    pub fn is_recorded(&self) -> bool {
        self.zfs && !matches!(self.part, Part::Only(_))
    }

    /// Packages of the lower layer of its image: a system that boots, and ZFS, which is compiled.
    pub fn base_packages(&self) -> Vec<String> {
        let mut packages: Vec<String> =
            ["kmod", "systemd", "systemd-sysv", "udev"].iter().map(ToString::to_string).collect();
        packages.extend(["image", "headers"].map(|part| format!("linux-{part}-{}", self.flavour)));
        if self.zfs {
            packages.extend(["zfs-dkms", "zfsutils-linux"].map(ToString::to_string));
        }
        packages
    }
}

/// Packages of the upper layer: what tests drive the kernel's subsystems with.
pub const PACKAGES: &[&str] = &[
    "bind9-dnsutils",
    "ca-certificates",
    "curl",
    "dbus",
    "dmsetup",
    "dnsmasq-base",
    "e2fsprogs",
    "iproute2",
    "jq",
    "podman",
    "procps",
    "prometheus",
    "prometheus-node-exporter",
    "wireguard-tools",
];

/// Size of the root file system; sparse.
pub const ROOT_SIZE: &str = "6G";

/// Size of each empty disk that a guest has beside its root; sparse.
pub const DISK_BYTES: u64 = 1 << 30;

/// Serial numbers of those disks: `/dev/disk/by-id/virtio-NAME`.
pub const DISKS: &[&str] = &["spare-a", "spare-b", "spare-c", "spare-d", "spare-e", "spare-f"];

/// Size of the disk with the payload; sparse. A guest whose state is kept has seen its size.
pub const PAYLOAD_BYTES: u64 = 2 << 30;

/// Memory of a guest, in MiB.
pub const MEMORY_MIB: u32 = 3072;

/// Takes commands from the host, once the guest is up.
pub const SERVICE: &str = "\
[Unit]
Description=Run what the host asks for
After=multi-user.target
[Service]
Type=exec
ExecStart=/usr/local/sbin/guest-run
StandardOutput=journal+console
[Install]
WantedBy=multi-user.target
";

/// The other end of [`super::machine::Machine`]: a command a line comes in; what it prints goes out,
/// and lines that start with `guest:` are ours.
pub const SCRIPT: &str = "\
#!/bin/sh
exec 3<> /dev/virtio-ports/control
udevadm settle
echo 'guest: up' >&3
while read -r line <&3; do
	sh -c \"$line\" >&3 2>&1 3>&- < /dev/null
	echo \"guest: exit $?\" >&3
done
";
