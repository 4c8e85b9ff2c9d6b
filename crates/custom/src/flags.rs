// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flags of this exporter, spelled as in ebpf_exporter.

use std::path::PathBuf;

use clap::Args;

/// Where configs are if no other folder is given.
pub const DIR: &str = "/etc/ebpf-exporters/custom";

/// Flags beside those that all exporters have.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// Folder with the configs: NAME.yaml and the object NAME.bpf.o.
    #[arg(long = "config.dir", value_name = "DIR", default_value = DIR)]
    pub dir: PathBuf,

    /// Configs to run, separated by commas. Default: all in the folder.
    #[arg(long = "config.names", value_name = "NAMES")]
    pub names: Option<String>,

    /// Exit with an error if a program is not attached or a config has a mistake.
    #[arg(long = "config.strict", overrides_with = "no_strict")]
    pub strict: bool,

    /// Same as --check.
    #[arg(id = "config.check", long = "config.check", hide = true, overrides_with = "no_check")]
    pub check: bool,

    /// Log libbpf's messages, and show the contents of maps at /maps.
    #[arg(long, overrides_with = "no_debug")]
    pub debug: bool,

    /// Leave the time out of log messages.
    #[arg(long = "log.no-timestamps", overrides_with = "timestamps")]
    pub no_timestamps: bool,

    /// Answer in OpenMetrics if the client prefers it. It spells some buckets differently: le="1.0"
    /// instead of le="1".
    #[arg(long = "web.openmetrics")]
    pub openmetrics: bool,

    /// Pages of memory for each perf event array and CPU; a power of two.
    #[arg(long = "custom.perf-pages", value_name = "N", default_value_t = 64, value_parser = pages)]
    pub perf_pages: usize,

    /// Accepted for ebpf_exporter's sake. The cache of label values is bounded by the maps.
    #[arg(long = "config.skip-cache-size", value_name = "N", hide = true)]
    pub skip_cache_size: Option<u64>,

    #[arg(long = "no-config.strict", hide = true, overrides_with = "strict")]
    no_strict: bool,
    #[arg(long = "no-config.check", hide = true, overrides_with = "config.check")]
    no_check: bool,
    #[arg(long = "no-debug", hide = true, overrides_with = "debug")]
    no_debug: bool,
    #[arg(long = "no-log.no-timestamps", hide = true, overrides_with = "no_timestamps")]
    timestamps: bool,
}

fn pages(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(pages) if pages.is_power_of_two() && pages <= 1 << 16 => Ok(pages),
        _ => Err("must be a power of two up to 65536".to_owned()),
    }
}
