// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `make` calls: all logic of building, testing and packaging.

mod assemble;
mod guest;
mod lint;
mod phases;
mod release;
mod run;
mod scaffold;
mod test;
mod vmlinux;
mod workspace;
mod zfs_layout;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use assemble::{docs, pictures};
use guest::accel::Accel;
use release::{image, package};
use run::{bench, demo, fleet, shell, start};

/// Builds, tests and packages the exporters.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the static binaries into dist/bin.
    Build,
    /// Start every exporter that this kernel supports, until Ctrl-C.
    Run,
    /// Boot a guest in which everything is in use, and forward its ports to this machine.
    Demo {
        /// What runs the guest; by default KVM where a guest really starts with it.
        #[arg(long)]
        accel: Option<Accel>,
    },
    /// Check formatting, lints, scripts, units, rules and the rules of this tree.
    Lint,
    /// Run lint, unit tests, and live tests on this machine's own kernel.
    Test,
    /// Run tests that need neither root nor a guest.
    TestUnit,
    /// Run tests with generated inputs.
    Fuzz {
        /// How long each runs.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Run the live tests of all crates, or of some, on this machine's own kernel.
    TestLive {
        /// NAME of an exporter, or another folder in crates/; several with commas.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Only tests whose name contains this.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// Run the live tests of all crates, or of some, in guests.
    TestVm {
        /// NAME of an exporter, or another folder in crates/; several with commas.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// One guest, and all of it.
        #[arg(long)]
        guest: Option<String>,
        /// All guests, also those past their end of life, and all of each.
        #[arg(long, conflicts_with = "guest")]
        all: bool,
        /// Only tests whose name contains this.
        #[arg(long, default_value = "")]
        filter: String,
        /// What runs the guests; by default KVM where a guest really starts with it.
        #[arg(long)]
        accel: Option<Accel>,
    },
    /// Open a root shell in a guest with the package installed.
    Shell {
        /// Name of the guest.
        guest: String,
        /// A script to run there instead of a shell.
        #[arg(long)]
        script: Option<PathBuf>,
        /// A file that is then in /payload/files; several times for several.
        #[arg(long)]
        put: Vec<PathBuf>,
        /// What runs the guest; by default KVM where a guest really starts with it.
        #[arg(long)]
        accel: Option<Accel>,
    },
    /// Measure cost per event and per scrape on this machine.
    Bench {
        /// NAME of an exporter; several with commas.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Measure a Prometheus and a VictoriaMetrics that scrape many simulated hosts.
    FleetBench {
        /// Which servers.
        #[arg(long, value_enum, value_delimiter = ',', default_value = "classic,native,victoria")]
        servers: Vec<fleet::Kind>,
        /// Numbers of hosts.
        #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
        hosts: Vec<usize>,
        /// How long each is measured.
        #[arg(long, default_value_t = 180)]
        seconds: u64,
    },
    /// Print the layout of a ZFS module that has debug information, for --zfs.layout.
    ZfsLayout {
        /// zfs.ko, not stripped.
        module: PathBuf,
    },
    /// Build the Debian package into dist.
    Deb,
    /// Build the tarball.
    Tarball,
    /// Build a container image into dist; needs root and buildah.
    Image,
    /// Install what was built.
    Install {
        /// Folder that stands for the root folder.
        #[arg(long, default_value = "")]
        destdir: PathBuf,
        /// Folder below it.
        #[arg(long, default_value = "/usr")]
        prefix: PathBuf,
    },
    /// Write prometheus/prometheus.yml, the dashboards, METRICS.md, and what is generated in README.md and docs, from their parts.
    Assemble,
    /// Make a site of docs in target/book.
    Docs,
    /// Draw the rows of the dashboard into docs/pictures, from what a Prometheus has.
    Pictures {
        /// Its address; by default that of `make demo`.
        #[arg(long, default_value = "http://127.0.0.1:19090")]
        prometheus: String,
    },
    /// Write every piece of a new exporter.
    New {
        /// NAME: one lower-case word, or several with dashes.
        name: String,
        /// TCP port.
        port: u16,
    },
    /// Write bpf/vmlinux/ARCH/vmlinux.h from the BTF of a guest's kernel.
    Vmlinux {
        /// BTF of another kernel, raw or in an ELF file.
        #[arg(long, requires_all = ["kernel", "arch"])]
        btf: Option<PathBuf>,
        /// What that kernel is called, for the header's first line.
        #[arg(long)]
        kernel: Option<String>,
        /// Its architecture, as cargo spells it.
        #[arg(long)]
        arch: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Build => release::build(&release::revision(), &[]),
        Task::Run => start::run(),
        Task::Demo { accel } => demo::run(accel),
        Task::Lint => lint::run(),
        Task::Test => test::here(),
        Task::TestLive { only, filter } => test::live(&only, &filter),
        Task::TestUnit => test::unit(),
        Task::Fuzz { seconds } => test::fuzz(seconds),
        Task::TestVm { only, guest, all, filter, accel } => {
            test::vm(&test::Selection { only, guest, all, filter, accel })
        }
        Task::Shell { guest, script, put, accel } => shell::run(&guest, script.as_deref(), &put, accel),
        Task::Bench { only } => bench::run(&only),
        Task::FleetBench { servers, hosts, seconds } => fleet::run(&servers, &hosts, seconds),
        Task::ZfsLayout { module } => zfs_layout::print(&module),
        Task::Image => image::build().map(|path| println!("{}", path.display())),
        Task::Tarball => package::tarball().map(|path| println!("{}", path.display())),
        Task::Deb => package::deb().map(|path| println!("{}", path.display())),
        Task::Install { destdir, prefix } => package::install(&destdir, &prefix),
        Task::Assemble => assemble::assemble(),
        Task::Docs => docs::run_mdbook(),
        Task::Pictures { prometheus } => pictures::draw(&prometheus),
        Task::New { name, port } => scaffold::new(&name, port),
        Task::Vmlinux { btf: Some(btf), kernel, arch } => {
            vmlinux::generate(&btf, &kernel.unwrap_or_default(), &arch.unwrap_or_default())
        }
        Task::Vmlinux { .. } => vmlinux::from_guest(),
    }
}
