// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this kernel preempts tasks, and where. The kernel's version number is not used for this.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::Decompress;
use flate2::read::ZlibDecoder;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Struct, Typedef};
use rustix::system::uname;

use crate::kernel::hook::Hook;
use crate::kernel::types::KERNEL_BTF;

/// Where the kernel preempts programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preemption {
    /// At functions.
    pub at_functions: bool,
    /// At tracepoints.
    pub at_tracepoints: bool,
    /// By interrupts: whether the kernel does not run a program that the interrupted task is in.
    pub by_interrupts: bool,
}

impl Preemption {
    /// Where tasks preempt programs, as the kernel says; `btf` replaces the kernel's own BTF. Without BTF,
    /// tracepoints are taken to be as functions are.
    pub fn of_programs(btf: Option<&Path>) -> Self {
        let preempts = of_tasks();
        let has_guard = || {
            Btf::from_path(btf.unwrap_or(Path::new(KERNEL_BTF)))
                .map_or(true, |btf| btf.type_by_name::<Typedef<'_>>(TRACEPOINT_GUARD).is_some())
        };
        Self { at_functions: preempts, at_tracepoints: preempts && has_guard(), by_interrupts: false }
    }

    /// Whether programs at this hook are preempted. `interrupted`: the hook is passed by tasks and, on
    /// the same CPU, by interrupts.
    pub fn at(self, hook: &Hook, interrupted: bool) -> bool {
        let interrupted = interrupted && self.by_interrupts;
        match hook {
            Hook::TpBtf(_) | Hook::RawTp(_) => self.at_tracepoints || interrupted,
            Hook::Fentry(_) | Hook::Fexit(_) => self.at_functions || interrupted,
            // Kprobes run programs with preemption disabled.
            _ => false,
        }
    }
}

impl From<bool> for Preemption {
    /// Everywhere or nowhere.
    fn from(preempts: bool) -> Self {
        Self { at_functions: preempts, at_tracepoints: preempts, by_interrupts: preempts }
    }
}

/// Whether a kernel with these types does not run a program where it is already running: such a kernel
/// counts who is in a program, per CPU (struct bpf_prog: `active`; ca06f55b9002 "bpf: Add per-program
/// recursion prevention mechanism", 5.12, for functions; 05b24ff9b2cf "bpf: Prevent bpf program
/// recursion for raw tracepoint probes", 6.1).
pub fn has_recursion_guard(btf: &Btf<'_>) -> bool {
    let program = btf.type_by_name::<Struct<'_>>("bpf_prog");
    program
        .is_some_and(|program| program.iter().any(|member| member.name.is_some_and(|name| name == "active")))
}

/// Whether the kernel preempts tasks inside the kernel, and so inside programs attached to
/// functions. Sources in order: debugfs, the command line, the build string of uname(2), the build
/// configuration. If the build string contains PREEMPT and no source names the preemption model, the
/// kernel is taken to preempt.
pub fn of_tasks() -> bool {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let models = read("/sys/kernel/debug/sched/preempt");
    let arguments = read("/proc/cmdline");
    let version = uname().version().to_string_lossy().into_owned();
    is_preemptible(&models, &arguments, &version, &config())
}

/// The kernel's build configuration: from the kernel itself if it was built with CONFIG_IKCONFIG_PROC,
/// else from where distributions install it. Empty if there is none.
fn config() -> String {
    let release = uname().release().to_string_lossy().into_owned();
    let files = [
        PathBuf::from("/proc/config.gz"),
        Path::new("/boot").join(format!("config-{release}")),
        Path::new("/lib/modules").join(release).join("config"),
    ];
    files.iter().find_map(|path| read_config(path).ok()).unwrap_or_default()
}

/// Size of zlib's window, as a power of two: the largest, which reads all.
const WINDOW_BITS: u8 = 15;

fn read_config(path: &Path) -> io::Result<String> {
    if path.extension().is_none_or(|extension| extension != "gz") {
        return fs::read_to_string(path);
    }
    let mut text = String::new();
    // flate2's own reader of gzip has a checksum with a table of 16 kB. zlib reads the format too.
    let format = Decompress::new_gzip(WINDOW_BITS);
    ZlibDecoder::new_with_decompress(File::open(path)?, format).read_to_string(&mut text)?;
    Ok(text)
}

fn is_preemptible(models: &str, arguments: &str, version: &str, config: &str) -> bool {
    let is_gentle = |model: &str| matches!(model, "none" | "voluntary");
    let in_force = models.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let told = arguments.split_whitespace().filter_map(|word| word.strip_prefix("preempt=")).next_back();
    if let Some(model) = in_force.map(|(model, _)| model).or(told) {
        return !is_gentle(model);
    }
    // `#1 SMP PREEMPT_DYNAMIC Debian 6.1.…` (init/Makefile: UTS_VERSION)
    if !version.contains("PREEMPT") {
        return false;
    }
    let has = |option: &str| config.lines().any(|line| line.strip_suffix("=y") == Some(option));
    !(has("CONFIG_PREEMPT_NONE") || has("CONFIG_PREEMPT_VOLUNTARY"))
}

/// The type that a kernel has if tracepoints leave preemption enabled while programs run. They
/// disabled it until they used SRCU-fast (a46023d5616e "tracing: Guard __DECLARE_TRACE() use of
/// __DO_TRACE_CALL() with SRCU-fast"). This is the type of that guard. It has no other users.
pub const TRACEPOINT_GUARD: &str = "class_srcu_fast_notrace_t";

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn a_configuration_is_read_compressed_or_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (plain, compressed) = (folder.path().join("config-6.1"), folder.path().join("config.gz"));
        fs::write(&plain, "CONFIG_PREEMPT=y\n").expect("written");
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(b"CONFIG_PREEMPT=y\n").expect("compressed");
        fs::write(&compressed, encoder.finish().expect("compressed")).expect("written");
        assert_eq!(read_config(&plain).expect("text"), read_config(&compressed).expect("text"));
        fs::write(&compressed, "no gzip").expect("written");
        assert!(read_config(&compressed).is_err());
        assert!(read_config(&folder.path().join("none")).is_err());
    }

    #[test]
    fn the_model_in_force_decides() {
        const DYNAMIC: &str = "#1 SMP PREEMPT_DYNAMIC Debian";
        let default = "CONFIG_PREEMPT_DYNAMIC=y\nCONFIG_PREEMPT_VOLUNTARY=y\n";
        assert!(is_preemptible("none voluntary full (lazy)\n", "preempt=none", "", ""));
        assert!(!is_preemptible("none (voluntary) full\n", "preempt=full", DYNAMIC, ""));
        assert!(is_preemptible("", "quiet preempt=full", DYNAMIC, default));
        assert!(!is_preemptible("", "preempt=full preempt=none", DYNAMIC, ""));
        assert!(!is_preemptible("", "", DYNAMIC, default));
        assert!(is_preemptible("", "", DYNAMIC, "CONFIG_PREEMPT_DYNAMIC=y\nCONFIG_PREEMPT_LAZY=y\n"));
        assert!(is_preemptible("", "", "#1 SMP PREEMPT_RT", ""));
        assert!(!is_preemptible("", "", "#1 SMP Debian 5.10", ""));
    }
}
