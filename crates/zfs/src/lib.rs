// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared by the ZFS exporters: struct layouts, kstats, and names of the pools and datasets that
//! exist.

pub mod kstat;
pub mod layout;
pub mod names;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use common::kernel::offsets::{Layout, Offsets};
use common::kernel::probes::Refused;
use libbpf_rs::OpenObject;

use names::Names;

pub use layout::MODULE;

/// Flags of every ZFS exporter.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// File with the layout of the ZFS module's structs, for a ZFS that has neither BTF nor a
    /// built-in layout. `cargo xtask zfs-layout` prints it.
    #[arg(long = "zfs.layout", value_name = "FILE")]
    pub layout: Option<PathBuf>,

    /// How long to keep the series of a pool or dataset after it is gone.
    #[arg(long = "zfs.grace", value_name = "DURATION", default_value = "5m", value_parser = common::process::cli::duration)]
    pub grace: Duration,
}

impl Default for Flags {
    fn default() -> Self {
        Self { layout: None, grace: Duration::from_secs(300) }
    }
}

impl Flags {
    /// An empty set of names.
    pub fn names(&self) -> Names {
        Names::new(self.grace, self.layout.is_none())
    }
}

/// The ZFS module of this machine.
#[derive(Debug, Default)]
pub struct Zfs {
    layout: Option<Layout>,
    /// Why there is no layout.
    unknown: String,
    /// Pools.
    pub pools: Names,
}

impl Zfs {
    /// Finds the layout.
    ///
    /// # Errors
    /// When the file that the user gave is not a layout of this machine's module.
    pub fn new(flags: &Flags) -> Result<Self> {
        let pools = flags.names();
        Ok(match layout::of_this_machine(flags.layout.as_deref()) {
            Ok(layout) => Self { layout: Some(layout), unknown: String::new(), pools },
            Err(error) if flags.layout.is_some() => return Err(error),
            Err(error) => Self { layout: None, unknown: format!("{error:#}"), pools },
        })
    }

    /// Those of `programs` that cannot be used: all of them if there is no layout, because they read
    /// the module's structs.
    pub fn unusable(&self, programs: &[&str]) -> Refused {
        let without = programs.iter().filter(|_| self.layout.is_none());
        without.map(|program| ((*program).to_owned(), self.unknown.clone())).collect()
    }

    /// Sets the member offsets in the programs of `object`.
    ///
    /// # Errors
    /// When the object has no place for it.
    pub fn configure(&self, object: &mut OpenObject) -> Result<()> {
        let layout = self.layout()?;
        common::kernel::offsets::set_offsets(object, |structure, member| {
            layout.as_ref().and_then(|layout| layout.offset(structure, member))
        })
    }

    /// The layout, if there is one.
    ///
    /// # Errors
    /// When BTF cannot be read.
    pub fn layout(&self) -> Result<Option<Offsets<'_>>> {
        self.layout.as_ref().map(Layout::open).transpose()
    }
}
