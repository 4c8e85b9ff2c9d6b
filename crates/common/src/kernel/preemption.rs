// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this kernel preempts tasks, and where. The kernel's version number is not used for this.

use std::fs;
use std::path::Path;

use rustix::system::uname;

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

/// The kernel's build configuration, from where distributions install it. Empty if it is not there.
fn config() -> String {
    let path = Path::new("/boot").join(format!("config-{}", uname().release().to_string_lossy()));
    fs::read_to_string(path).unwrap_or_default()
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
    use super::*;

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
